//! The proxy's side: reads each version as a whole, and only what changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::read_file;
use super::root::version_of;
use super::snapshot::{Snapshot, load_snapshot};
use super::{ROOT_FILE, StoreError};
use crate::State;

/// So often a version is given up for a newer one that came while it was read.
const ATTEMPTS: usize = 8;

/// What [`Reader::read`] found.
#[derive(Debug, Clone)]
pub enum Read {
    /// The version that was read last is still the newest.
    Unchanged,
    /// A new version. It shares all objects that did not change with the one before.
    State(Arc<State>),
}

/// Reads the state, and remembers the last good version.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    last: Option<Snapshot>,
    found: Option<u64>,
}

impl Reader {
    /// A reader of the state in `folder`, which need not exist yet. Nothing is read so far.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), last: None, found: None }
    }

    /// The folder that it reads.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The last good version, which an error leaves as it is.
    #[must_use]
    pub fn state(&self) -> Option<&Arc<State>> {
        self.last.as_ref().map(|last| &last.state)
    }

    /// The version that the newest root bears, if that much of it could be read. After an error it tells which
    /// version was refused.
    #[must_use]
    pub fn found_version(&self) -> Option<u64> {
        self.found
    }

    /// Reads the newest version, unless it was read already. It blocks on files only, never on the writer.
    ///
    /// # Errors
    /// [`StoreError::Missing`] while there is no root; any other variant if the newest version cannot be taken.
    /// The last good version stays, and the next call tries again.
    pub fn read(&mut self) -> Result<Read, StoreError> {
        let root_file = self.folder.join(ROOT_FILE);
        let mut root = self.read_root(&root_file)?;
        let mut attempt = 1;
        loop {
            if self.last.as_ref().is_some_and(|last| last.root == root) {
                return Ok(Read::Unchanged);
            }
            let error = match load_snapshot(&self.folder, root.clone(), self.last.as_ref()) {
                Ok(snapshot) => {
                    let state = Arc::clone(&snapshot.state);
                    self.last = Some(snapshot);
                    return Ok(Read::State(state));
                }
                Err(error) => error,
            };
            // Only the newest root counts: what fails may be of a version that is gone already.
            let newest = self.read_root(&root_file)?;
            if newest == root || attempt == ATTEMPTS {
                return Err(error);
            }
            root = newest;
            attempt += 1;
        }
    }

    fn read_root(&mut self, file: &Path) -> Result<Vec<u8>, StoreError> {
        self.found = None;
        let root = read_file(file)?.ok_or_else(|| StoreError::Missing { file: file.to_owned() })?;
        self.found = version_of(&root);
        Ok(root)
    }
}
