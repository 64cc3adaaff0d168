//! Follows the state directory.
//!
//! Purpose: serve the newest complete state, and the last good one while the newest cannot be taken. Inputs:
//! file notifications, and a slow poll in case one is lost. Outputs: each new state, handed to a callback that
//! may refuse it, and a [`Status`] for log, metrics and `/ready`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio::time::Instant;
use understudy_conf::store::{ROOT_FILE, Read, Reader, StoreError};
use understudy_conf::{Refusal, State};

/// Time between two looks without a notification.
const POLL: Duration = Duration::from_secs(2);

/// What is served, and why not something newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The version that is served; `None` until the first complete state.
    pub serving: Option<u64>,
    /// Why the newest state is not served, if it is not.
    pub refused: Option<Refusal>,
    /// Since when this is so.
    pub since: SystemTime,
}

impl Status {
    /// Whether clients can be served, and a line that says what is served.
    #[must_use]
    pub fn readiness(&self) -> (bool, String) {
        match (self.serving, &self.refused) {
            (None, None) => (false, "not ready: no complete state yet".to_owned()),
            (None, Some(refusal)) => (
                false,
                format!("not ready: no complete state yet; the newest is refused: {}", refusal.reason),
            ),
            (Some(version), None) => (true, format!("ready: serving version {version}")),
            (Some(version), Some(refusal)) => (
                true,
                format!(
                    "ready: still serving version {version}; the newest state is refused: {}",
                    refusal.reason
                ),
            ),
        }
    }
}

/// Follows one state directory, on a thread of its own, until it is dropped.
pub struct Source {
    status: watch::Receiver<Status>,
    signal: SyncSender<Signal>,
    thread: Option<JoinHandle<()>>,
}

enum Signal {
    /// Something changed in the directory.
    Changed,
    Stop,
}

impl Source {
    /// Starts to follow `folder`, which is made if it is not there; when it is removed later, the one that takes
    /// its place is followed. `take` gets each new state with the moment when it was looked for, on the
    /// source's thread; if it returns an error, that state is refused and the one before stays.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        folder: impl Into<PathBuf>,
        take: impl FnMut(Arc<State>, Instant) -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Self> {
        Self::start_polling(folder.into(), POLL, take)
    }

    fn start_polling(
        folder: PathBuf,
        poll: Duration,
        take: impl FnMut(Arc<State>, Instant) -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let status = Status { serving: None, refused: None, since: SystemTime::now() };
        let (publish, status) = watch::channel(status);
        // Once, here: a folder that is removed later was removed on purpose, and stays so.
        if let Err(error) = std::fs::create_dir_all(&folder) {
            log::warn!("{} cannot be made: {error}; it is waited for", folder.display());
        }
        // One waiting signal says everything: there is something to read.
        let (signal, signals) = sync_channel(1);
        let notifier = signal.clone();
        let thread = std::thread::Builder::new().name("state".to_owned()).spawn(move || {
            let mut follower =
                Follower { reader: Reader::new(&folder), take, publish, refused_by_taker: false };
            let mut watched = Watched { folder, notifier, current: None, complained: false };
            follow(&mut follower, &mut watched, &signals, poll);
        })?;
        Ok(Self { status, signal, thread: Some(thread) })
    }

    /// What is served, and each change of it.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // Blocks only while a state is being read: the thread empties the channel otherwise.
        let _ = self.signal.send(Signal::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that follows the state ended by a panic");
        }
    }
}

fn follow<T: FnMut(Arc<State>, Instant) -> Result<(), String>>(
    follower: &mut Follower<T>,
    watched: &mut Watched,
    signals: &Receiver<Signal>,
    poll: Duration,
) {
    loop {
        watched.renew();
        follower.look();
        match signals.recv_timeout(poll) {
            Ok(Signal::Changed) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Reads, and hands on what it read.
struct Follower<T> {
    reader: Reader,
    take: T,
    publish: watch::Sender<Status>,
    /// Whether the refusal is the taker's; then it holds until another version comes.
    refused_by_taker: bool,
}

impl<T: FnMut(Arc<State>, Instant) -> Result<(), String>> Follower<T> {
    fn look(&mut self) {
        let found = Instant::now();
        match self.reader.read() {
            Ok(Read::Unchanged) if self.refused_by_taker => {}
            // What was refused has been repaired to the very version that is served.
            Ok(Read::Unchanged) => self.set(|status| status.refused = None),
            Ok(Read::State(state)) => {
                let version = state.version;
                let read = found.elapsed();
                let taken = (self.take)(state, found);
                log::debug!("state version {version}: read in {read:?}, all in {:?}", found.elapsed());
                self.refused_by_taker = taken.is_err();
                self.set(|status| match taken {
                    Ok(()) => {
                        status.serving = Some(version);
                        status.refused = None;
                    }
                    Err(reason) => status.refused = Some(Refusal { version: Some(version), reason }),
                });
            }
            // Before the first state there is nothing to complain of.
            Err(StoreError::Missing { .. }) if self.publish.borrow().serving.is_none() => {
                self.set(|status| status.refused = None);
            }
            Err(error) => {
                self.refused_by_taker = false;
                let refusal = Refusal { version: self.reader.found_version(), reason: error.to_string() };
                self.set(|status| status.refused = Some(refusal));
            }
        }
    }

    /// Publishes and logs a change, once.
    fn set(&self, change: impl FnOnce(&mut Status)) {
        self.publish.send_if_modified(|status| {
            let mut new = status.clone();
            change(&mut new);
            if new == *status {
                return false;
            }
            new.since = SystemTime::now();
            let (_, text) = new.readiness();
            if new.refused.is_some() {
                log::error!("{text}")
            } else {
                log::info!("{text}")
            }
            *status = new;
            true
        });
    }
}

/// The notification of the directory. It is renewed when the directory was replaced.
struct Watched {
    folder: PathBuf,
    notifier: SyncSender<Signal>,
    current: Option<(RecommendedWatcher, Identity)>,
    complained: bool,
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(folder: &Path) -> Option<Identity> {
    std::fs::metadata(folder).ok().map(|data| (data.dev(), data.ino()))
}

impl Watched {
    fn renew(&mut self) {
        let found = identity(&self.folder);
        if found.is_some() && self.current.as_ref().map(|(_, identity)| *identity) == found {
            return;
        }
        self.current = None;
        match self.watch() {
            Ok(watched) => {
                self.current = Some(watched);
                self.complained = false;
            }
            Err(reason) if !self.complained => {
                log::warn!(
                    "{} gives no notifications ({reason}); it is looked at every {} s instead",
                    self.folder.display(),
                    POLL.as_secs()
                );
                self.complained = true;
            }
            Err(_said_before) => {}
        }
    }

    fn watch(&self) -> Result<(RecommendedWatcher, Identity), String> {
        let identity = identity(&self.folder).ok_or("it is not there")?;
        let notifier = self.notifier.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may mean lost events, which is a reason to look, too.
            if event.is_ok_and(|event| !concerns_root(&event)) {
                return;
            }
            match notifier.try_send(Signal::Changed) {
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        })
        .map_err(|error| error.to_string())?;
        watcher.watch(&self.folder, RecursiveMode::NonRecursive).map_err(|error| error.to_string())?;
        Ok((watcher, identity))
    }
}

/// Whether an event may mean a new root. Reading it is none.
fn concerns_root(event: &notify::Event) -> bool {
    !event.kind.is_access()
        && (event.paths.is_empty() || event.paths.iter().any(|path| path.ends_with(ROOT_FILE)))
}

#[cfg(test)]
mod tests {
    use understudy_conf::store::Writer;

    use super::*;

    const BOUND: Duration = Duration::from_secs(20);
    /// So long that only a notification can be the reason.
    const NEVER: Duration = Duration::from_secs(3600);

    fn state(version: u64) -> State {
        State { version, ..State::default() }
    }

    async fn until(source: &Source, holds: impl Fn(&Status) -> bool) -> Status {
        let mut status = source.status();
        let found = tokio::time::timeout(BOUND, status.wait_for(|status| holds(status))).await;
        found.unwrap_or_else(|_| panic!("{:?}", source.status().borrow())).unwrap().clone()
    }

    fn taking() -> impl FnMut(Arc<State>, Instant) -> Result<(), String> + Send {
        |_, _| Ok(())
    }

    #[tokio::test]
    async fn a_missing_folder_is_made_and_its_first_state_taken_by_notification() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("not/yet");
        let source = Source::start_polling(folder.clone(), NEVER, taking()).unwrap();
        tokio::time::timeout(BOUND, async {
            while !folder.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(
            source.status().borrow().readiness(),
            (false, "not ready: no complete state yet".to_owned())
        );
        let published = Writer::open(&folder).unwrap().publish(&state(0)).unwrap();
        let status = until(&source, |status| status.serving.is_some()).await;
        assert_eq!((status.serving, status.refused.as_ref()), (Some(published.version), None));
        assert_eq!(status.readiness(), (true, format!("ready: serving version {}", published.version)));
    }

    #[tokio::test]
    async fn a_garbled_state_is_refused_and_the_repaired_one_taken() {
        let folder = tempfile::tempdir().unwrap();
        let first = Writer::open(folder.path()).unwrap().publish(&state(0)).unwrap().version;
        let source =
            Source::start_polling(folder.path().into(), Duration::from_millis(20), taking()).unwrap();
        until(&source, |status| status.serving == Some(first)).await;
        let root = folder.path().join(ROOT_FILE);
        let good = std::fs::read(&root).unwrap();

        for bad in [&b"{ not a state"[..], &good[..good.len() / 2], b""] {
            std::fs::write(&root, bad).unwrap();
            let status = until(&source, |status| status.refused.is_some()).await;
            assert_eq!(status.serving, Some(first));
            let (ready, text) = status.readiness();
            assert!(ready && text.contains("still serving") && text.contains(ROOT_FILE), "{text}");
            // Repaired to the very version that is served.
            std::fs::write(&root, &good).unwrap();
            until(&source, |status| status.refused.is_none()).await;
        }
        std::fs::remove_file(&root).unwrap();
        until(&source, |status| status.refused.is_some() && status.serving == Some(first)).await;
    }

    #[tokio::test]
    async fn a_state_that_the_taker_refuses_stays_refused_until_another_comes() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path()).unwrap();
        let first = writer.publish(&state(0)).unwrap().version;
        let take = move |state: Arc<State>, _| {
            if state.pools.is_empty() { Ok(()) } else { Err("too many pools".to_owned()) }
        };
        let source = Source::start_polling(folder.path().into(), Duration::from_millis(5), take).unwrap();
        until(&source, |status| status.serving == Some(first)).await;
        let name = understudy_conf::PoolName::new("p").unwrap();
        let pool = understudy_conf::Pool { name: name.clone(), policy: None, refs: Vec::new() };
        let mut with_pool = state(0);
        with_pool.pools.insert(name, Arc::new(pool));
        let second = writer.publish(&with_pool).unwrap().version;
        let refused = Refusal { version: Some(second), reason: "too many pools".to_owned() };
        let status = until(&source, |status| status.refused.is_some()).await;
        assert_eq!((status.serving, status.refused), (Some(first), Some(refused)));
        // Many looks later it still is.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(source.status().borrow().refused.is_some());
        let third = writer.publish(&state(0)).unwrap().version;
        let status = until(&source, |status| status.serving == Some(third)).await;
        assert_eq!(status.refused, None);
    }

    #[test]
    fn a_folder_that_was_removed_is_not_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state");
        std::fs::create_dir(&folder).unwrap();
        let (notifier, _signals) = sync_channel(1);
        let mut watched = Watched { folder: folder.clone(), notifier, current: None, complained: false };
        watched.renew();
        assert!(watched.current.is_some());
        std::fs::remove_dir(&folder).unwrap();
        watched.renew();
        assert!(watched.current.is_none() && !folder.exists());
        std::fs::create_dir(&folder).unwrap();
        watched.renew();
        assert!(watched.current.is_some());
    }

    #[tokio::test]
    async fn a_folder_that_is_replaced_is_followed_further() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state");
        let first = Writer::open(&folder).unwrap().publish(&state(0)).unwrap().version;
        let source = Source::start_polling(folder.clone(), Duration::from_millis(20), taking()).unwrap();
        until(&source, |status| status.serving == Some(first)).await;
        std::fs::remove_dir_all(&folder).unwrap();
        until(&source, |status| status.refused.is_some()).await;
        assert!(!folder.exists());
        let mut with_pool = state(0);
        let name = understudy_conf::PoolName::new("p").unwrap();
        let pool = understudy_conf::Pool { name: name.clone(), policy: None, refs: Vec::new() };
        with_pool.pools.insert(name, Arc::new(pool));
        Writer::open(&folder).unwrap().publish(&with_pool).unwrap();
        let status = until(&source, |status| status.refused.is_none()).await;
        assert!(status.serving.is_some());
    }

    #[test]
    fn dropping_the_source_ends_its_thread() {
        let folder = tempfile::tempdir().unwrap();
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        let source = Source::start(folder.path(), move |_, _| {
            let _ = &inside;
            Ok(())
        });
        drop(source.unwrap());
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
