//! The known word that is nearest to a mistyped one.

/// More words than this are not compared.
const MAX_CANDIDATES: usize = 512;

/// The word of `known` that `word` probably means: at most a third of its letters differ.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    // Long words never help, and would cost time squared.
    if lower.len() > 64 {
        return None;
    }
    // Names of thousands of objects may be compared with thousands of mistakes.
    let similar_length = |candidate: &&str| candidate.len().abs_diff(lower.len()) <= lower.len() / 3 + 1;
    known
        .into_iter()
        .filter(similar_length)
        .take(MAX_CANDIDATES)
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(lower.len()) / 3).max(1))
        .min_by_key(|(distance, candidate)| (*distance, *candidate))
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substitution = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitution.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_finds_its_neighbour_and_a_strange_one_finds_none() {
        let known = ["backendRefs", "filters", "matches", "timeouts", "consecutive5XxErrors"];
        assert_eq!(nearest("backendRef", known), Some("backendRefs"));
        assert_eq!(nearest("consecutive5xxErrors", known), Some("consecutive5XxErrors"));
        assert_eq!(nearest("flitres", known), Some("filters"));
        assert_eq!(nearest("weather", known), None);
        assert_eq!(nearest(&"x".repeat(1000), known), None);
    }
}
