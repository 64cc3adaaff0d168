//! Counting tests in what `cargo test` printed.

use std::fmt;
use std::ops::AddAssign;

/// Results of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were left out.
    pub(crate) ignored: u64,
}

impl Counts {
    /// Adds up the `test result:` lines of a text.
    pub(crate) fn of(text: &str) -> Self {
        let mut sum = Self::default();
        for line in text.lines() {
            let Some(rest) = line.trim_start().strip_prefix("test result: ") else { continue };
            sum += Self {
                passed: number_before(rest, " passed"),
                failed: number_before(rest, " failed"),
                ignored: number_before(rest, " ignored"),
            };
        }
        sum
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 { write!(f, ", {} skipped", self.ignored) } else { Ok(()) }
    }
}

fn number_before(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().unwrap_or_default();
    before.rsplit([' ', '.']).next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_are_added_up() {
        let text = "running 2 tests\n\
            test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            noise: 5 passed\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.0s\n";
        let counts = Counts::of(text);
        assert_eq!(counts, Counts { passed: 15, failed: 2, ignored: 1 });
        assert_eq!(counts.to_string(), "15 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn without_ignored_tests_the_line_has_two_numbers() {
        assert_eq!(Counts { passed: 1, failed: 0, ignored: 0 }.to_string(), "1 passed, 0 failed");
        assert_eq!(Counts::of("error: could not compile"), Counts::default());
    }
}
