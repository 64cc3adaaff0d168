//! The folder that a writer has to itself.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::kind::Kind;
use super::layout::{INDEX, LOCK_FILE};

/// The lock of a folder. The operating system releases it when the process ends, however it ends.
pub(crate) struct Lock(File);

impl Lock {
    pub(crate) fn take(folder: &Path) -> Result<Self, StoreError> {
        let file = folder.join(LOCK_FILE);
        let failed = |source| StoreError::io("lock", &file, source);
        let lock = File::options().create(true).truncate(false).write(true).open(&file).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self(lock)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { file }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Whether the locked file is still the one that the next controller would try to lock.
    pub(crate) fn check(&self, folder: &Path) -> Result<(), StoreError> {
        let file = folder.join(LOCK_FILE);
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let held =
            self.0.metadata().map(identity).map_err(|source| StoreError::io("inspect", &file, source))?;
        match fs::metadata(&file).map(identity) {
            Ok(found) if found == held => Ok(()),
            _ => Err(StoreError::LockLost { file }),
        }
    }
}

/// The folders that hold the files of the state.
pub(crate) fn folders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    Kind::ALL.into_iter().map(Kind::folder).chain([INDEX]).map(|name| folder.join(name))
}

pub(crate) fn create_folders(folder: &Path) -> Result<(), StoreError> {
    let private =
        Kind::ALL.into_iter().filter(|kind| kind.is_private()).map(|kind| folder.join(kind.folder()));
    let private: Vec<_> = private.collect();
    fs::create_dir_all(folder).map_err(|source| StoreError::io("create", folder, source))?;
    folders(folder).try_for_each(|folder| {
        let mode = if private.contains(&folder) { 0o700 } else { 0o777 };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&folder)
            .map_err(|source| StoreError::io("create", &folder, source))
    })
}

/// The files in a folder of ours. Folders in it are none of ours.
pub(crate) fn list_files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::io("list", folder, source);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
