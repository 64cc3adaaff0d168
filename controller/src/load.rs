//! From texts to the cluster's state, with a memory: what was good stays until something good replaces it.
//!
//! Inputs: the texts of the manifests, and what they were the last time. Outputs: a [`Cluster`] and what was
//! wrong while reading. A file whose text did not change is not read again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::cluster::{Cluster, Refused};
use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::watch::{
    Batch, FileText, FileTexts, KnownObject, ObjectId, Source, StdinText, read_manifest, read_texts,
};

/// A change is complete when nothing followed it for this long.
const SETTLED: Duration = Duration::from_millis(50);
/// A file that was emptied is meant to be empty when nothing followed for this long.
const EMPTIED: Duration = Duration::from_millis(800);

/// What to do with a change that may not be complete.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Settling {
    /// Leave it alone, as the time is now.
    Wait(SystemTime),
    /// Take it.
    TakeAll,
}

/// What a look at the manifests found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refreshed {
    /// Nothing differs from the last time.
    Unchanged,
    /// Something differs, and was taken.
    Changed,
    /// Something differs, and was left alone because more may follow.
    Unsettled,
}

/// Reads manifests again and again.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    files: BTreeMap<Arc<str>, Remembered>,
    /// The files in the order of the sources.
    order: Vec<Arc<str>>,
    /// What was said of files and folders the last time.
    reading: Vec<Diagnostic>,
    folders: BTreeSet<PathBuf>,
    stdin: StdinText,
    /// A folder that holds no manifests.
    excluded: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Remembered {
    text: Option<String>,
    batch: Arc<Batch>,
    /// The newest objects of the file that broke no rule.
    good: BTreeMap<ObjectId, KnownObject>,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) cluster: Cluster,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Loader {
    /// A loader that leaves a folder out.
    pub(crate) fn excluding(folder: PathBuf) -> Self {
        Self { excluded: Some(folder), ..Self::default() }
    }

    /// Takes what standard input held, so that it need not be read here.
    pub(crate) fn take_stdin(&mut self, text: Result<String, String>) {
        self.stdin = Some(text);
    }

    /// Reads all texts as they are now. With [`Settling::Wait`], a change that is so young that more of it may
    /// follow is left alone, as a whole.
    pub(crate) fn refresh(&mut self, sources: &[Source], settling: Settling) -> Refreshed {
        let texts = read_texts(sources, self.excluded.as_deref(), &mut self.stdin);
        if let Settling::Wait(now) = settling
            && self.is_unsettled(&texts, now)
        {
            return Refreshed::Unsettled;
        }
        let FileTexts { files, mut diagnostics, folders } = texts;
        let order: Vec<_> = files.iter().map(|file| file.name.clone()).collect();
        let mut changed = order != self.order;
        for file in files {
            let remembered = self.files.entry(file.name.clone()).or_default();
            match file.text {
                Ok(text) => changed |= remembered.take(&file.name, text),
                Err(error) => {
                    diagnostics.push(reasons::unreadable(&Place::file(&file.name), &error));
                    changed |= remembered.lose();
                }
            }
        }
        let names: BTreeSet<_> = order.iter().cloned().collect();
        self.files.retain(|name, _| names.contains(name));
        changed |= diagnostics != self.reading;
        (self.order, self.reading, self.folders) = (order, diagnostics, folders);
        if changed { Refreshed::Changed } else { Refreshed::Unchanged }
    }

    /// Whether a file or folder was changed a moment ago. Not every program writes a file in one piece, and
    /// half a file may be valid.
    fn is_unsettled(&self, texts: &FileTexts, now: SystemTime) -> bool {
        let is_young = |modified: Option<SystemTime>, patience: Duration| {
            modified.and_then(|modified| now.duration_since(modified).ok()).is_some_and(|age| age < patience)
        };
        let half_written = texts.files.iter().any(|file| {
            let Ok(text) = &file.text else { return false };
            let before = self.files.get(&file.name).and_then(|remembered| remembered.text.as_ref());
            // Programs that write in place empty a file first.
            let emptied = text.is_empty() && before.is_some_and(|before| !before.is_empty());
            before != Some(text) && is_young(file.modified, if emptied { EMPTIED } else { SETTLED })
        });
        let same_files = texts.files.iter().map(|file: &FileText| &file.name).eq(&self.order);
        half_written
            || !same_files
                && texts.folders.iter().any(|folder| {
                    is_young(std::fs::metadata(folder).and_then(|metadata| metadata.modified()).ok(), SETTLED)
                })
    }

    /// Folders in which a change may matter.
    pub(crate) fn folders(&self) -> &BTreeSet<PathBuf> {
        &self.folders
    }

    /// Joins what was read.
    pub(crate) fn load(&mut self) -> Loaded {
        let mut cluster = Cluster::default();
        let mut diagnostics = self.reading.clone();
        for name in &self.order {
            if let Some(remembered) = self.files.get_mut(name) {
                remembered.add_to(name, &mut cluster, &mut diagnostics);
            }
        }
        Loaded { cluster, diagnostics }
    }
}

impl Remembered {
    /// Takes the text that the file has now; says whether it is another one.
    fn take(&mut self, file: &Arc<str>, text: String) -> bool {
        let changed = self.text.as_ref() != Some(&text);
        if changed {
            self.batch = Arc::new(read_manifest(file, &text));
            self.text = Some(text);
        }
        changed
    }

    /// The file cannot be read now; says whether it could before.
    fn lose(&mut self) -> bool {
        self.batch = Arc::new(Batch { garbled: true, ..Batch::default() });
        self.text.take().is_some()
    }

    fn add_to(&mut self, file: &Arc<str>, cluster: &mut Cluster, diagnostics: &mut Vec<Diagnostic>) {
        let batch = self.batch.clone();
        diagnostics.extend(batch.diagnostics.iter().cloned());
        if batch.garbled {
            if !self.good.is_empty() {
                diagnostics.push(reasons::last_good_file(&Place::file(file)));
            }
            for object in self.good.values() {
                cluster.add(object.clone(), diagnostics);
            }
            return;
        }
        let named: BTreeSet<_> = batch.found.iter().map(|found| &found.id).collect();
        self.good.retain(|id, _| named.contains(id));
        let mut seen = BTreeSet::new();
        for found in &batch.found {
            let good = found.object.as_ref().is_some_and(KnownObject::is_valid);
            let first = seen.insert(&found.id);
            if good && first {
                self.good.extend(found.object.clone().map(|object| (found.id.clone(), object)));
            }
            let kept = if good { None } else { self.good.get(&found.id).filter(|_| first) };
            if kept.is_some() {
                let place = Place::line(file, found.line).named(Some(&found.id.to_string()), "");
                diagnostics.push(reasons::last_good_object(&place));
            }
            match kept.or(found.object.as_ref()) {
                Some(object) => cluster.add(object.clone(), diagnostics),
                None => {
                    let location = format!("{file}:{}", found.line);
                    let refused = Refused { location, remains: found.remains.clone() };
                    Arc::make_mut(&mut cluster.refused).insert(found.id.clone(), refused);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::Reason;
    use proptest::prelude::*;
    use std::fs;

    struct Folder {
        folder: tempfile::TempDir,
        loader: Loader,
    }

    impl Folder {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), loader: Loader::default() }
        }

        fn load(&mut self, text: &str) -> (Vec<String>, Vec<Reason>) {
            fs::write(self.folder.path().join("a.yaml"), text).unwrap();
            self.loader.refresh(&[Source::Path(self.folder.path().to_owned())], Settling::TakeAll);
            let loaded = self.loader.load();
            let ports = loaded.cluster.backends.values().map(|backend| {
                let endpoints = backend.value.spec.endpoints.clone().unwrap_or_default();
                format!("{} {}", backend.key, endpoints[0].ip.as_ref().unwrap().port)
            });
            (ports.collect(), loaded.diagnostics.iter().map(|diagnostic| diagnostic.reason).collect())
        }
    }

    fn backend(name: &str, port: &str) -> String {
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\n\
             spec: {{endpoints: [{{ip: {{address: 127.0.0.1, port: {port}}}}}]}}\n---\n"
        )
    }

    #[test]
    fn an_object_that_became_invalid_keeps_its_last_good_version_and_the_others_move_on() {
        let mut folder = Folder::new();
        assert_eq!(folder.load(&(backend("a", "1") + &backend("b", "2"))).1, []);
        for wrong in ["70000", "many"] {
            let (ports, reasons) = folder.load(&(backend("a", wrong) + &backend("b", "3")));
            assert_eq!(ports, ["default/a 1", "default/b 3"]);
            assert!(reasons.contains(&Reason::LastGoodKept), "{reasons:?}");
        }
        assert_eq!(folder.load(&backend("a", "4")).0, ["default/a 4"]);
    }

    #[test]
    fn a_file_that_is_no_yaml_any_more_keeps_its_objects() {
        let mut folder = Folder::new();
        folder.load(&backend("a", "1"));
        let (ports, reasons) = folder.load("a: [1, 2\nb: {");
        assert_eq!(ports, ["default/a 1"]);
        assert_eq!(reasons, [Reason::Syntax, Reason::LastGoodKept]);
        assert_eq!(folder.load("# nothing any more\n").0, [""; 0]);
    }

    #[test]
    fn an_object_that_was_never_good_is_refused_and_known_as_such() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), backend("a", "many")).unwrap();
        let mut loader = Loader::default();
        loader.refresh(&[Source::Path(folder.path().to_owned())], Settling::TakeAll);
        let loaded = loader.load();
        assert_eq!(loaded.cluster.refused.len(), 1);
        assert!(loaded.cluster.backends.is_empty());
    }

    #[test]
    fn a_change_is_taken_when_it_is_complete() {
        let mut folder = Folder::new();
        folder.load(&backend("a", "1"));
        let sources = [Source::Path(folder.folder.path().to_owned())];
        let path = folder.folder.path().join("a.yaml");
        let mut look = |text: &str, age: u64| {
            fs::write(&path, text).unwrap();
            let now = fs::metadata(&path).unwrap().modified().unwrap() + Duration::from_millis(age);
            folder.loader.refresh(&sources, Settling::Wait(now))
        };
        assert_eq!(look(&backend("a", "2"), 10), Refreshed::Unsettled);
        assert_eq!(look(&backend("a", "1"), 10), Refreshed::Unchanged);
        assert_eq!(look(&backend("a", "2"), 60), Refreshed::Changed);
        assert_eq!(look("", 500), Refreshed::Unsettled);
        assert_eq!(look("", 900), Refreshed::Changed);
    }

    /// What may stand in a file: something valid.
    fn valid_text() -> impl Strategy<Value = String> {
        prop::collection::vec((0..4u8, 1..4u16), 0..4).prop_map(|objects| {
            let mut names = BTreeSet::new();
            let distinct = objects.into_iter().filter(|(name, _)| names.insert(*name));
            distinct.map(|(name, port)| backend(&format!("b{name}"), &port.to_string())).collect()
        })
    }

    proptest! {
        #[test]
        fn reading_again_and_again_gives_what_reading_once_gives(
            edits in prop::collection::vec((0..3u8, prop::option::weighted(0.8, valid_text())), 1..8),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let sources = [Source::Path(folder.path().to_owned())];
            let mut loader = Loader::default();
            loader.refresh(&sources, Settling::TakeAll);
            for (file, text) in edits {
                let path = folder.path().join(format!("{file}.yaml"));
                match text {
                    Some(text) => fs::write(path, text).unwrap(),
                    None => drop(fs::remove_file(path)),
                }
                loader.refresh(&sources, Settling::TakeAll);
                prop_assert_eq!(loader.refresh(&sources, Settling::TakeAll), Refreshed::Unchanged);
                let mut fresh = Loader::default();
                fresh.refresh(&sources, Settling::TakeAll);
                let (again, once) = (loader.load(), fresh.load());
                prop_assert_eq!(&again.diagnostics, &once.diagnostics);
                let backends = |loaded: &Loaded| -> Vec<_> {
                    loaded.cluster.backends.values().map(|backend| (backend.key.clone(), backend.value.clone())).collect()
                };
                prop_assert_eq!(backends(&again), backends(&once));
            }
        }
    }
}
