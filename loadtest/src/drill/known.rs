//! Whether the Envoy of this run behaves as Envoy is known to. Pure.
//!
//! The figures are those of Envoy 1.40.0 with the same configuration, measured apart from the drill. A column that
//! does not reproduce them within a tenth, or within the spread that was seen then, proves nothing.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::cases::{DEFAULT_RETRY, Length, NO_RETRY, PRIORITY_RETRY};
use super::outcome::Row;

/// The last burst of the full outage falls upon its end, and is cut by it at another place each time.
const BEFORE_LAST_BURST: Duration = Duration::from_secs(60);

/// One figure that must be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// The case and its run.
    pub(crate) name: String,
    /// Requests lost.
    pub(crate) expected: RangeInclusive<usize>,
    /// `None`: it was not run, or could not be.
    pub(crate) measured: Option<usize>,
}

impl Known {
    pub(crate) fn is_met(&self) -> bool {
        self.measured.is_some_and(|measured| self.expected.contains(&measured))
    }
}

/// Compares the Envoy column with what is known.
pub(crate) fn compare(rows: &[Row], length: Length) -> Vec<Known> {
    let one_dead = |retry: &str| format!("1 dead, no detection, {retry}");
    let three_dead = |retry: &str| format!("3 dead, no detection, {retry}");
    let closed = |retry: &str| format!("ports closed, {retry}");
    let bursts = match length {
        Length::Full => (102, 98),
        Length::Short => (51, 49),
    };
    let figures = [
        // A straggler was seen in one of eight runs.
        ("2", NO_RETRY.to_owned(), 1..=2),
        ("2", DEFAULT_RETRY.to_owned(), 0..=1),
        ("8", closed(NO_RETRY), tenth(24)),
        ("8", closed(DEFAULT_RETRY), tenth(24)),
        ("8", format!("both answer 500, {NO_RETRY}"), tenth(24)),
        ("11", NO_RETRY.to_owned(), tenth(bursts.0)),
        ("11", DEFAULT_RETRY.to_owned(), tenth(bursts.1)),
        ("11", PRIORITY_RETRY.to_owned(), tenth(0)),
        ("15", one_dead(DEFAULT_RETRY), tenth(10)),
        ("15", one_dead(PRIORITY_RETRY), tenth(0)),
        ("15", three_dead(DEFAULT_RETRY), tenth(10)),
        ("15", three_dead(PRIORITY_RETRY), tenth(0)),
    ];
    figures
        .into_iter()
        .map(|(case, label, expected)| {
            let row = rows.iter().find(|row| row.case == case && row.label == label);
            let record = row.and_then(|row| row.envoy.as_ref()).and_then(|ran| ran.as_ref().ok());
            let measured = record.map(|record| record.lost_before(BEFORE_LAST_BURST));
            Known { name: format!("{case} ({label})"), expected, measured }
        })
        .collect()
}

/// A figure and a tenth of it on either side.
fn tenth(figure: usize) -> RangeInclusive<usize> {
    (figure * 9).div_ceil(10)..=figure * 11 / 10
}

/// Why the column does not count; `None` when it does.
pub(crate) fn objection(known: &[Known]) -> Option<String> {
    let mut objections = Vec::new();
    let not_run: Vec<&str> =
        known.iter().filter(|figure| figure.measured.is_none()).map(|figure| figure.name.as_str()).collect();
    if !not_run.is_empty() {
        objections.push(format!("not run: {}", not_run.join(", ")));
    }
    for figure in known.iter().filter(|figure| !figure.is_met()) {
        let (low, high) = (figure.expected.start(), figure.expected.end());
        let expected = if low == high { low.to_string() } else { format!("{low} to {high}") };
        if let Some(lost) = figure.measured {
            objections.push(format!("{}: {lost} lost, known are {expected}", figure.name));
        }
    }
    (!objections.is_empty()).then(|| objections.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::cases::all;
    use crate::drill::outcome::tests::{record, row};

    #[test]
    fn a_tenth_is_allowed_on_either_side() {
        assert_eq!(tenth(102), 92..=112);
        assert_eq!(tenth(24), 22..=26);
        assert_eq!(tenth(10), 9..=11);
        assert_eq!(tenth(0), 0..=0);
    }

    #[test]
    fn every_known_figure_belongs_to_a_run_of_the_drill() {
        for known in compare(&[], Length::Full) {
            let found = all(Length::Full).iter().any(|case| {
                case.plans.iter().any(|plan| format!("{} ({})", case.id, plan.label) == known.name)
            });
            assert!(found, "{}", known.name);
        }
    }

    #[test]
    fn a_figure_that_was_not_run_or_not_met_is_an_objection() {
        let objection_to = |lost| {
            let rows = [row("2", NO_RETRY, None, Some(Ok(record(lost, 18))))];
            let known = compare(&rows, Length::Short);
            objection(&known[..1])
        };
        assert_eq!(objection_to(1), None);
        assert_eq!(objection_to(2), None);
        assert_eq!(objection_to(3).unwrap(), "2 (no retry): 3 lost, known are 1 to 2");
        let nothing = objection(&compare(&[], Length::Short)).unwrap();
        assert!(nothing.starts_with("not run: 2 (no retry), 2 (default retry), 8 (ports"), "{nothing}");
    }
}
