//! Golden pairs: `NAME.in.yaml` gives `NAME.out.yaml` and `NAME.diagnostics.txt`.

mod common;

use std::path::Path;

use understudy_controller::{Options, Report, Source, check};

#[test]
fn every_manifest_gives_its_golden_state_and_diagnostics() {
    for input in common::files("tests/golden", ".in.yaml") {
        let report = common::check_file(&input);
        assert_golden(&input, &report);
    }
}

#[test]
fn where_backends_are_switched_off_references_to_them_are_answered_500() {
    for input in common::files("tests/golden/off", ".in.yaml") {
        let options = Options { backend_api: false, ..Options::default() };
        let report = check(&[Source::Path(input.clone())], &options);
        assert_eq!(report.state.validate_references(), Ok(()));
        assert_golden(&input, &report);
    }
}

fn assert_golden(input: &Path, report: &Report) {
    let name = input.to_string_lossy().replace(".in.yaml", "");
    common::assert_golden(format!("{name}.out.yaml").as_ref(), &common::state_yaml(&report.state));
    common::assert_golden(format!("{name}.diagnostics.txt").as_ref(), &common::lines(&report.diagnostics));
}
