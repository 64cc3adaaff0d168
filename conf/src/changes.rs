//! What differs between two states.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::differences;

/// An object that is new, gone or another one than before.
#[derive(Debug)]
pub struct Change<'a, N, T> {
    /// Its name.
    pub name: &'a N,
    /// What it was; `None`: it is new.
    pub before: Option<&'a Arc<T>>,
    /// What it is; `None`: it is gone.
    pub after: Option<&'a Arc<T>>,
}

/// What differs between two maps of objects, in the order of names. Objects are told apart by their [`Arc`]: states share
/// what did not change, so that this costs little more than a look at each pointer.
pub fn changes<'a, N: Ord, T>(
    before: &'a BTreeMap<N, Arc<T>>,
    after: &'a BTreeMap<N, Arc<T>>,
) -> impl Iterator<Item = Change<'a, N, T>> {
    differences(before, after, Arc::ptr_eq).map(|(name, before, after)| Change { name, before, after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_another_object_than_before_has_changed() {
        let [a, b, new_b, c, d, e] = [1, 2, 3, 4, 5, 6].map(Arc::new);
        let before = BTreeMap::from([("a", a.clone()), ("b", b), ("d", d)]);
        let after = BTreeMap::from([("a", a), ("b", new_b), ("c", c), ("e", e)]);
        let found: Vec<_> = changes(&before, &after)
            .map(|change| {
                (*change.name, change.before.map(|value| **value), change.after.map(|value| **value))
            })
            .collect();
        let expected =
            [("b", Some(2), Some(3)), ("c", None, Some(4)), ("d", Some(5), None), ("e", None, Some(6))];
        assert_eq!(found, expected);
        assert_eq!(changes(&before, &before.clone()).count(), 0);
    }
}
