//! Follows manifests: every change is read, translated and published.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use understudy_conf::store::StoreError;

use crate::load::Loader;
use crate::publish::Publisher;
use crate::watch::{ChangeWatcher, Source, WatchError};
use crate::{Options, Report, build_report};

/// Changes within this time are one: an editor makes several of one save.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A burst that does not end is cut here.
const DEBOUNCE_LIMIT: Duration = Duration::from_millis(500);
/// All is read again this often, in case a notification was lost.
const RESCAN: Duration = Duration::from_secs(3);
/// A proxy that refuses the state is noticed this soon.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(1);

/// Why following ended, or could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The state's folder cannot be used.
    #[error("the state cannot be written to {folder}: {source}", folder = folder.display())]
    State {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// Publishes the manifests' state into a folder, and again after every change, until `shutdown` is ready.
///
/// `on_report` gets the first report, and after that each one whose state or diagnostics differ from the one
/// before, always after its state was published. A state that cannot be written is logged and written a little
/// later; what was published before stays.
///
/// # Errors
/// [`FollowError`] if the folder cannot be opened for writing at the start.
pub async fn follow(
    sources: &[Source],
    options: &Options,
    state_dir: impl Into<PathBuf>,
    shutdown: impl Future<Output = ()>,
    mut on_report: impl FnMut(&Report),
) -> Result<(), FollowError> {
    let folder = state_dir.into();
    let publisher = Publisher::open(&folder).map_err(|source| FollowError::State { folder, source })?;
    let mut follower =
        Follower { sources, options, publisher, loader: Loader::default(), last: None, failed: false };
    let mut watcher = match ChangeWatcher::new() {
        Ok(watcher) => Some(watcher),
        Err(error @ WatchError::Unavailable(_)) => {
            log::warn!("{error}; changes are found a few seconds later");
            None
        }
    };
    let mut rescan = interval_at(Instant::now() + RESCAN, RESCAN);
    rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut acknowledgement = interval_at(Instant::now() + ACKNOWLEDGEMENT, ACKNOWLEDGEMENT);
    acknowledgement.set_missed_tick_behavior(MissedTickBehavior::Delay);
    follower.run_once(watcher.as_mut(), &mut on_report);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = settled_change(watcher.as_mut()) => follower.run_once(watcher.as_mut(), &mut on_report),
            _ = rescan.tick() => follower.run_once(watcher.as_mut(), &mut on_report),
            _ = acknowledgement.tick() => follower.repair(),
        }
    }
}

/// Waits for a change, and until no further one follows it closely.
async fn settled_change(watcher: Option<&mut ChangeWatcher>) {
    let Some(watcher) = watcher else { return std::future::pending().await };
    watcher.changed().await;
    let limit = sleep(DEBOUNCE_LIMIT);
    tokio::pin!(limit);
    loop {
        tokio::select! {
            () = watcher.changed() => {}
            () = sleep(DEBOUNCE) => return,
            () = &mut limit => return,
        }
    }
}

struct Follower<'a> {
    sources: &'a [Source],
    options: &'a Options,
    publisher: Publisher,
    loader: Loader,
    last: Option<Report>,
    /// Whether the last state could not be written.
    failed: bool,
}

impl Follower<'_> {
    fn run_once(&mut self, watcher: Option<&mut ChangeWatcher>, on_report: &mut impl FnMut(&Report)) {
        let loaded = self.loader.load(self.sources);
        if let Some(watcher) = watcher {
            watcher.watch(&loaded.folders);
        }
        let report = build_report(loaded, self.options);
        let same = self
            .last
            .as_ref()
            .is_some_and(|last| last.state == report.state && last.diagnostics == report.diagnostics);
        if same && !self.failed {
            return;
        }
        self.publish(&report);
        if !same {
            on_report(&report);
        }
        self.last = Some(report);
    }

    fn publish(&mut self, report: &Report) {
        match self.publisher.publish(&report.state) {
            Ok(published) => {
                self.failed = false;
                if published.changed {
                    log::info!(
                        "state version {}: {} files written, {} removed",
                        published.version,
                        published.written,
                        published.removed
                    );
                }
            }
            Err(error) => {
                self.failed = true;
                log::error!("the state could not be written, and is tried again: {error}");
            }
        }
    }

    fn repair(&mut self) {
        if let Err(error) = self.publisher.repair_refused(Instant::now()) {
            log::error!("the state could not be written again: {error}");
        }
    }
}
