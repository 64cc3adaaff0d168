//! What a run comes to: the suite's own list beside what passed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::events::{End, Test};
use crate::counts::Counts;

/// How many of the last lines of a test that failed are shown.
const LINES: usize = 40;

/// A test or a profile that concerns gateways, as the suite lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) features: Vec<String>,
}

/// What a run comes to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// How many tests were to pass.
    wanted: usize,
    passed: usize,
    /// With the end of what they printed.
    failed: BTreeMap<String, String>,
    /// Left out, although all features that they need are claimed; or run without an end.
    skipped: BTreeSet<String>,
    /// Left out, with the features that are not claimed.
    unclaimed: BTreeMap<String, Vec<String>>,
}

impl Verdict {
    /// Compares. `all`: the tests that were to be run.
    pub(crate) fn new(all: &[&Listed], claimed: &BTreeSet<String>, tests: &BTreeMap<String, Test>) -> Self {
        let mut verdict = Self { wanted: all.len(), ..Self::default() };
        for listed in all {
            let missing: Vec<_> =
                listed.features.iter().filter(|name| !claimed.contains(*name)).cloned().collect();
            let name = listed.name.clone();
            match tests.get(&name).map(|test| (test.end, &test.output)) {
                Some((Some(End::Passed), _)) => verdict.passed += 1,
                Some((Some(End::Failed), output)) => drop(verdict.failed.insert(name, last_lines(output))),
                _ if !missing.is_empty() => drop(verdict.unclaimed.insert(name, missing)),
                _ => drop(verdict.skipped.insert(name)),
            }
        }
        verdict
    }

    /// Whether every test that was to pass did.
    pub(crate) fn is_good(&self) -> bool {
        self.wanted > 0 && self.passed == self.wanted
    }

    /// For the closing line of `cargo xtask test`.
    pub(crate) fn counts(&self) -> Counts {
        Counts { passed: self.passed as u64, failed: (self.wanted - self.passed) as u64, ignored: 0 }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, output) in &self.failed {
            writeln!(f, "--- {name} failed:\n{output}")?;
        }
        for name in self.failed.keys() {
            writeln!(f, "failed: {name}")?;
        }
        for name in &self.skipped {
            writeln!(f, "left out, though claimed: {name}")?;
        }
        for (name, features) in &self.unclaimed {
            writeln!(f, "not claimed: {name} (needs {})", features.join(", "))?;
        }
        write!(f, "conformance: {} of {} tests of gateways passed", self.passed, self.wanted)
    }
}

/// The end of what a test printed, without what only says that a part of it runs or passed.
fn last_lines(text: &str) -> String {
    let is_noise = |line: &&str| {
        line.starts_with("=== ") || line.contains("--- PASS") || line.contains("matched expectations")
    };
    let lines: Vec<&str> = text.lines().filter(|line| !is_noise(line)).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, feature: &str) -> Listed {
        Listed { name: name.to_owned(), features: vec![feature.to_owned()] }
    }

    fn ended(end: End) -> Test {
        Test { end: Some(end), output: "said".to_owned() }
    }

    #[test]
    fn only_a_run_in_which_every_listed_test_passed_is_good() {
        let claimed = BTreeSet::from(["Has".to_owned()]);
        let (first, second) = (listed("A", "Has"), listed("B", "Has"));
        let all = [&first, &second];
        let mut tests = BTreeMap::from([("A".to_owned(), ended(End::Passed))]);
        let verdict = Verdict::new(&all, &claimed, &tests);
        assert!(
            !verdict.is_good() && verdict.to_string().contains("left out, though claimed: B"),
            "{verdict}"
        );
        tests.insert("B".to_owned(), ended(End::Skipped));
        assert!(!Verdict::new(&all, &claimed, &tests).is_good());
        tests.insert("B".to_owned(), ended(End::Failed));
        let verdict = Verdict::new(&all, &claimed, &tests);
        assert!(!verdict.is_good() && verdict.to_string().contains("said"), "{verdict}");
        assert_eq!(verdict.counts(), Counts { passed: 1, failed: 1, ignored: 0 });
        tests.insert("B".to_owned(), ended(End::Passed));
        assert!(Verdict::new(&all, &claimed, &tests).is_good());
        assert!(!Verdict::new(&[], &claimed, &tests).is_good());
    }

    #[test]
    fn a_test_without_its_feature_is_told_with_it() {
        let tests = BTreeMap::from([("A".to_owned(), ended(End::Skipped))]);
        let verdict = Verdict::new(&[&listed("A", "Lacks")], &BTreeSet::new(), &tests);
        assert!(!verdict.is_good() && verdict.to_string().contains("A (needs Lacks)"), "{verdict}");
    }
}
