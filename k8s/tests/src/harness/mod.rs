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
use std::time::Duration;

use kubectl::Kubectl;

/// What a case is given.
pub(crate) struct Lab {
    /// kubectl, as the cluster's administrator.
    pub(crate) kubectl: Kubectl,
    /// The repository's folder with manifests.
    pub(crate) manifests: PathBuf,
    /// Whether cases take the time that they are meant to take, instead of a shortened one.
    pub(crate) long: bool,
}

impl Lab {
    /// How long something may take that is promised to take no longer. The short form runs on machines that do other
    /// things as well: there only ten times as long is wrong, and the figure is printed.
    pub(crate) fn allowed(&self, promised: Duration) -> Duration {
        if self.long { promised } else { promised * 10 }
    }
}
