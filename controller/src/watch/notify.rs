//! Learns of changes in folders.

use std::collections::BTreeSet;
use std::path::PathBuf;

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Why folders cannot be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// The system refuses notifications.
    #[error("changes of files cannot be watched: {0}")]
    Unavailable(#[source] notify::Error),
}

/// Watches folders. Editors replace files instead of writing them, so folders are watched, not files.
pub(crate) struct ChangeWatcher {
    watcher: notify::RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    changes: mpsc::Receiver<()>,
}

impl ChangeWatcher {
    pub(crate) fn new() -> Result<Self, WatchError> {
        // One place is enough: what matters is that something changed, not how often.
        let (sender, changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let reading = event.as_ref().is_ok_and(|event| matches!(event.kind, EventKind::Access(_)));
            if !reading {
                let _ = sender.try_send(());
            }
        })
        .map_err(WatchError::Unavailable)?;
        Ok(Self { watcher, watched: BTreeSet::new(), changes })
    }

    /// Watches exactly these folders; says whether one of them is new, so that a change that was made before
    /// it was watched can be looked for. One that cannot be watched is left to the slow rescan.
    pub(crate) fn watch(&mut self, folders: &BTreeSet<PathBuf>) -> bool {
        let mut is_new = false;
        let gone: Vec<_> = self.watched.difference(folders).cloned().collect();
        for folder in gone {
            let _ = self.watcher.unwatch(&folder);
            self.watched.remove(&folder);
        }
        for folder in folders {
            // Watching again is harmless, and finds a folder that was replaced by another of its name.
            let result = self.watcher.watch(folder, RecursiveMode::NonRecursive);
            let first = self.watched.insert(folder.clone());
            is_new |= first;
            if let Err(error) = result
                && first
            {
                let folder = folder.display();
                log::warn!(
                    "{folder} cannot be watched, so its changes are found a few seconds later: {error}"
                );
            }
        }
        is_new
    }

    /// Waits for a change. Changes that come together are one.
    pub(crate) async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The watcher lives as long as this, so its sender does too.
            std::future::pending::<()>().await;
        }
    }
}
