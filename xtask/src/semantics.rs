//! The page of rules: what it keeps or replaces names a test, and the test is there.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::files;

/// The page.
const PAGE: &str = "docs/semantics.md";

/// Rows that are kept or replaced without a test, and tests that do not exist.
pub(crate) fn missing_tests(names: &[String]) -> Result<Vec<String>> {
    let Some(page) = files::text(PAGE)? else { return Ok(vec![format!("{PAGE}: it is no text")]) };
    let mut sources = String::new();
    for name in names.iter().filter(|name| name.ends_with(".rs")) {
        sources.push_str(&files::text(name)?.unwrap_or_default());
    }
    let golden: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| name.strip_prefix("controller/tests/golden/")?.strip_suffix(".in.yaml"))
        .collect();
    Ok(problems(&page, &sources, &golden))
}

fn problems(page: &str, sources: &str, golden: &BTreeSet<&str>) -> Vec<String> {
    let mut problems = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule |")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [rule, _, here, test @ ..] = cells.as_slice() else { continue };
        let claims = here.starts_with("kept") || here.starts_with("replaced");
        let cell = test.first().map_or("", |cell| cell.trim_end_matches('|').trim());
        if claims && !cell.starts_with(['`', 'g']) {
            problems.push(format!("{PAGE}: rule {rule} is {here} without a test"));
        }
        for named in cell.split(", ").filter(|named| named.starts_with(['`', 'g'])) {
            let exists = match named.strip_prefix("golden case ") {
                Some(case) => golden.contains(case.trim_matches('`')),
                None => sources.contains(&format!("fn {}(", named.trim_matches('`'))),
            };
            if !exists {
                problems.push(format!("{PAGE}: rule {rule}: there is no test {named}"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_needs_a_test_that_exists() {
        let page = "| rule | subject | here | test |\n| --- | --- | --- | --- |\n\
            | O1 | a | kept | `there` |\n\
            | O2 | b | replaced: by c | `there`, `gone` |\n\
            | O3 | c | kept | |\n\
            | O4 | d | not yet | |\n\
            | D6 | e | replaced | golden case `case` |\n";
        let found = problems(page, "fn there() {}", &BTreeSet::from(["case"]));
        assert_eq!(
            found,
            [
                "docs/semantics.md: rule O2: there is no test `gone`",
                "docs/semantics.md: rule O3 is kept without a test",
            ]
        );
    }
}
