//! What is said of refused endpoints: each once, and never so much that it floods the log or the acknowledgement.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use understudy_conf::RefusedTarget;
use understudy_engine::Instant;

/// How many lines one window may have.
const LINES: usize = 20;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);
/// How many backends the acknowledgement names.
const NAMED: usize = 50;

/// Decides what is logged.
#[derive(Default)]
pub(crate) struct RefusalLog {
    since: Instant,
    lines: usize,
}

impl RefusalLog {
    /// The lines for what is refused now and was not before.
    pub(crate) fn lines(
        &mut self,
        before: &BTreeSet<RefusedTarget>,
        refused: &BTreeSet<RefusedTarget>,
        now: Instant,
    ) -> Vec<String> {
        if now.since(self.since) >= WINDOW {
            *self = Self { since: now, lines: 0 };
        }
        let new: Vec<&RefusedTarget> = refused.difference(before).collect();
        let room = LINES - self.lines.min(LINES);
        let mut lines: Vec<String> = new.iter().take(room).map(|refused| sentence(refused)).collect();
        self.lines += lines.len();
        // The last line of a window says that there is more; after it there is silence.
        if new.len() > room && room > 0 {
            lines.push(format!("{} more endpoints are refused", new.len() - room));
        }
        lines
    }
}

fn sentence(refused: &RefusedTarget) -> String {
    let RefusedTarget { backend, target, why } = refused;
    format!("{backend}: {target} is refused as an endpoint: {why}")
}

/// What the acknowledgement says: one sentence per backend.
pub(crate) fn degraded(refused: &BTreeSet<RefusedTarget>) -> Vec<String> {
    let mut by_backend: BTreeMap<&str, (&RefusedTarget, usize)> = BTreeMap::new();
    for target in refused {
        by_backend.entry(&target.backend).or_insert((target, 0)).1 += 1;
    }
    let total = by_backend.len();
    let mut sentences: Vec<String> = by_backend
        .into_values()
        .take(NAMED)
        .map(|(first, count)| match count {
            1 => sentence(first),
            _ => format!("{}, and {} more of its endpoints", sentence(first), count - 1),
        })
        .collect();
    if total > NAMED {
        sentences.push(format!("{} more backends have endpoints that are refused", total - NAMED));
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(range: std::ops::Range<usize>) -> BTreeSet<RefusedTarget> {
        let target = |number| RefusedTarget {
            backend: format!("backend/default/{number:03}"),
            target: "127.0.0.1:80".to_owned(),
            why: "loopback".to_owned(),
        };
        range.map(target).collect()
    }

    #[test]
    fn each_refusal_is_logged_once_and_a_flood_is_cut() {
        let mut log = RefusalLog::default();
        let second = |seconds: u64| Instant::from_micros(seconds * 1_000_000);
        let first = log.lines(&BTreeSet::new(), &refused(0..1), second(1));
        assert_eq!(first, ["backend/default/000: 127.0.0.1:80 is refused as an endpoint: loopback"]);
        assert!(log.lines(&refused(0..1), &refused(0..1), second(1)).is_empty());
        let flood = log.lines(&refused(0..1), &refused(0..100), second(2));
        assert_eq!(flood.len(), LINES, "with the one before and the one that counts the rest");
        assert_eq!(flood.last().unwrap(), "80 more endpoints are refused");
        assert!(log.lines(&refused(0..100), &refused(0..200), second(3)).is_empty());
        assert_eq!(log.lines(&refused(0..200), &refused(0..201), second(20)).len(), 1);
    }

    #[test]
    fn the_acknowledgement_has_a_sentence_per_backend_and_an_end() {
        let mut both = refused(0..60);
        both.insert(RefusedTarget {
            backend: "backend/default/000".to_owned(),
            target: "169.254.169.254:80".to_owned(),
            why: "link-local".to_owned(),
        });
        let sentences = degraded(&both);
        assert_eq!(sentences.len(), NAMED + 1);
        assert!(sentences[0].ends_with("loopback, and 1 more of its endpoints"), "{}", sentences[0]);
        assert_eq!(sentences[NAMED], "10 more backends have endpoints that are refused");
    }
}
