//! A table of wrong manifests: `wrong/NAME.yaml` gives `wrong/NAME.txt`.
//!
//! Each is read beside `wrong/base.yaml`. Every message names file, line, object, field and a way out, nothing
//! panics, and what the base asks for is served as if the wrong manifest were not there.

mod common;

use std::path::Path;

use understudy_controller::{Diagnostic, Options, Reason, Severity, Source, check};

#[test]
fn every_wrong_manifest_is_answered_with_file_object_field_and_remedy() {
    let base = Path::new("tests/wrong/base.yaml");
    let alone = common::check_file(base);
    assert_eq!(alone.diagnostics, [], "{}", common::lines(&alone.diagnostics));
    let files = common::files("tests/wrong", ".yaml");
    assert!(files.len() > 60, "{}", files.len());
    for path in files.iter().filter(|path| *path != base) {
        let sources = [Source::Path(base.to_owned()), Source::Path(path.clone())];
        let report = check(&sources, &Options::default());
        let text = common::lines(&report.diagnostics);
        assert!(report.has_errors(), "{} is found right:\n{text}", path.display());
        for diagnostic in report.diagnostics.iter().filter(|d| d.severity != Severity::Info) {
            assert_complete(diagnostic, path);
        }
        // What was served goes on.
        for (name, route) in &alone.state.routes {
            assert_eq!(report.state.routes.get(name), Some(route), "{}", path.display());
        }
        for (name, pool) in &alone.state.pools {
            assert_eq!(report.state.pools.get(name), Some(pool), "{}", path.display());
        }
        for (name, backend) in &alone.state.backends {
            assert_eq!(report.state.backends.get(name), Some(backend), "{}", path.display());
        }
        assert_eq!(report.state.validate_references(), Ok(()), "{}", path.display());
        common::assert_golden(&path.with_extension("txt"), &text);
    }
}

fn assert_complete(diagnostic: &Diagnostic, path: &Path) {
    assert_eq!(diagnostic.file.as_deref(), path.to_str(), "{diagnostic}");
    assert!(diagnostic.line.is_some(), "{diagnostic}");
    assert!(!diagnostic.message.is_empty() && !diagnostic.message.ends_with('.'), "{diagnostic}");
    assert!(diagnostic.remedy.ends_with(['.', '?']), "{diagnostic}");
    // A text that is no YAML, or no object, has neither object nor field.
    let no_object = matches!(diagnostic.reason, Reason::Syntax)
        || diagnostic.message == "the document is no Kubernetes object";
    if !no_object {
        assert!(diagnostic.object.is_some(), "{diagnostic}");
        let whole = matches!(diagnostic.reason, Reason::Duplicate);
        assert!(whole || diagnostic.field.is_some(), "{diagnostic}");
    }
}

#[test]
fn a_file_full_of_mistakes_is_answered_with_a_bounded_list() {
    let fields: String = (0..5000).map(|number| format!("  field{number}: x\n")).collect();
    let backend = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {name: a}\nspec:\n";
    let many: String = (0..10).map(|_| format!("{backend}{fields}---\n")).collect();
    let report = common::check_text(&many);
    assert!(report.diagnostics.len() < 1100, "{}", report.diagnostics.len());
    assert!(report.diagnostics.iter().any(|d| d.message.starts_with("more than 1000 things")));
}
