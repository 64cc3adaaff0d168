//! Follows one kind, for ever.
//!
//! kube's own watcher gives no sign when a list that comes as a stream begins anew, and what was deleted between the
//! two would stay; and it waits for ever on servers that know no such lists. So the steps are our own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::core::WatchEvent;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use crate::cluster::Key;
use crate::watch::kubernetes::Event;
use crate::watch::kubernetes::backoff::Backoff;
use crate::watch::kubernetes::json::RawObject;
use crate::watch::kubernetes::lines::Lines;
use crate::watch::kubernetes::requests::{RequestError, Requests};
use crate::watch::kubernetes::target::Target;

/// A server that sends nothing for this long at the beginning of a list does not know lists as streams.
const FIRST_OBJECTS: Duration = Duration::from_secs(5);
/// A watch on which nothing comes for this long may be dead; bookmarks come every minute.
const SILENCE: Duration = Duration::from_secs(150);
/// A watch that ends sooner did not work.
const SHORT: Duration = Duration::from_secs(1);
/// After so many failures to go on from where we were, all is listed again.
const RESUMES: u32 = 3;
/// A failure is said when it is the second one, and again after this many.
const FIRST_SAID: u32 = 2;
/// A kind counts as forbidden when a list of it was so many times in a row: roles that have just changed may not be known
/// to every API server.
const REFUSALS: u32 = 3;
const REPEATED: u32 = 20;

/// The annotation of the bookmark that ends a list as a stream.
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// What a reflector works with.
pub(crate) struct Reflector {
    pub(crate) requests: Arc<Requests>,
    pub(crate) target: Target,
    pub(crate) events: mpsc::Sender<Event>,
    /// Told when the kind seems to be gone.
    pub(crate) missing: Arc<Notify>,
}

/// Nobody takes the events any more.
#[derive(Debug)]
struct Closed;

/// Why there is no list.
enum ListError {
    Closed,
    Failed(RequestError),
}

impl From<Closed> for ListError {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

impl From<RequestError> for ListError {
    fn from(error: RequestError) -> Self {
        Self::Failed(error)
    }
}

/// A list whose objects were sent: their names, the version to go on from, and a stream that goes on already if there is one.
type List = (BTreeSet<Key>, String, Option<Lines>);

/// How a watch ended.
enum End {
    /// As watches do, after some minutes.
    Done,
    /// Changes were lost, so that all must be listed again.
    Lost,
    /// The connection broke, which says nothing of the version to go on from.
    Broken(RequestError),
    /// The API server ended it with an error of its own.
    Refused(RequestError),
}

impl Reflector {
    /// Lists and follows, until nobody takes the events.
    pub(crate) async fn run(self) {
        let mut follower = Follower {
            reflector: self,
            streams: true,
            backoff: Backoff::default(),
            vain_lists: Backoff::default(),
        };
        while follower.list_and_follow().await.is_ok() {}
    }
}

struct Follower {
    reflector: Reflector,
    /// Whether the server may know lists as streams.
    streams: bool,
    backoff: Backoff,
    /// Lists from which no watch went on.
    vain_lists: Backoff,
}

impl Follower {
    /// One list, and all changes from there until some of them are lost.
    async fn list_and_follow(&mut self) -> Result<(), Closed> {
        let (mut version, mut stream) = self.list().await?;
        let mut resumes = 0;
        let mut was_watched = false;
        loop {
            let mut lines = match stream.take() {
                Some(lines) => lines,
                None => match self.reflector.requests.watch(self.reflector.target, &version, false).await {
                    Ok(lines) => lines,
                    Err(RequestError::Expired) => {
                        self.lose(was_watched).await;
                        return Ok(());
                    }
                    Err(error) => {
                        resumes += 1;
                        self.fail(&error).await;
                        if resumes >= RESUMES {
                            return Ok(());
                        }
                        continue;
                    }
                },
            };
            let began = Instant::now();
            let end = self.follow(&mut lines, &mut version).await?;
            let lasted = began.elapsed() >= SHORT;
            if lasted {
                resumes = 0;
                was_watched = true;
                self.vain_lists.reset();
                self.recover();
            }
            match end {
                End::Lost => {
                    self.lose(was_watched).await;
                    return Ok(());
                }
                End::Done if lasted => {}
                End::Done => self.fail(&RequestError::Failed("the watch ended at once".to_owned())).await,
                End::Broken(error) => self.fail(&error).await,
                End::Refused(error) => {
                    resumes += 1;
                    self.fail(&error).await;
                    if resumes >= RESUMES {
                        // From this version it does not go on.
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Notes that all must be listed again. A list costs much: if no watch went on from the last one, the next one waits,
    /// although that one itself succeeded.
    async fn lose(&mut self, was_watched: bool) {
        if was_watched {
            return;
        }
        let kind = self.reflector.target.kind;
        if self.vain_lists.fail() % REPEATED == FIRST_SAID {
            log::warn!(
                "{kind} is listed again and again: the API server does not go on from the list's version"
            );
        }
        self.vain_lists.wait().await;
    }

    /// Takes changes until the watch ends.
    async fn follow(&mut self, lines: &mut Lines, version: &mut String) -> Result<End, Closed> {
        let kind = self.reflector.target.kind;
        loop {
            let line = match timeout(SILENCE, lines.next()).await {
                Err(_) => return Ok(End::Done),
                Ok(Err(error)) => {
                    return Ok(End::Broken(RequestError::Failed(format!("the watch broke: {error}"))));
                }
                Ok(Ok(None)) => return Ok(End::Done),
                Ok(Ok(Some(line))) => line,
            };
            if line.is_empty() {
                continue;
            }
            let event = match serde_json::from_slice::<WatchEvent<RawObject>>(line) {
                Ok(event) => event,
                // Whatever it was, it is missed. A list says all.
                Err(error) => {
                    log::warn!("{kind}: the API server sent a change that cannot be read: {error}");
                    self.backoff.fail();
                    self.backoff.wait().await;
                    return Ok(End::Lost);
                }
            };
            if !matches!(event, WatchEvent::Error(_)) {
                self.recover();
            }
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    note(version, object.version());
                    self.send(Event::Applied(kind, object)).await?;
                }
                WatchEvent::Deleted(object) => {
                    note(version, object.version());
                    self.send(Event::Deleted(kind, object)).await?;
                }
                WatchEvent::Bookmark(bookmark) => note(version, &bookmark.metadata.resource_version),
                WatchEvent::Error(status) => {
                    return Ok(match RequestError::of_status(status.code, &status.reason, &status.message) {
                        RequestError::Expired => End::Lost,
                        error => End::Refused(error),
                    });
                }
            }
        }
    }

    /// Lists until it succeeds; gives the version to go on from, and a stream that goes on already if there is one.
    async fn list(&mut self) -> Result<(String, Option<Lines>), Closed> {
        let mut refusals = 0;
        loop {
            let listed = if self.streams { self.list_as_stream().await } else { self.list_in_pages().await };
            match listed {
                Ok((keys, version, stream)) => {
                    self.recover();
                    self.send(Event::Listed(self.reflector.target.kind, keys)).await?;
                    return Ok((version, stream));
                }
                Err(ListError::Closed) => return Err(Closed),
                Err(ListError::Failed(RequestError::Invalid(reason))) if self.streams => {
                    log::debug!("{}: listed in pages: {reason}", self.reflector.target.kind);
                    self.streams = false;
                }
                Err(ListError::Failed(error)) => {
                    refusals = if matches!(error, RequestError::Forbidden(_)) { refusals + 1 } else { 0 };
                    if refusals == REFUSALS {
                        self.send(Event::Forbidden(self.reflector.target.kind)).await?;
                    }
                    self.fail(&error).await;
                }
            }
        }
    }

    async fn list_as_stream(&self) -> Result<List, ListError> {
        let Reflector { requests, target, .. } = &self.reflector;
        // Without a version the list is as new as a read of the store itself.
        let mut lines = requests.watch(*target, "", true).await?;
        let mut keys = BTreeSet::new();
        loop {
            let line = match timeout(FIRST_OBJECTS, lines.next()).await {
                Err(_) => {
                    return Err(RequestError::Invalid("the list as a stream does not come".to_owned()).into());
                }
                Ok(Err(error)) => return Err(RequestError::Failed(format!("the list broke: {error}")).into()),
                Ok(Ok(None)) => return Err(RequestError::Failed("the list has no end".to_owned()).into()),
                Ok(Ok(Some(line))) => line,
            };
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice::<WatchEvent<RawObject>>(line) {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    self.begin(&keys).await?;
                    keys.extend(object.key(target.kind));
                    self.send(Event::Applied(target.kind, object)).await?;
                }
                Ok(WatchEvent::Deleted(gone)) => {
                    if let Some(key) = gone.key(target.kind) {
                        keys.remove(&key);
                    }
                    self.send(Event::Deleted(target.kind, gone)).await?;
                }
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    if bookmark.metadata.annotations.contains_key(END_OF_LIST) {
                        return Ok((keys, bookmark.metadata.resource_version, Some(lines)));
                    }
                }
                Ok(WatchEvent::Error(status)) => {
                    let error = RequestError::of_status(status.code, &status.reason, &status.message);
                    return Err(error.into());
                }
                Err(error) => {
                    let what = format!("the list as a stream cannot be read: {error}");
                    return Err(RequestError::Invalid(what).into());
                }
            }
        }
    }

    async fn list_in_pages(&self) -> Result<List, ListError> {
        let kind = self.reflector.target.kind;
        let mut keys = BTreeSet::new();
        let mut rest = None;
        loop {
            let mut page = self.reflector.requests.list(self.reflector.target, rest).await?;
            for object in page.take_items() {
                self.begin(&keys).await?;
                keys.extend(object.key(kind));
                self.send(Event::Applied(kind, object)).await?;
            }
            let token = page.metadata.rest.take().filter(|token| !token.is_empty());
            let Some(token) = token else {
                let version = page.metadata.resource_version.unwrap_or_default();
                return Ok((keys, version, None));
            };
            rest = Some(token);
        }
    }

    /// Says before the first object of a list that there will be more.
    async fn begin(&self, sent: &BTreeSet<Key>) -> Result<(), Closed> {
        if sent.is_empty() { self.send(Event::Listing(self.reflector.target.kind)).await } else { Ok(()) }
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        self.reflector.events.send(event).await.map_err(|_| Closed)
    }

    /// Notes that it works.
    fn recover(&mut self) {
        if self.backoff.reset() >= FIRST_SAID {
            log::info!("{} is watched again", self.reflector.target.kind);
        }
    }

    /// Says a failure, and waits.
    async fn fail(&mut self, error: &RequestError) {
        let kind = self.reflector.target.kind;
        if matches!(error, RequestError::NotFound) {
            self.reflector.missing.notify_one();
        }
        let failures = self.backoff.fail();
        if failures % REPEATED == FIRST_SAID {
            log::warn!(
                "{kind} cannot be watched: {error}. What was known of it stays, and it is tried again"
            );
        } else {
            log::debug!("{kind} cannot be watched: {error}");
        }
        self.backoff.wait().await;
    }
}

fn note(version: &mut String, newer: &str) {
    if !newer.is_empty() {
        newer.clone_into(version);
    }
}

#[cfg(test)]
mod tests;
