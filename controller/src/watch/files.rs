//! Manifest files and folders.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::watch::yaml::MAX_BYTES;

/// Files that are read from all folders together.
const MAX_FILES: usize = 100_000;
/// Deepest folder.
const MAX_FOLDERS: usize = 32;

/// Where manifests are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, or a folder whose `*.yaml`, `*.yml` and `*.json` are read, in folders below it too, in the order
    /// of their names. Names that begin with a dot are left out.
    Path(PathBuf),
    /// Standard input, read once.
    Stdin,
}

impl Source {
    /// What a command line means: `-` is standard input, all else a path.
    #[must_use]
    pub fn from_argument(argument: &str) -> Self {
        if argument == "-" { Self::Stdin } else { Self::Path(argument.into()) }
    }
}

/// A manifest's text.
#[derive(Debug)]
pub(crate) struct FileText {
    /// Its name in diagnostics.
    pub(crate) name: Arc<str>,
    pub(crate) text: Result<String, io::Error>,
    /// When it was changed, if that is known.
    pub(crate) modified: Option<SystemTime>,
}

/// What standard input held, once it was read.
pub(crate) type StdinText = Option<Result<String, String>>;

/// Reads standard input to its end.
pub(crate) fn read_stdin() -> Result<String, String> {
    read_bounded(io::stdin().lock()).map_err(|error| error.to_string())
}

/// The texts of all manifests.
#[derive(Debug, Default)]
pub(crate) struct FileTexts {
    /// In the order of the sources.
    pub(crate) files: Vec<FileText>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Folders in which a change may matter.
    pub(crate) folders: BTreeSet<PathBuf>,
}

/// Reads all texts. Standard input comes from `stdin`, and is read into it the first time. The folder
/// `excluded` is left out: the state may be written below the manifests.
pub(crate) fn read_texts(sources: &[Source], excluded: Option<&Path>, stdin: &mut StdinText) -> FileTexts {
    let excluded = excluded.and_then(|folder| folder.canonicalize().ok());
    let mut reader =
        TextReader { texts: FileTexts::default(), seen: BTreeSet::new(), excluded, is_full: false };
    for source in sources {
        match source {
            Source::Stdin => reader.take_stdin(stdin),
            Source::Path(path) => reader.read_path(path),
        }
    }
    reader.texts
}

struct TextReader {
    texts: FileTexts,
    /// A file that is reached twice is read once.
    seen: BTreeSet<PathBuf>,
    /// A folder that is left out.
    excluded: Option<PathBuf>,
    /// Whether more files were found than are read.
    is_full: bool,
}

impl TextReader {
    fn take_stdin(&mut self, stdin: &mut StdinText) {
        if self.seen.insert(PathBuf::from("-")) {
            let text = stdin.get_or_insert_with(read_stdin).clone().map_err(io::Error::other);
            self.texts.files.push(FileText { name: "<stdin>".into(), text, modified: None });
        }
    }

    fn read_path(&mut self, path: &Path) {
        if !path.is_dir() {
            if let Some(folder) = path.parent() {
                let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                self.texts.folders.insert(folder.to_owned());
            }
            return self.read_file(path);
        }
        let before = self.texts.files.len();
        self.read_folder(path, 0);
        if self.texts.files.len() == before {
            let place = Place::file(&display(path));
            self.texts.diagnostics.push(reasons::no_manifests(&place));
        }
    }

    fn read_folder(&mut self, folder: &Path, depth: usize) {
        if self.excluded.is_some() && folder.canonicalize().ok() == self.excluded {
            return;
        }
        self.texts.folders.insert(folder.to_owned());
        let entries = match list_folder(folder) {
            Ok(entries) => entries,
            Err(error) => {
                let diagnostic = reasons::unreadable(&Place::file(&display(folder)), &error);
                return self.texts.diagnostics.push(diagnostic);
            }
        };
        for path in entries {
            // Links to folders are not followed: they could lead around in circles, and a mounted ConfigMap
            // shows each of its files a second time behind one.
            let is_folder = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            if is_folder && depth < MAX_FOLDERS {
                self.read_folder(&path, depth + 1);
            } else if is_manifest(&path) && path.is_file() {
                self.read_file(&path);
            }
        }
    }

    fn read_file(&mut self, path: &Path) {
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if !self.seen.insert(identity) {
            return;
        }
        if self.texts.files.len() >= MAX_FILES {
            if !self.is_full {
                let place = Place::file(&display(path));
                self.texts.diagnostics.push(reasons::too_many_files(&place, MAX_FILES));
            }
            self.is_full = true;
            return;
        }
        let text = fs::File::open(path).and_then(read_bounded);
        // After reading, so that a write in between is seen.
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        self.texts.files.push(FileText { name: display(path), text, modified });
    }
}

fn display(path: &Path) -> Arc<str> {
    path.display().to_string().into()
}

fn list_folder(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}

fn read_bounded(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    let read = input.take(limit + 1).read_to_string(&mut text)?;
    if read > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {MAX_BYTES} bytes"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_with_their_folders_in_the_order_of_names_and_each_file_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("b")).unwrap();
        fs::create_dir(path.join("..data")).unwrap();
        for name in ["z.yaml", "a.json", "b/c.yml", "note.txt", ".hidden.yaml", "..data/z.yaml"] {
            fs::write(path.join(name), name).unwrap();
        }
        let sources = [Source::Path(path.to_owned()), Source::Path(path.join("a.json"))];
        let texts = read_texts(&sources, None, &mut None);
        let read: Vec<_> = texts.files.iter().map(|file| file.text.as_deref().unwrap()).collect();
        assert_eq!(read, ["a.json", "b/c.yml", "z.yaml"]);
        assert!(texts.folders.contains(&path.join("b")));
    }

    #[test]
    fn the_folder_of_the_state_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::write(state.join("state.yaml"), "format: 1\n").unwrap();
        fs::write(folder.path().join("a.yaml"), "").unwrap();
        let texts = read_texts(&[Source::Path(folder.path().to_owned())], Some(&state), &mut None);
        assert_eq!(texts.files.len(), 1);
        assert!(!texts.folders.contains(&state));
    }

    #[test]
    fn a_missing_file_is_an_error_and_an_empty_folder_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let sources = [Source::Path(folder.path().join("no.yaml")), Source::Path(folder.path().to_owned())];
        let texts = read_texts(&sources, None, &mut None);
        assert!(texts.files[0].text.is_err());
        assert_eq!(texts.diagnostics.len(), 1);
        assert!(!texts.diagnostics[0].is_error());
    }

    #[test]
    fn a_minus_is_standard_input() {
        assert_eq!(Source::from_argument("-"), Source::Stdin);
        assert_eq!(Source::from_argument("a.yaml"), Source::Path("a.yaml".into()));
    }
}
