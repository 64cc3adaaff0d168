//! First stage: where objects come from.
//!
//! Inputs: manifest files and folders ([`Source`]). Outputs: typed objects with the place that they came from,
//! as a [`crate::cluster::Cluster`], and what was wrong while reading. [`kubernetes`] watches an API server instead and
//! fills the same [`crate::cluster::Cluster`].

mod de;
mod files;
mod kinds;
pub(crate) mod kubernetes;
mod listener_sets;
mod manifest;
mod nearest;
mod node;
mod notify;
mod routes;
mod scalar;
mod yaml;

pub(crate) use de::shortened;
pub use files::Source;
pub(crate) use files::{FileText, FileTexts, StdinText, read_stdin, read_texts};
pub(crate) use kinds::{ENVOY, GATEWAY_API, Kind};
pub(crate) use listener_sets::ListenerSet;
pub(crate) use manifest::{
    Batch, Found, KnownObject, ObjectId, ObjectSource, Remains, read_manifest, read_object,
};
pub(crate) use nearest::nearest;
pub(crate) use node::{Entry as NodeEntry, Node, Value as NodeValue};
pub(crate) use notify::{ChangeWatcher, WatchError};
