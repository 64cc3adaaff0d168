//! One connection of TCP or TLS, from its listener to its end.

use std::sync::Arc;

use async_trait::async_trait;
use understudy_engine::{Exchange, Instant};

use super::log::Entry;
use super::reach::{Unreached, limit_of};
use super::relay::{RelayEnd, RelayLimits, Relayed, relay};
use super::{Streams, pool_of};
use crate::access_log::Flag;
use crate::listeners::raw::{RawApp, RawConnection, RawStream};
use crate::metrics::{AttemptOutcome, StreamOutcome};
use crate::service::Reply;
use crate::world::{PoolTable, RuleTable};

#[async_trait]
impl RawApp for Streams {
    async fn carry(&self, connection: RawConnection) {
        let begun = self.clock.now();
        let RawConnection { peer, bound, stream, ahead, hello } = connection;
        let name = hello.as_ref().and_then(|hello| hello.server_name.as_deref());
        let rule = match &hello {
            None => self.rule_of(|world| world.router.tcp(&bound), None),
            Some(hello) => {
                let listener = &hello.listener;
                self.rule_of(|world| world.router.tls(&listener.gateway, &listener.name), name)
            }
        };
        let mut ended = Ended {
            entry: Entry {
                protocol: if hello.is_some() { "TLS" } else { "TCP" },
                server_name: name,
                client: peer,
                route: None,
                exchange: None,
                received: 0,
                sent: 0,
                duration: std::time::Duration::ZERO,
                flags: &[],
                cause: None,
            },
            begun,
        };
        let Some(rule) = rule else {
            return ended.log(self, Reply::NO_ROUTE.flags, Some("no route"));
        };
        ended.entry.route = Some(&rule.rule.label);
        let Some(table) = pool_of(&rule) else {
            rule.metrics.streams().count_end(StreamOutcome::NoEndpoint);
            return ended.log(self, Reply::of_rule(500).flags, Some("no valid backend"));
        };
        // Who speaks TLS with the endpoint itself gets no second one around it.
        let secure = hello.as_ref().is_none_or(|hello| !hello.listener.passthrough);
        let mut exchange = Exchange::begin(table.pool.clone(), begun);
        // Boxed, so that the connection does not carry its state while bytes are carried.
        let reached = Box::pin(self.reach(table, &mut exchange, peer.ip(), secure)).await;
        let mut endpoint = match reached {
            Ok(endpoint) => endpoint,
            Err(Unreached { outcome, reply, cause }) => {
                rule.metrics.streams().count_end(outcome);
                ended.entry.exchange = Some(&exchange);
                return ended.log(self, reply.flags, Some(&cause));
            }
        };
        let limits = RelayLimits {
            idle: limit_of(table.limits.connection_idle),
            proof: exchange.flow_interval().map(Into::into),
        };
        let clock = self.clock;
        let mut is_proven = false;
        let proven = || {
            is_proven = true;
            exchange.finished(clock.now());
        };
        let relayed = match stream {
            RawStream::Plain(mut client) => relay(&mut client, &mut *endpoint, ahead, limits, proven).await,
            RawStream::Tls(mut client) => relay(&mut *client, &mut *endpoint, ahead, limits, proven).await,
        };
        drop(endpoint);
        count(&rule, table, relayed, is_proven);
        (ended.entry.received, ended.entry.sent) = (relayed.received, relayed.sent);
        ended.entry.exchange = Some(&exchange);
        let (flags, cause): (&[Flag], _) = match relayed.end {
            RelayEnd::Done => (&[], None),
            RelayEnd::Idle => (Reply::IDLE.flags, Some("nothing moved for too long")),
            RelayEnd::Client => (&[Flag::DownstreamEnded], None),
            RelayEnd::Endpoint => (&[Flag::UpstreamConnectionEnded], Some("the endpoint's connection broke")),
        };
        ended.log(self, flags, cause);
    }
}

fn count(rule: &RuleTable, table: &Arc<PoolTable>, relayed: Relayed, is_proven: bool) {
    let (outcome, attempt) = match relayed.end {
        RelayEnd::Done => (StreamOutcome::Ended, AttemptOutcome::Success),
        RelayEnd::Idle => (StreamOutcome::Idle, AttemptOutcome::Success),
        RelayEnd::Client => (StreamOutcome::ClientFailed, AttemptOutcome::Cancelled),
        RelayEnd::Endpoint if is_proven => (StreamOutcome::EndpointFailed, AttemptOutcome::Body),
        RelayEnd::Endpoint => (StreamOutcome::EndpointFailed, AttemptOutcome::Reset),
    };
    table.metrics.count_attempt(attempt);
    let streams = rule.metrics.streams();
    streams.count_end(outcome);
    streams.received.add(relayed.received);
    streams.sent.add(relayed.sent);
}

/// What is known of a connection when it ends.
struct Ended<'a> {
    entry: Entry<'a>,
    begun: Instant,
}

impl Ended<'_> {
    fn log(&self, streams: &Streams, flags: &[Flag], cause: Option<&str>) {
        let duration = streams.clock.now().since(self.begun);
        let Entry { protocol, server_name, client, route, exchange, received, sent, .. } = self.entry;
        streams.log(&Entry {
            protocol,
            server_name,
            client,
            route,
            exchange,
            received,
            sent,
            duration,
            flags,
            cause,
        });
    }
}
