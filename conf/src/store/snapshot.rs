//! One version as it stands on disk: its objects, and the index that leads to them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::digest::Digest;
use super::disk::read_file;
use super::kind::{Kind, Object, Objects, for_each_kind};
use super::layout::{FileId, shard_of};
use super::root::{Root, Shards};
use super::{ROOT_FILE, StoreError, yaml};
use crate::State;
use crate::names::sharing_texts;

/// One index file: the digest of each of its objects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) digest: Digest,
    pub(crate) entries: BTreeMap<String, Digest>,
}

/// All index files, by kind and number. A number without an object has no file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index([BTreeMap<u8, Arc<Shard>>; 8]);

impl Index {
    pub(crate) fn kind(&self, kind: Kind) -> &BTreeMap<u8, Arc<Shard>> {
        &self.0[kind.index()]
    }

    pub(crate) fn kind_mut(&mut self, kind: Kind) -> &mut BTreeMap<u8, Arc<Shard>> {
        &mut self.0[kind.index()]
    }

    pub(crate) fn digests(&self, kind: Kind) -> Shards {
        self.kind(kind).iter().map(|(number, shard)| (*number, shard.digest)).collect()
    }

    /// Whether the index leads to a file.
    pub(crate) fn contains(&self, id: &FileId) -> bool {
        match id {
            FileId::Object { kind, name, digest } => self
                .kind(*kind)
                .get(&shard_of(name))
                .is_some_and(|shard| shard.entries.get(name) == Some(digest)),
            FileId::Shard { kind, number, digest } => {
                self.kind(*kind).get(number).is_some_and(|shard| shard.digest == *digest)
            }
        }
    }

    /// Every file that the index leads to, and its own files.
    pub(crate) fn files(&self) -> impl Iterator<Item = FileId> {
        Kind::ALL.into_iter().flat_map(move |kind| {
            self.kind(kind).iter().flat_map(move |(number, shard)| {
                let own = FileId::Shard { kind, number: *number, digest: shard.digest };
                let objects = shard.entries.iter().map(move |(name, digest)| FileId::Object {
                    kind,
                    name: name.clone(),
                    digest: *digest,
                });
                std::iter::once(own).chain(objects)
            })
        })
    }
}

/// One version.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) state: Arc<State>,
    pub(crate) index: Index,
    /// The root's content.
    pub(crate) root: Vec<u8>,
}

/// Reads the version that a root leads to. What `last` has already is taken from there.
pub(crate) fn load_snapshot(
    folder: &Path,
    root: Vec<u8>,
    last: Option<&Snapshot>,
) -> Result<Snapshot, StoreError> {
    let root_file = folder.join(ROOT_FILE);
    let parsed = Root::parse(&root_file, &root)?;
    let mut state = State { version: parsed.version, ..State::default() };
    let mut index = Index::default();
    let source = Source { folder, root: &parsed, last };
    sharing_texts(|| -> Result<(), StoreError> {
        for_each_kind!(load_kind(&source, &mut state, &mut index));
        Ok(())
    })?;
    let dangling = |reference| StoreError::Dangling { file: root_file, reference };
    state.validate_references_since(last.map(|last| &*last.state)).map_err(dangling)?;
    Ok(Snapshot { state: Arc::new(state), index, root })
}

struct Source<'a> {
    folder: &'a Path,
    root: &'a Root,
    last: Option<&'a Snapshot>,
}

/// Objects of index files that did not change are taken over all at once.
fn load_kind<T: Object>(source: &Source<'_>, state: &mut State, index: &mut Index) -> Result<(), StoreError> {
    let kind = T::KIND;
    let objects = T::objects_mut(state);
    let nothing = BTreeMap::new();
    let before = source.last.map_or(&nothing, |last| last.index.kind(kind));
    if let Some(last) = source.last {
        objects.clone_from(T::objects(&last.state));
    }
    let shards = source.root.shards(kind);
    for gone in before.iter().filter(|(number, _)| !shards.contains_key(number)).map(|(_, shard)| shard) {
        gone.entries.keys().for_each(|name| drop(objects.remove(name.as_str())));
    }
    for (&number, &digest) in shards {
        let known = before.get(&number);
        let shard = match known {
            Some(known) if known.digest == digest => Arc::clone(known),
            _ => {
                let shard =
                    read_shard(source.folder, FileId::Shard { kind, number, digest }, digest, number)?;
                load_objects::<T>(source.folder, known.map(|known| &known.entries), &shard.entries, objects)?;
                Arc::new(shard)
            }
        };
        index.kind_mut(kind).insert(number, shard);
    }
    Ok(())
}

/// Reads what an index file leads to now and did not before, and drops what it does not lead to any more.
fn load_objects<T: Object>(
    folder: &Path,
    before: Option<&BTreeMap<String, Digest>>,
    after: &BTreeMap<String, Digest>,
    objects: &mut Objects<T>,
) -> Result<(), StoreError> {
    for gone in before.into_iter().flat_map(BTreeMap::keys).filter(|name| !after.contains_key(*name)) {
        objects.remove(gone.as_str());
    }
    for (name, digest) in after {
        if before.and_then(|before| before.get(name)) != Some(digest) {
            let (name, object) = read_object::<T>(folder, name, *digest)?;
            // With its object, a name is replaced by the one that the object has.
            objects.remove(name.as_ref());
            objects.insert(name, object);
        }
    }
    Ok(())
}

fn read_shard(folder: &Path, id: FileId, digest: Digest, number: u8) -> Result<Shard, StoreError> {
    let file = id.path(folder);
    let text = read_verified(&file, digest)?;
    let entries: BTreeMap<String, Digest> =
        yaml::from_text(&text).map_err(|reason| StoreError::garbled(&file, reason))?;
    if let Some(stray) = entries.keys().find(|name| shard_of(name) != number) {
        return Err(StoreError::garbled(&file, format!("{stray} does not belong into this index file")));
    }
    Ok(Shard { digest, entries })
}

fn read_object<T: Object>(
    folder: &Path,
    name: &str,
    digest: Digest,
) -> Result<(T::Name, Arc<T>), StoreError> {
    let file = FileId::Object { kind: T::KIND, name: name.to_owned(), digest }.path(folder);
    let text = read_verified(&file, digest)?;
    let object: T = yaml::from_text(&text).map_err(|reason| StoreError::garbled(&file, reason))?;
    if object.name().as_ref() != name {
        let reason = format!("it holds {}, and the index says {name}", object.name().as_ref());
        return Err(StoreError::garbled(&file, reason));
    }
    // What was parsed has room for more, a copy has not.
    let object = T::clone(&object);
    Ok((object.name().clone(), Arc::new(object)))
}

/// Reads a file whose content must fit its digest.
pub(crate) fn read_verified(file: &Path, digest: Digest) -> Result<String, StoreError> {
    let Some(content) = read_file(file)? else {
        return Err(StoreError::Vanished { file: file.to_owned() });
    };
    if Digest::of(&content) != digest {
        return Err(if content.ends_with(b"\n") {
            StoreError::garbled(file, "its content does not fit its digest")
        } else {
            StoreError::truncated(file, "its content does not fit its digest, and the last line has no end")
        });
    }
    String::from_utf8(content).map_err(|error| StoreError::garbled(file, format!("it is no text: {error}")))
}
