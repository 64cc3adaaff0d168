//! HTTP/2 towards endpoints: connections that carry several requests at once.
//!
//! Purpose: streams on shared connections. Pingora has such connections too, but its time limits are of one read, it
//! cannot end one stream of a connection, and its errors do not say whether a request was processed; failover needs
//! all three. Inputs: a peer, the policy's settings. Outputs: a [`Stream`], or why no connection came about.
//!
//! Each worker has connections of its own, so a stream never crosses threads and nothing here waits for a lock.
//! Names of modules: `pool` finds or makes a connection, `connection` keeps one alive.

mod connection;
mod pool;

use std::time::Duration;

pub(crate) use connection::Stream;
pub(crate) use pool::open_stream;
use understudy_conf::Http2;

use crate::upstream_tls::TlsGuard;

/// What a connection is made with. Connections of different settings are not shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Settings {
    pub(crate) http2: Http2,
    /// Without a stream for so long, it is closed; zero: never.
    pub(crate) idle: Duration,
    /// Takes no more streams when it is so old.
    pub(crate) max_age: Option<Duration>,
}

/// How a connection is to be had.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) settings: Settings,
    /// How long connecting may take.
    pub(crate) connect: Duration,
    /// Streams that a connection carries before it is closed; `None`: no limit.
    pub(crate) max_requests: Option<u32>,
    /// What its TLS has to be, where the endpoint is spoken to over TLS.
    pub(crate) guard: Option<TlsGuard>,
}
