//! Reading and writing of single files.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
#[cfg(test)]
use std::path::PathBuf;

use super::layout::TEMPORARY;
use super::{MAX_FILE_BYTES, StoreError};

/// Reads a whole file of bounded size; `None` if it is not there.
pub(crate) fn read_file(file: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(StoreError::io("read", file, source)),
    };
    // Opening a pipe would wait for its other end.
    match fs::metadata(file) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(StoreError::garbled(file, "it is not a regular file"));
        }
        Ok(_) => {}
        Err(source) => return failed(source),
    }
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(source) => return failed(source),
    };
    let mut content = Vec::new();
    // The length that the file system states is not trusted: a file may grow meanwhile.
    match opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut content) {
        Ok(read) if read as u64 > MAX_FILE_BYTES => {
            Err(StoreError::TooLarge { file: file.to_owned(), limit: MAX_FILE_BYTES })
        }
        Ok(_) => Ok(Some(content)),
        Err(source) => failed(source),
    }
}

/// One step of a change on disk, as tests see it.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Write(PathBuf),
    Rename(PathBuf),
    Remove(PathBuf),
}

/// Called before each step; an error stops the writer there, as a kill would.
#[cfg(test)]
pub(crate) type Hook = Box<dyn FnMut(Step) -> io::Result<()> + Send>;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whoever the process's file mode creation mask lets.
    Shared,
    /// Its owner only.
    Private,
}

/// Writes a whole file. A private one is never readable by others, not even while it is empty.
fn write_whole(file: &Path, content: &[u8], access: Access) -> io::Result<()> {
    match access {
        Access::Shared => fs::write(file, content),
        Access::Private => {
            // One that is there already may have another mode.
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            File::options().write(true).create_new(true).mode(0o600).open(file)?.write_all(content)
        }
    }
}

/// What changes files. Every write is complete under its final name, or not there at all.
#[derive(Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) hook: Option<Hook>,
}

impl Disk {
    /// Writes a file beside its place, then renames it there.
    pub(crate) fn replace(&mut self, file: &Path, content: &[u8]) -> Result<(), StoreError> {
        self.replace_with(file, content, Access::Shared)
    }

    /// The same, with a say in who may read it.
    pub(crate) fn replace_with(
        &mut self,
        file: &Path,
        content: &[u8],
        access: Access,
    ) -> Result<(), StoreError> {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            let source = io::Error::other("it is no path of a file");
            return Err(StoreError::io("write", file, source));
        };
        let mut temporary = std::ffi::OsString::from(TEMPORARY);
        temporary.push(name);
        let temporary = folder.join(temporary);
        self.write(&temporary, content, access)
            .map_err(|source| StoreError::io("write", &temporary, source))?;
        self.rename(&temporary, file).map_err(|source| StoreError::io("replace", file, source))
    }

    /// Removes a file; one that is not there is no error.
    pub(crate) fn remove(&mut self, file: &Path) -> Result<bool, StoreError> {
        let removed = self.step_remove(file).and_then(|()| fs::remove_file(file));
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(StoreError::io("remove", file, source)),
        }
    }

    #[cfg(not(test))]
    fn write(&mut self, file: &Path, content: &[u8], access: Access) -> io::Result<()> {
        write_whole(file, content, access)
    }

    #[cfg(not(test))]
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    #[cfg(not(test))]
    fn step_remove(&mut self, _file: &Path) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn write(&mut self, file: &Path, content: &[u8], access: Access) -> io::Result<()> {
        if let Err(error) = self.step(Step::Write(file.to_owned())) {
            // A writer that is killed while it writes leaves a part.
            write_whole(file, &content[..content.len() / 2], access)?;
            return Err(error);
        }
        write_whole(file, content, access)
    }

    #[cfg(test)]
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Step::Rename(to.to_owned()))?;
        fs::rename(from, to)
    }

    #[cfg(test)]
    fn step_remove(&mut self, file: &Path) -> io::Result<()> {
        self.step(Step::Remove(file.to_owned()))
    }

    #[cfg(test)]
    fn step(&mut self, step: Step) -> io::Result<()> {
        self.hook.as_mut().map_or(Ok(()), |hook| hook(step))
    }
}
