//! What the fuzz target `translate_yaml` does with its input.
//!
//! Purpose: translate manifests that anybody may have written. Inputs: any bytes. Outputs: none; it panics where
//! a state refers to what it does not hold, or where the same manifests give another state.

use understudy_controller::{Options, check_text};

/// Takes the input for a manifest.
pub fn translate_yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let options = Options::default();
    let report = check_text(text.to_owned(), &options);
    assert_eq!(report.state.validate_references(), Ok(()));
    for diagnostic in &report.diagnostics {
        assert!(!diagnostic.to_string().is_empty());
    }
    let again = check_text(text.to_owned(), &options);
    assert_eq!(report.state, again.state);
    assert_eq!(report.diagnostics, again.diagnostics);
}
