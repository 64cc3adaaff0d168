//! What single Secrets and ConfigMaps hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use crate::watch::ObjectId;
use crate::watch::kubernetes::backoff::Backoff;
use crate::watch::kubernetes::requests::{RequestError, Requests};
use crate::watch::kubernetes::target::Target;
use crate::watch::kubernetes::{Content, Event};

/// Questions at a time.
const AT_ONCE: usize = 8;
/// A refusal is doubted this often: rights may be given a little later than the object that needs them.
const REFUSALS: u32 = 5;

/// Asks for contents, one question per object.
pub(crate) struct Contents {
    requests: Arc<Requests>,
    events: mpsc::Sender<Event>,
    turns: Arc<Semaphore>,
    tasks: JoinSet<()>,
    asked: BTreeMap<ObjectId, AbortHandle>,
}

impl Contents {
    pub(crate) fn new(requests: Arc<Requests>, events: mpsc::Sender<Event>) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { requests, events, turns, tasks: JoinSet::new(), asked: BTreeMap::new() }
    }

    /// Asks for an object, in place of a question for it that is under way.
    pub(crate) fn read(&mut self, id: ObjectId) {
        while self.tasks.try_join_next().is_some() {}
        self.asked.retain(|_, task| !task.is_finished());
        let (requests, events, turns) = (self.requests.clone(), self.events.clone(), self.turns.clone());
        let task = self.tasks.spawn(ask(requests, events, turns, id.clone()));
        if let Some(before) = self.asked.insert(id, task) {
            before.abort();
        }
    }
}

async fn ask(requests: Arc<Requests>, events: mpsc::Sender<Event>, turns: Arc<Semaphore>, id: ObjectId) {
    let Some(target) = Target::built_in(id.kind) else { return };
    let mut backoff = Backoff::default();
    loop {
        let answer = {
            let Ok(_turn) = turns.acquire().await else { return };
            requests.read(target, &id).await
        };
        let content = match answer {
            Ok(object) => Content::Found(object),
            Err(error @ RequestError::NotFound) => Content::Refused(error.to_string()),
            Err(error) => {
                let failures = backoff.fail();
                let refused = matches!(error, RequestError::Forbidden(_) | RequestError::Invalid(_));
                if failures % 20 == 1 {
                    log::warn!("{id} cannot be read: {error}");
                }
                if refused && failures >= REFUSALS {
                    Content::Refused(error.to_string())
                } else {
                    backoff.wait().await;
                    continue;
                }
            }
        };
        let _ = events.send(Event::Content(id, content)).await;
        return;
    }
}
