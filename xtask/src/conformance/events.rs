//! What `go tool test2json` prints: one event a line.

use std::collections::BTreeMap;

use serde_json::Value;

/// The test that holds all others.
const ROOT: &str = "TestConformance/";

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Passed,
    Failed,
    Skipped,
}

/// What is known of one test of the suite, its parts included.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Test {
    /// `None`: it was begun and never ended.
    pub(crate) end: Option<End>,
    /// What it printed.
    pub(crate) output: String,
}

/// The tests of the suite, by their short names.
pub(crate) fn tests(text: &str, root: &str) -> BTreeMap<String, Test> {
    let mut tests: BTreeMap<String, Test> = BTreeMap::new();
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(rest) = event["Test"].as_str().and_then(|name| name.strip_prefix(root)) else { continue };
        let name = rest.split('/').next().unwrap_or_default();
        let test = tests.entry(name.to_owned()).or_default();
        let end = match event["Action"].as_str() {
            Some("output") => {
                test.output += event["Output"].as_str().unwrap_or_default();
                continue;
            }
            Some("pass") => End::Passed,
            Some("fail") => End::Failed,
            Some("skip") => End::Skipped,
            _ => continue,
        };
        // A part that was left out is a hole in its test.
        if rest == name {
            test.end =
                if test.end == Some(End::Skipped) && end == End::Passed { test.end } else { Some(end) };
        } else if end == End::Skipped {
            test.end = Some(End::Skipped);
        }
    }
    tests
}

/// The tests of `TestConformance`.
pub(crate) fn conformance_tests(text: &str) -> BTreeMap<String, Test> {
    tests(text, ROOT)
}

#[cfg(test)]
mod tests_of_events {
    use super::*;

    #[test]
    fn a_test_ends_as_its_own_event_says_and_a_part_left_out_is_told() {
        let text = r#"{"Action":"run","Test":"TestConformance/A"}
{"Action":"output","Test":"TestConformance/A/part","Output":"why\n"}
{"Action":"fail","Test":"TestConformance/A/part"}
{"Action":"fail","Test":"TestConformance/A"}
{"Action":"pass","Test":"TestConformance/B"}
{"Action":"skip","Test":"TestConformance/C/part"}
{"Action":"pass","Test":"TestConformance/C"}
{"Action":"run","Test":"TestConformance/D"}
noise
{"Action":"output","Test":"TestConformance/D","Output":"x"}
{"Action":"pass","Test":"TestConformance"}"#;
        let tests = conformance_tests(text);
        assert_eq!(tests["A"], Test { end: Some(End::Failed), output: "why\n".to_owned() });
        assert_eq!(tests["B"].end, Some(End::Passed));
        assert_eq!(tests["C"].end, Some(End::Skipped));
        assert_eq!(tests["D"].end, None);
        assert_eq!(tests.len(), 4);
    }
}
