//! First stage, from a Kubernetes API server.
//!
//! Purpose: know every object that counts, as it is now. Inputs: an API server. Outputs: [`Event`]s: the objects of each
//! kind, one by one so that no list stands in memory as a whole, its end, and then each change, which [`Store`] turns into a [`crate::cluster::Cluster`].
//!
//! - `discovery` finds which kinds the server has, in which version, and starts a `reflector` for each.
//! - `reflector` lists a kind and follows its changes, for ever: what it lost sight of stays as it was.
//! - `contents` reads the Secrets and ConfigMaps that something refers to. Of the others, no content is ever asked for.
//! - `store` joins it all, through the same reading and checking that manifest files go through.

mod backoff;
mod contents;
mod discovery;
mod json;
mod lines;
mod narrow;
mod reflector;
mod requests;
mod store;
mod switch;
mod target;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cluster::Key;
use crate::watch::{Kind, ObjectId};
use contents::Contents;
use json::RawObject;
pub(crate) use narrow::unpacked;
pub(crate) use store::{Change, Store};

/// Events that wait to be taken. A burst beyond it waits on the wire.
const QUEUE: usize = 1024;

/// What is learnt from the API server.
#[derive(Debug)]
pub(crate) enum Event {
    /// The API server does not have the kind.
    Absent(Kind),
    /// The API server forbids again and again to list the kind.
    Forbidden(Kind),
    /// The objects of a kind follow, one by one. Until the end of the list some of them are old and some are new.
    Listing(Kind),
    /// All objects of a kind, each of which was sent before. Others that were known are gone.
    Listed(Kind, BTreeSet<Key>),
    /// An object was listed, made or changed.
    Applied(Kind, RawObject),
    /// An object is gone.
    Deleted(Kind, RawObject),
    /// What a Secret or ConfigMap holds.
    Content(ObjectId, Content),
}

/// The answer to a question for the content of an object.
#[derive(Debug)]
pub(crate) enum Content {
    Found(RawObject),
    /// The object is gone, or we may not read it.
    Refused(String),
}

/// Watches an API server while it lives.
pub(crate) struct KubernetesSource {
    events: mpsc::Receiver<Event>,
    contents: Contents,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

impl KubernetesSource {
    /// Begins to watch. Kinds that the API server lacks are looked for every `rediscovery`.
    pub(crate) fn start(client: Client, rediscovery: Duration) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let requests = Arc::new(requests::Requests::new(client));
        let contents = Contents::new(requests.clone(), sender.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(discovery::watch_all(requests, sender, rediscovery));
        Self { events, contents, _tasks: tasks }
    }

    /// Waits for events, and takes up to `limit` of them that are there.
    pub(crate) async fn events(&mut self, taken: &mut Vec<Event>, limit: usize) {
        if self.events.recv_many(taken, limit).await == 0 {
            // The sender lives as long as this.
            std::future::pending::<()>().await;
        }
    }

    /// Asks for the contents of objects. Answers come as events.
    pub(crate) fn read_contents(&mut self, ids: impl IntoIterator<Item = ObjectId>) {
        ids.into_iter().for_each(|id| self.contents.read(id));
    }
}
