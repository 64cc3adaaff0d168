//! The CRDs as YAML: generated from the types, and compared with what is checked in. `UPDATE_GOLDEN=1` writes them.

#![allow(clippy::unwrap_used, reason = "tests end there")]

mod definition;

use std::fs;
use std::path::PathBuf;

use definition::{Kind, definition, kinds};
use understudy_crds::GROUP;

fn file(kind: &Kind) -> PathBuf {
    format!("{GROUP}_{}.yaml", kind.plural).into()
}

#[test]
fn the_crds_that_are_checked_in_are_those_of_the_types() {
    for kind in kinds() {
        let found = serde_yaml::to_string(&definition(&kind)).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(file(&kind), &found).unwrap();
        }
        let expected = fs::read_to_string(file(&kind)).unwrap_or_default();
        assert!(
            found == expected,
            "{} differs; UPDATE_GOLDEN=1 rewrites it:\n{found}",
            file(&kind).display()
        );
    }
}
