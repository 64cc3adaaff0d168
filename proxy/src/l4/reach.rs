//! One attempt after another until a connection stands.
//!
//! Nothing of what the client sends has gone anywhere until then, so a failed attempt can always be made again elsewhere:
//! the safe retry, unless the policy turned retries off (`numRetries: 0`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use understudy_engine::{
    ConnectFailure, Exchange, Facts, Failure, GiveUp, Next, NoEndpoint, RequestTraits, TimeoutKind,
};

use super::Streams;
use super::connect::{Endpoint, connect};
use crate::metrics::StreamOutcome;
use crate::service::{Reply, cause_text, of_failure, outcome_of};
use crate::world::PoolTable;

/// Nothing went to any endpoint, and nothing came from one.
pub(super) const UNTOUCHED: Facts = Facts { response_started: false, can_resend: true };

/// Why no endpoint was reached.
pub(super) struct Unreached {
    pub(super) outcome: StreamOutcome,
    /// What would be answered to a request, for its flags.
    pub(super) reply: Reply,
    pub(super) cause: String,
}

impl From<NoEndpoint> for Unreached {
    fn from(error: NoEndpoint) -> Self {
        let outcome = match error {
            NoEndpoint::Overflow | NoEndpoint::Wait => StreamOutcome::Overflow,
            NoEndpoint::Invalid | NoEndpoint::Empty | NoEndpoint::Unhealthy => StreamOutcome::NoEndpoint,
        };
        Self { outcome, reply: error.into(), cause: error.to_string() }
    }
}

impl Unreached {
    /// An attempt failed, and none follows it.
    pub(super) fn after(failed: Failure, why: GiveUp) -> Self {
        Self {
            outcome: StreamOutcome::ConnectFailed,
            reply: of_failure(failed, why),
            cause: cause_text(failed),
        }
    }
}

/// What matters of a client for the choice. Its bytes cannot be replayed once an endpoint has some.
pub(super) fn traits_of(table: &PoolTable, client: IpAddr) -> RequestTraits {
    let hash = table.hash.as_ref().and_then(|hash| hash.of_client(client));
    RequestTraits { replayable: false, hash }
}

impl Streams {
    /// Connects to an endpoint of a pool, one after the other if need be.
    pub(super) async fn reach(
        &self,
        table: &Arc<PoolTable>,
        exchange: &mut Exchange,
        client: IpAddr,
        secure: bool,
    ) -> Result<Box<dyn Endpoint>, Unreached> {
        let traits = traits_of(table, client);
        let mut failed = None;
        loop {
            self.choose(table, exchange, traits).await.map_err(|error| match failed {
                // R9: what could be retried when it failed, and cannot now, ends as it failed.
                Some(failed) => Unreached::after(failed, GiveUp::Exhausted),
                None => error.into(),
            })?;
            let failure = match self.attempt(table, exchange, secure).await {
                Ok(endpoint) => {
                    exchange.connected();
                    return Ok(endpoint);
                }
                Err(failure) => failure,
            };
            table.metrics.count_attempt(outcome_of(failure));
            let now = self.clock.now();
            match self.with_rng(|rng| exchange.failed(failure, UNTOUCHED, now, rng)) {
                Next::Retry { after } => {
                    self.metrics.retries.inc();
                    failed = Some(failure);
                    if !after.is_zero() {
                        tokio::time::sleep(after).await;
                    }
                }
                Next::GiveUp(why) => return Err(Unreached::after(failure, why)),
            }
        }
    }

    /// Chooses an endpoint. Where all connections of the pool are in use (rule B3), this waits as long as a connect may
    /// take.
    async fn choose(
        &self,
        table: &PoolTable,
        exchange: &mut Exchange,
        traits: RequestTraits,
    ) -> Result<(), NoEndpoint> {
        let latest = self.clock.now().after(table.limits.connect);
        loop {
            let now = self.clock.now();
            let choice = self.with_rng(|rng| exchange.choose(traits, now, rng));
            let Some(room) = exchange.room().filter(|_| choice == Err(NoEndpoint::Wait)) else {
                return choice.map(drop);
            };
            if timeout(latest.since(now), room).await.is_err() {
                return Err(NoEndpoint::Wait);
            }
        }
    }

    async fn attempt(
        &self,
        table: &PoolTable,
        exchange: &Exchange,
        secure: bool,
    ) -> Result<Box<dyn Endpoint>, Failure> {
        let Some((member, _)) = exchange.current() else {
            return Err(Failure::Connect(ConnectFailure::Local));
        };
        // The limit of one attempt covers connecting.
        let per_try = table.limits.per_try.unwrap_or(Duration::MAX);
        let limit = table.limits.connect.min(per_try);
        match timeout(limit, connect(member, table, &self.tls, secure)).await {
            Ok(Ok(endpoint)) => Ok(endpoint),
            Ok(Err(failure)) => Err(Failure::Connect(failure)),
            Err(_) if per_try < table.limits.connect => {
                Err(Failure::Timeout { kind: TimeoutKind::PerTry, connected: false })
            }
            Err(_) => Err(Failure::Connect(ConnectFailure::TimedOut)),
        }
    }
}

/// A limit of which zero means none.
pub(super) fn limit_of(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then_some(limit)
}
