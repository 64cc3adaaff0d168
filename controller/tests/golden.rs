//! Golden pairs: `NAME.in.yaml` gives `NAME.out.yaml` and `NAME.diagnostics.txt`.

mod common;

#[test]
fn every_manifest_gives_its_golden_state_and_diagnostics() {
    for input in common::files("tests/golden", ".in.yaml") {
        let report = common::check_file(&input);
        let name = input.to_string_lossy().replace(".in.yaml", "");
        common::assert_golden(format!("{name}.out.yaml").as_ref(), &common::state_yaml(&report.state));
        common::assert_golden(
            format!("{name}.diagnostics.txt").as_ref(),
            &common::lines(&report.diagnostics),
        );
    }
}
