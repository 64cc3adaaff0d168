//! The proxy from start to end: it joins the modules and holds the loop that takes new states.
//!
//! Inputs: options, the state directory, changes of addresses. Outputs: a served [`World`], acknowledgements and
//! reports in the state directory.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use understudy_conf::{Acknowledgement, State, store};
use understudy_engine::Engine;

use crate::access_log::{AccessLog, AccessLogOptions};
use crate::admin::{Admin, AdminOptions};
use crate::clock::Clock;
use crate::driver::Driver;
use crate::listeners::{ListenerOptions, Listeners};
use crate::metrics::Metrics;
use crate::resolver::{Resolver, ResolverError, ResolverOptions};
use crate::service::Service;
use crate::source::Source;
use crate::workers::Workers;
use crate::world::{World, names};

/// How long a new world waits for the first answer of its names.
const NAMES_BOUND: Duration = Duration::from_secs(5);
/// How often the reports are looked at for changes.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Idle connections to endpoints that are kept, per thread.
const POOL_SIZE: usize = 1024;
/// More attempts than any policy asks for: the engine says when it is enough.
const MAX_ATTEMPTS: usize = 10_000;

/// How the proxy is started.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// Folder with the state.
    pub state: PathBuf,
    /// Address for metrics, readiness and pools; `None`: no such server.
    pub admin: Option<SocketAddr>,
    /// Fixed addresses of names.
    pub resolve: Vec<(String, IpAddr)>,
    /// The name server to ask instead of the system's.
    pub dns: Option<SocketAddr>,
    /// Threads that carry connections; at least one.
    pub threads: usize,
    /// Where and how requests are logged.
    pub access_log: AccessLogOptions,
    /// How long requests under way may take at the end.
    pub drain: Duration,
}
