//! The documentation of manifests keeps up.

use std::fs;

use understudy_controller::Reason;

#[test]
fn every_reason_is_documented() {
    let text = fs::read_to_string("../docs/manifests.md").unwrap();
    for reason in Reason::ALL {
        assert!(text.contains(&format!("| `{reason}` |")), "docs/manifests.md lacks {reason}");
    }
}
