//! The controller's side: writes only what changed, in an order that never leaves a reference open.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, read_file};
use super::folder::{Lock, create_folders, folders, list_files};
use super::kind::{Object, for_each_kind};
use super::layout::{FileId, TEMPORARY};
use super::plan::{Plan, build_plan};
use super::root::{Root, version_of};
use super::snapshot::{Snapshot, load_snapshot, read_verified};
use super::{ROOT_FILE, StoreError, read_acknowledgement};
use crate::{State, differences};

/// What [`Writer::publish`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The version that stands on disk now.
    pub version: u64,
    /// Whether it is a new one.
    pub changed: bool,
    /// Files that were written, the root included.
    pub written: usize,
    /// Files that were removed.
    pub removed: usize,
}

/// Writes the state. While it lives, it is the only writer of its folder.
pub struct Writer {
    folder: PathBuf,
    disk: Disk,
    lock: Lock,
    /// What stands on disk; `None` if nothing does, or nothing that could be read.
    current: Option<Snapshot>,
    /// The highest version that was ever seen here.
    highest: u64,
    /// Files that the current version does not need. They go when the next one stands: until then, a reader
    /// that is half-way through the version before finds them.
    superseded: BTreeSet<PathBuf>,
}

impl Writer {
    /// Makes the folder if need be, locks it and reads what stands there, so that versions go on and nothing is
    /// written again that is there already. A state that cannot be read is logged, and replaced by the next
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another writer has the folder, [`StoreError::Io`] if it cannot be used.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_with(folder.into(), Disk::default())
    }

    pub(crate) fn open_with(folder: PathBuf, disk: Disk) -> Result<Self, StoreError> {
        create_folders(&folder)?;
        let lock = Lock::take(&folder)?;
        let mut writer = Self { folder, disk, lock, current: None, highest: 0, superseded: BTreeSet::new() };
        writer.remove_temporary_files()?;
        writer.take_up()?;
        writer.superseded = writer.unreferenced_files()?;
        Ok(writer)
    }

    /// What stands on disk; `None` if nothing does, or nothing that could be read.
    #[must_use]
    pub fn state(&self) -> Option<&Arc<State>> {
        self.current.as_ref().map(|current| &current.state)
    }

    /// Writes the next version, unless it equals what stands on disk. `next.version` is ignored. If somebody
    /// removed or changed the root, all is verified and written again.
    ///
    /// # Errors
    /// [`StoreError::Dangling`] and [`StoreError::Unwritable`] before anything is written;
    /// [`StoreError::Io`] and [`StoreError::LockLost`] leave the version before in force, and the next call
    /// begins anew.
    pub fn publish(&mut self, next: &State) -> Result<Published, StoreError> {
        self.lock.check(&self.folder)?;
        if !self.root_is_own()? {
            return self.rewrite(next);
        }
        let plan = self.plan(self.current.as_ref(), next)?;
        if !plan.is_empty() {
            return self.write_version(plan, next);
        }
        let version = self.highest;
        if let Some(current) = &mut self.current {
            // The next comparison finds the same pointers.
            take_over(&mut current.state, next, version)?;
        }
        Ok(Published { version, changed: false, written: 0, removed: 0 })
    }

    /// Verifies every file of the current version, and writes again what is missing or garbled, as a version of
    /// its own, so that a proxy that refused it tries again. It reads everything: call it when a proxy reports
    /// a refusal.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn repair(&mut self) -> Result<Published, StoreError> {
        self.lock.check(&self.folder)?;
        let Some(state) = self.state().cloned() else {
            return Ok(Published { version: self.highest, changed: false, written: 0, removed: 0 });
        };
        if self.root_is_own()? {
            let plan = self.without_intact_files(build_plan(None, &state)?);
            if plan.files.is_empty() {
                return Ok(Published { version: self.highest, changed: false, written: 0, removed: 0 });
            }
        }
        self.rewrite(&state)
    }

    fn plan(&self, last: Option<&Snapshot>, next: &State) -> Result<Plan, StoreError> {
        let dangling = |reference| StoreError::Dangling { file: self.folder.join(ROOT_FILE), reference };
        next.validate_references_since(last.map(|last| &*last.state)).map_err(dangling)?;
        build_plan(last, next)
    }

    /// Writes a version without trust in anything that stands on disk.
    fn rewrite(&mut self, next: &State) -> Result<Published, StoreError> {
        create_folders(&self.folder)?;
        let plan = self.without_intact_files(self.plan(None, next)?);
        // Some of these may be needed again. What is left over is listed anew afterwards.
        self.superseded.clear();
        let published = self.write_version(plan, next)?;
        self.superseded = self.unreferenced_files()?;
        Ok(published)
    }

    fn without_intact_files(&self, mut plan: Plan) -> Plan {
        plan.files.retain(|(id, _)| {
            let (FileId::Object { digest, .. } | FileId::Shard { digest, .. }) = id;
            read_verified(&id.path(&self.folder), *digest).is_err()
        });
        plan
    }

    fn write_version(&mut self, plan: Plan, next: &State) -> Result<Published, StoreError> {
        let version = self.highest + 1;
        let root = Root::new(version, |kind| plan.index.digests(kind))
            .to_bytes()
            .map_err(|reason| StoreError::Unwritable { object: ROOT_FILE.to_owned(), reason })?;
        if let Err(error) = self.write_files(&plan, &root) {
            let orphans = plan
                .files
                .iter()
                .map(|(id, _)| id)
                .filter(|id| !self.current.as_ref().is_some_and(|current| current.index.contains(id)));
            self.superseded.extend(orphans.map(|id| id.path(&self.folder)));
            return Err(error);
        }
        self.highest = version;
        let mut state = self.current.take().map(|current| current.state).unwrap_or_default();
        take_over(&mut state, next, version)?;
        self.current = Some(Snapshot { state, index: plan.index, root });
        let outdated = std::mem::take(&mut self.superseded);
        self.superseded = plan.dropped.iter().map(|id| id.path(&self.folder)).collect();
        let removed = outdated.iter().filter(|file| self.remove(file)).count();
        Ok(Published { version, changed: true, written: plan.files.len() + 1, removed })
    }

    fn write_files(&mut self, plan: &Plan, root: &[u8]) -> Result<(), StoreError> {
        for (id, text) in &plan.files {
            let file = id.path(&self.folder);
            self.disk.replace_with(&file, text.as_bytes(), id.access())?;
            // An older version may have left it to be removed; now it is needed again.
            self.superseded.remove(&file);
        }
        self.disk.replace(&self.folder.join(ROOT_FILE), root)
    }

    /// Removes a file that nothing needs. Where that fails, it is in nobody's way.
    fn remove(&mut self, file: &Path) -> bool {
        self.disk.remove(file).unwrap_or_else(|error| {
            log::warn!("{error}");
            self.superseded.insert(file.to_owned());
            false
        })
    }

    /// Whether the root is the one that this writer wrote or found. Another one is logged, and its version
    /// noted, so that the next one is above it.
    fn root_is_own(&mut self) -> Result<bool, StoreError> {
        let file = self.folder.join(ROOT_FILE);
        let found = match read_file(&file) {
            Ok(found) => found,
            Err(error @ StoreError::Io { .. }) => return Err(error),
            Err(error) => {
                log::warn!("{error}; all is written again");
                return Ok(false);
            }
        };
        let own = self.current.as_ref().is_some_and(|current| found.as_ref() == Some(&current.root));
        if !own {
            if self.current.is_some() {
                log::warn!("{} is not what this controller wrote; all is written again", file.display());
            }
            self.highest = self.highest.max(found.as_deref().and_then(version_of).unwrap_or(0));
        }
        Ok(own)
    }

    /// Reads what stands on disk.
    fn take_up(&mut self) -> Result<(), StoreError> {
        let file = self.folder.join(ROOT_FILE);
        let root = match read_file(&file) {
            Ok(Some(root)) => root,
            Ok(None) => {
                self.highest = self.acknowledged_version();
                return Ok(());
            }
            Err(error @ StoreError::Io { .. }) => return Err(error),
            Err(error) => {
                log::warn!("{error}; all is written again");
                self.highest = self.acknowledged_version();
                return Ok(());
            }
        };
        let version = version_of(&root);
        match load_snapshot(&self.folder, root, None) {
            Ok(snapshot) => {
                self.highest = snapshot.state.version;
                self.current = Some(snapshot);
            }
            Err(error) => {
                log::warn!("the state before cannot be read, and all is written again: {error}");
                self.highest = version.unwrap_or(0).max(self.acknowledged_version());
            }
        }
        Ok(())
    }

    /// The version that a proxy serves: versions go on above it where the root does not tell.
    fn acknowledged_version(&self) -> u64 {
        match read_acknowledgement(&self.folder) {
            Ok(acknowledgement) => acknowledgement.and_then(|found| found.serving).unwrap_or(0),
            Err(error) => {
                log::warn!("{error}");
                0
            }
        }
    }

    fn remove_temporary_files(&mut self) -> Result<(), StoreError> {
        for folder in std::iter::once(self.folder.clone()).chain(folders(&self.folder)) {
            for file in list_files(&folder)? {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with(TEMPORARY) {
                    self.disk.remove(&file)?;
                }
            }
        }
        Ok(())
    }

    fn unreferenced_files(&self) -> Result<BTreeSet<PathBuf>, StoreError> {
        let mut files = BTreeSet::new();
        for folder in folders(&self.folder) {
            files.extend(list_files(&folder)?);
        }
        for id in self.current.iter().flat_map(|current| current.index.files()) {
            files.remove(&id.path(&self.folder));
        }
        Ok(files)
    }
}

/// Makes a state the same as another one, at this version: what both share is not copied.
fn take_over(state: &mut Arc<State>, next: &State, version: u64) -> Result<(), StoreError> {
    let state = Arc::make_mut(state);
    state.version = version;
    for_each_kind!(take_over_kind(state, next));
    Ok(())
}

fn take_over_kind<T: Object>(state: &mut State, next: &State) -> Result<(), StoreError> {
    let others = differences(T::objects(state), T::objects(next), Arc::ptr_eq);
    let others: Vec<_> = others.map(|(name, _, object)| (name.clone(), object.cloned())).collect();
    for (name, object) in others {
        match object {
            Some(object) => drop(T::objects_mut(state).insert(name, object)),
            None => drop(T::objects_mut(state).remove(name.as_ref())),
        }
    }
    Ok(())
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("folder", &self.folder)
            .field("version", &self.highest)
            .finish_non_exhaustive()
    }
}
