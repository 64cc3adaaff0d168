//! Where two maps differ.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;

/// The entries of two maps that are not the same, in order: what each has there. Both are walked once, side by side, which
/// costs far less than to look each key up.
pub fn differences<'m, K: Ord, V>(
    old: &'m BTreeMap<K, V>,
    new: &'m BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> impl Iterator<Item = (&'m K, Option<&'m V>, Option<&'m V>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let (key, before, after) = next_pair(&mut old, &mut new)?;
            match (before, after) {
                (Some(before), Some(after)) if same(before, after) => {}
                _ => return Some((key, before, after)),
            }
        }
    })
}

type Pair<'m, K, V> = (&'m K, Option<&'m V>, Option<&'m V>);

/// The next key of either map, with what each has there.
fn next_pair<'m, K: Ord, V>(
    old: &mut Peekable<impl Iterator<Item = (&'m K, &'m V)>>,
    new: &mut Peekable<impl Iterator<Item = (&'m K, &'m V)>>,
) -> Option<Pair<'m, K, V>> {
    let order = match (old.peek(), new.peek()) {
        (Some((old, _)), Some((new, _))) => old.cmp(new),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => return None,
    };
    let before = if order == Ordering::Greater { None } else { old.next() };
    let after = if order == Ordering::Less { None } else { new.next() };
    let key = before.or(after).map(|(key, _)| key)?;
    Some((key, before.map(|(_, value)| value), after.map(|(_, value)| value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_maps_differ_where_one_lacks_a_key_or_has_another_value() {
        let old = BTreeMap::from([(1, "a"), (2, "b"), (4, "d"), (6, "f")]);
        let new = BTreeMap::from([(0, "z"), (2, "b"), (4, "e"), (5, "e")]);
        let found: Vec<_> = differences(&old, &new, |a, b| a == b)
            .map(|(key, a, b)| (*key, a.copied(), b.copied()))
            .collect();
        assert_eq!(
            found,
            [
                (0, None, Some("z")),
                (1, Some("a"), None),
                (4, Some("d"), Some("e")),
                (5, None, Some("e")),
                (6, Some("f"), None)
            ]
        );
        assert_eq!(differences(&old, &old, |a, b| a == b).count(), 0);
    }
}
