//! Follows the reports of the proxy beside: Events of what is new, and the summary for this sidecar's Lease.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use understudy_conf::{Reports, store};

use crate::pass::Pass;
use crate::visible::events::Recorder;
use crate::visible::story::Teller;
use crate::visible::{inventory, summary};

/// How often is looked for new reports: a look asks for the file's metadata.
const LOOK: Duration = Duration::from_millis(500);
/// The pause after an Event that could not be written, which doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Follows the reports.
pub(crate) struct Follower {
    pub(crate) recorder: Recorder,
    pub(crate) passes: watch::Receiver<Option<Arc<Pass>>>,
    pub(crate) node: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) summary: watch::Sender<Option<String>>,
}

/// What tells one file of reports from the next: inode, time, length.
type Stamp = (u64, i64, i64, u64);

impl Follower {
    /// Runs until the channel of passes closes.
    pub(crate) async fn run(mut self) {
        let start = Instant::now();
        let mut teller = Teller::new(&self.node, unix_millis(), Duration::ZERO);
        let mut read: Option<Stamp> = None;
        let mut retry = (RETRY.0, start);
        loop {
            tokio::select! {
                changed = self.passes.changed() => if changed.is_err() { return },
                () = sleep(LOOK) => {}
            }
            // Without a pass nobody knows the objects that something is to be said of.
            let Some(pass) = self.passes.borrow_and_update().clone() else { continue };
            let file = store::reports_file(&self.state_dir);
            let found = stamp(&file);
            if found.is_some() && found != read {
                read = found;
                if let Some(reports) = read_reports(&self.state_dir).await {
                    self.take(&mut teller, &reports, &pass, start.elapsed());
                }
            }
            if self.recorder.is_waiting() && Instant::now() >= retry.1 {
                let written = Box::pin(self.recorder.write()).await;
                let pause = if written { RETRY.0 } else { (retry.0 * 2).min(RETRY.1) };
                retry = (pause, if written { start } else { Instant::now() + retry.0 });
            }
        }
    }

    fn take(&mut self, teller: &mut Teller, reports: &Reports, pass: &Pass, now: Duration) {
        let news = teller.news(reports);
        let mut addresses = summary::failing(reports);
        addresses.extend(news.iter().filter_map(|switch| switch.endpoint.as_deref()));
        let pods = inventory::pods_of(&pass.cluster, &addresses);
        for told in teller.tell(&news, &pods, now) {
            // Whoever is gone needs no Event.
            if let Some(uid) = inventory::uid_of(&pass.cluster, &told.subject) {
                self.recorder.add(told, uid);
            }
        }
        let text = summary::summarize(reports, &pods).to_text();
        self.summary.send_if_modified(|published| {
            let is_new = published.as_ref() != Some(&text);
            if is_new {
                *published = Some(text);
            }
            is_new
        });
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(file).ok()?;
    Some((data.ino(), data.mtime(), data.mtime_nsec(), data.len()))
}

async fn read_reports(state_dir: &Path) -> Option<Reports> {
    let folder = state_dir.to_owned();
    let read = tokio::task::spawn_blocking(move || store::read_reports(folder)).await;
    match read.ok()? {
        Ok(reports) => reports,
        Err(error) => {
            log::warn!("the proxy's reports cannot be read: {error}");
            None
        }
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
