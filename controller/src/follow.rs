//! Follows manifests: every change is read, translated and published.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use understudy_conf::store::StoreError;

use crate::load::{Loader, Refreshed, Settling};
use crate::publish::Publisher;
use crate::watch::{ChangeWatcher, Source, WatchError, read_stdin};
use crate::{Options, Report, build_report};

/// Changes within this time are one: an editor makes several of one save.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A burst that does not end is cut here.
const DEBOUNCE_LIMIT: Duration = Duration::from_millis(500);
/// All is read again this often, in case a notification was lost.
const RESCAN: Duration = Duration::from_secs(3);
/// How often, and at which distance, a change that may not be complete is looked at before it is taken as it is.
const SETTLING_LOOKS: u32 = 40;
const SETTLING_PAUSE: Duration = Duration::from_millis(25);
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
    /// Translating did not end, because of a fault in it or because the runtime shuts down.
    #[error("following the manifests was cut short: {0}")]
    CutShort(#[source] tokio::task::JoinError),
}

/// Publishes the manifests' state into a folder, and again after every change, until `shutdown` is ready.
///
/// `on_report` gets the first report, and after that each one whose state or diagnostics differ from the one
/// before, always after its state was published. A state that cannot be written is logged and written a little
/// later; what was published before stays. Files are read and written on the runtime's threads for blocking
/// work.
///
/// # Errors
/// [`FollowError`] if the folder cannot be opened for writing at the start, or if the runtime ends.
pub async fn follow(
    sources: &[Source],
    options: &Options,
    state_dir: impl Into<PathBuf>,
    shutdown: impl Future<Output = ()>,
    mut on_report: impl FnMut(&Report),
) -> Result<(), FollowError> {
    let folder = state_dir.into();
    let publisher =
        Publisher::open(&folder).map_err(|source| FollowError::State { folder: folder.clone(), source })?;
    tokio::pin!(shutdown);
    let mut loader = Loader::excluding(folder);
    if sources.contains(&Source::Stdin) {
        tokio::select! {
            text = read_stdin_aside() => loader.take_stdin(text),
            () = &mut shutdown => return Ok(()),
        }
    }
    let mut follower = Follower {
        sources: sources.to_vec(),
        options: options.clone(),
        publisher,
        loader,
        last: None,
        failed: false,
    };
    let mut watcher = match ChangeWatcher::new() {
        Ok(watcher) => Some(watcher),
        Err(error @ WatchError::Unavailable(_)) => {
            log::warn!("{error}; changes are found a few seconds later");
            None
        }
    };
    let mut rescan = ticks(RESCAN);
    let mut acknowledgement = ticks(ACKNOWLEDGEMENT);
    let mut work = Work::Read;
    loop {
        let report;
        (follower, report) = follower.run(work).await?;
        if let Some(report) = report {
            on_report(&report);
        }
        if watcher.as_mut().is_some_and(|watcher| watcher.watch(follower.loader.folders())) {
            work = Work::Read;
            continue;
        }
        work = tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = settled_change(watcher.as_mut()) => Work::Read,
            _ = rescan.tick() => Work::Read,
            _ = acknowledgement.tick() => Work::Repair,
        };
    }
}

/// Reads standard input on a thread that nobody waits for: it may never end.
async fn read_stdin_aside() -> Result<String, String> {
    let (sender, text) = oneshot::channel();
    std::thread::spawn(move || drop(sender.send(read_stdin())));
    text.await.unwrap_or_else(|_| Err("the thread that read it is gone".to_owned()))
}

/// Ticks from one period on. One that is late moves those after it.
pub(crate) fn ticks(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
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

#[derive(Clone, Copy)]
enum Work {
    /// Read the manifests, and publish what changed.
    Read,
    /// Write again what the proxy refuses.
    Repair,
}

struct Follower {
    sources: Vec<Source>,
    options: Options,
    publisher: Publisher,
    loader: Loader,
    last: Option<Arc<Report>>,
    /// Whether the last state could not be written.
    failed: bool,
}

impl Follower {
    async fn run(mut self, work: Work) -> Result<(Self, Option<Arc<Report>>), FollowError> {
        let now = Instant::now();
        let run = move || {
            let report = match work {
                Work::Read => self.read(),
                Work::Repair => {
                    self.repair(now);
                    None
                }
            };
            (self, report)
        };
        tokio::task::spawn_blocking(run).await.map_err(FollowError::CutShort)
    }

    /// Reads and publishes; gives the report if it is a new one.
    fn read(&mut self) -> Option<Arc<Report>> {
        let changed = self.refresh();
        match &self.last {
            Some(_) if !changed && !self.failed => return None,
            Some(last) if !changed => {
                let last = last.clone();
                self.publish(&last);
                return None;
            }
            _ => {}
        }
        let report = Arc::new(build_report(self.loader.load(), &self.options));
        if self.failed || self.last.as_ref().is_none_or(|last| last.state != report.state) {
            self.publish(&report);
        }
        let is_new = self.last.as_ref() != Some(&report);
        self.last = Some(report.clone());
        is_new.then_some(report)
    }

    /// Looks at the manifests until what changed is complete; says whether anything changed.
    fn refresh(&mut self) -> bool {
        for _ in 0..SETTLING_LOOKS {
            match self.loader.refresh(&self.sources, Settling::Wait(SystemTime::now())) {
                Refreshed::Unchanged => return false,
                Refreshed::Changed => return true,
                Refreshed::Unsettled => std::thread::sleep(SETTLING_PAUSE),
            }
        }
        self.loader.refresh(&self.sources, Settling::TakeAll) == Refreshed::Changed
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

    fn repair(&mut self, now: Instant) {
        if let Err(error) = self.publisher.repair_refused(now) {
            log::error!("the state could not be written again: {error}");
        }
    }
}
