//! What cases are made of: kubectl, waiting, requests, load, the parts of the cluster, its audit log.

pub(crate) mod api;
pub(crate) mod audit;
pub(crate) mod components;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod install;
pub(crate) mod kubectl;
pub(crate) mod load;
pub(crate) mod task;
pub(crate) mod wait;

use std::path::PathBuf;

use kubectl::Kubectl;

/// What a case is given.
pub(crate) struct Lab {
    /// kubectl, as the cluster's administrator.
    pub(crate) kubectl: Kubectl,
    /// The repository's folder with manifests.
    pub(crate) manifests: PathBuf,
    /// Whether cases take the time that their issue names, instead of a shortened one.
    pub(crate) long: bool,
}
