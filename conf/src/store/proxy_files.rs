//! The proxy's answers: which version it serves, and what it sees.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::disk::{Disk, read_file};
use super::{PROXY_FOLDER, StoreError, yaml};
use crate::{Acknowledgement, Reports};

const ACKNOWLEDGEMENT: &str = "acknowledgement.yaml";
const REPORTS: &str = "reports.yaml";

/// Replaces the acknowledgement in the state's folder. One proxy writes to a folder.
///
/// # Errors
/// [`StoreError::Io`] if the file cannot be written, or the state's folder is gone: it is not made anew, because
/// whoever removed it wants it gone. A file that is there stays as it is.
pub fn write_acknowledgement(
    folder: impl AsRef<Path>,
    acknowledgement: &Acknowledgement,
) -> Result<(), StoreError> {
    write(folder.as_ref(), ACKNOWLEDGEMENT, acknowledgement)
}

/// Reads the acknowledgement; `None` if no proxy has written one.
///
/// # Errors
/// Any [`StoreError`] of a file that is there and cannot be read.
pub fn read_acknowledgement(folder: impl AsRef<Path>) -> Result<Option<Acknowledgement>, StoreError> {
    read(folder.as_ref(), ACKNOWLEDGEMENT)
}

/// Replaces the reports in the state's folder. One proxy writes to a folder.
///
/// # Errors
/// [`StoreError::Io`] as with [`write_acknowledgement`].
pub fn write_reports(folder: impl AsRef<Path>, reports: &Reports) -> Result<(), StoreError> {
    write(folder.as_ref(), REPORTS, reports)
}

/// Where the reports stand in the state's folder. The file is only ever replaced, so that its metadata tell whether it
/// is another one.
#[must_use]
pub fn reports_file(folder: impl AsRef<Path>) -> PathBuf {
    folder.as_ref().join(PROXY_FOLDER).join(REPORTS)
}

/// Reads the reports; `None` if no proxy has written any.
///
/// # Errors
/// Any [`StoreError`] of a file that is there and cannot be read.
pub fn read_reports(folder: impl AsRef<Path>) -> Result<Option<Reports>, StoreError> {
    read(folder.as_ref(), REPORTS)
}

fn write<T: Serialize>(folder: &Path, name: &str, value: &T) -> Result<(), StoreError> {
    let folder = folder.join(PROXY_FOLDER);
    match fs::create_dir(&folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StoreError::io("create", &folder, source));
        }
        _ => {}
    }
    let text =
        yaml::to_text(value).map_err(|reason| StoreError::Unwritable { object: name.to_owned(), reason })?;
    Disk::default().replace(&folder.join(name), text.as_bytes())
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, StoreError> {
    let file = folder.join(PROXY_FOLDER).join(name);
    let Some(content) = read_file(&file)? else {
        return Ok(None);
    };
    // The text comes from the proxy, not from the controller: the proxy writes it again by itself.
    let text = String::from_utf8(content).map_err(|_| StoreError::garbled(&file, "it is no text"))?;
    yaml::from_text(&text).map(Some).map_err(|reason| StoreError::garbled(&file, reason))
}
