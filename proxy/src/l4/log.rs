//! The line of a connection, or of a session of UDP, in the access log.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use understudy_engine::Exchange;

use super::Streams;
use crate::access_log::{Flag, Flags, Record};

/// What a line says.
pub(super) struct Entry<'a> {
    /// `TCP`, `TLS` or `UDP`.
    pub(super) protocol: &'static str,
    /// The name in the ClientHello.
    pub(super) server_name: Option<&'a str>,
    pub(super) client: SocketAddr,
    pub(super) route: Option<&'a str>,
    pub(super) exchange: Option<&'a Exchange>,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) duration: Duration,
    pub(super) flags: &'a [Flag],
    pub(super) cause: Option<&'a str>,
}

impl Streams {
    pub(super) fn log(&self, entry: &Entry<'_>) {
        if !self.access_log.is_on() {
            return;
        }
        let mut flags = Flags::default();
        entry.flags.iter().for_each(|flag| flags.insert(*flag));
        let member = entry.exchange.and_then(Exchange::current).map(|(member, _)| member);
        let backend = member.zip(entry.exchange).and_then(|(member, exchange)| {
            exchange.pool().spec().refs.get(member.reference).map(|reference| &*reference.origin)
        });
        self.access_log.log(&Record {
            time: SystemTime::now().checked_sub(entry.duration).unwrap_or(SystemTime::UNIX_EPOCH),
            method: "",
            authority: entry.server_name.unwrap_or_default(),
            path: "",
            protocol: entry.protocol,
            status: 0,
            bytes_received: entry.received,
            bytes_sent: entry.sent,
            duration: entry.duration,
            client: Some(entry.client),
            route: entry.route,
            priority: member.map(|member| member.priority),
            backend,
            endpoint: member.map(|member| &member.spec.identity.address),
            place: None,
            attempts: entry.exchange.map_or(0, Exchange::attempts),
            retries: entry.exchange.map_or(0, Exchange::retries),
            flags,
            cause: entry.cause,
            request_id: None,
            user_agent: None,
        });
    }
}
