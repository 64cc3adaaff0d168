//! What has to be written to get from one version to the next. Pure: nothing touches the disk here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::digest::Digest;
use super::kind::{Object, Objects, for_each_kind};
use super::layout::{FileId, shard_of};
use super::snapshot::{Index, Shard, Snapshot};
use super::{MAX_FILE_BYTES, StoreError, yaml};
use crate::{State, differences};

/// The way from one version to the next.
#[derive(Default)]
pub(crate) struct Plan {
    /// New files, in the order in which they are written: what is referred to comes first.
    pub(crate) files: Vec<(FileId, String)>,
    /// Files that only the version before needs.
    pub(crate) dropped: Vec<FileId>,
    /// The index of the next version.
    pub(crate) index: Index,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.dropped.is_empty()
    }
}

/// Builds the plan. Without a version before, it writes everything.
pub(crate) fn build_plan(last: Option<&Snapshot>, next: &State) -> Result<Plan, StoreError> {
    let mut plan = Plan { index: last.map(|last| last.index.clone()).unwrap_or_default(), ..Plan::default() };
    let mut shards = Vec::new();
    for_each_kind!(plan_kind(last, next, &mut plan, &mut shards));
    plan.files.append(&mut shards);
    Ok(plan)
}

fn plan_kind<T: Object>(
    last: Option<&Snapshot>,
    next: &State,
    plan: &mut Plan,
    shards: &mut Vec<(FileId, String)>,
) -> Result<(), StoreError> {
    let kind = T::KIND;
    let nothing = Objects::<T>::new();
    let before = last.map_or(&nothing, |last| T::objects(&last.state));
    let mut edits: BTreeMap<u8, Vec<(&str, Option<Digest>)>> = BTreeMap::new();
    for (name, _, object) in
        differences(before, T::objects(next), |old, new| Arc::ptr_eq(old, new) || old == new)
    {
        let Some(object) = object else {
            edits.entry(shard_of(name.as_ref())).or_default().push((name.as_ref(), None));
            continue;
        };
        let text = write_object(name, object.as_ref())?;
        let digest = Digest::of(text.as_bytes());
        edits.entry(shard_of(name.as_ref())).or_default().push((name.as_ref(), Some(digest)));
        plan.files.push((FileId::Object { kind, name: name.as_ref().to_owned(), digest }, text));
    }
    for (number, edits) in edits {
        let old = plan.index.kind_mut(kind).remove(&number);
        let mut entries = old.as_ref().map(|old| old.entries.clone()).unwrap_or_default();
        for (name, digest) in edits {
            let replaced = match digest {
                Some(digest) => entries.insert(name.to_owned(), digest),
                None => entries.remove(name),
            };
            if let Some(replaced) = replaced.filter(|replaced| Some(*replaced) != digest) {
                plan.dropped.push(FileId::Object { kind, name: name.to_owned(), digest: replaced });
            }
        }
        let text = checked_text(&entries, || format!("the index of {}", kind.folder()))?;
        let digest = Digest::of(text.as_bytes());
        if let Some(old) = old.filter(|old| old.digest != digest) {
            plan.dropped.push(FileId::Shard { kind, number, digest: old.digest });
        }
        if !entries.is_empty() {
            shards.push((FileId::Shard { kind, number, digest }, text));
            plan.index.kind_mut(kind).insert(number, Arc::new(Shard { digest, entries }));
        }
    }
    Ok(())
}

fn write_object<T: Object>(name: &T::Name, object: &T) -> Result<String, StoreError> {
    if object.name() != name {
        return Err(StoreError::Unwritable {
            object: name.as_ref().to_owned(),
            reason: format!(
                "it stands in the state under this name, but is called {}",
                object.name().as_ref()
            ),
        });
    }
    checked_text(object, || name.as_ref().to_owned())
}

/// The text of a value, once it is certain that a reader gets the same value from it.
fn checked_text<T: PartialEq + serde::Serialize + serde::de::DeserializeOwned>(
    value: &T,
    object: impl Fn() -> String,
) -> Result<String, StoreError> {
    let unwritable = |reason: String| StoreError::Unwritable { object: object(), reason };
    let text = yaml::to_text(value).map_err(unwritable)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(unwritable(format!("its file would be larger than {MAX_FILE_BYTES} bytes")));
    }
    match yaml::from_text::<T>(&text) {
        Ok(read) if read == *value => Ok(text),
        Ok(_) => Err(unwritable("it holds a value that its file cannot express".to_owned())),
        Err(reason) => Err(unwritable(format!("its file could not be read again: {reason}"))),
    }
}
