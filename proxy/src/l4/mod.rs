//! What carries no HTTP: connections of TCP and TLS, and datagrams of UDP.
//!
//! Purpose: take them to the endpoints that the same engine chooses, with the same pools, ejection, failover and safe
//! retry as requests have. Inputs: connections as their listeners leave them, sockets of UDP. Outputs: bytes and
//! datagrams in both directions, outcomes told to the engine, the log and the metrics.
//!
//! ```text
//! TCP, TLS: listeners ─ RawConnection ─► Streams::carry ─ rule ─► reach (choose, connect, again) ─► relay
//! UDP: one task a socket ─ client's address ─► session (choose, send, again) ─► answers
//! ```

mod connect;
mod log;
mod reach;
mod relay;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use fastrand::Rng;
use understudy_conf::Action;
use understudy_router::{CompiledRule, StreamTable};

use crate::access_log::AccessLog;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::upstream_tls::TlsProber;
use crate::world::{PoolTable, RuleTable, World};

pub(crate) use udp::{UdpListeners, UdpOptions};

/// What every connection and session needs.
pub(crate) struct Streams {
    pub(crate) world: Arc<ArcSwap<World>>,
    pub(crate) clock: Clock,
    pub(crate) access_log: Arc<AccessLog>,
    pub(crate) metrics: Arc<Metrics>,
    /// Connects under TLS policies, as trials and checks do.
    pub(crate) tls: TlsProber,
}

impl Streams {
    /// The rule of a connection in the world of now, with its pool. It keeps both.
    fn rule_of(
        &self,
        table: impl FnOnce(&World) -> Option<&Arc<StreamTable>>,
        server_name: Option<&str>,
    ) -> Option<Arc<RuleTable>> {
        let world = self.world.load();
        let rule: &Arc<CompiledRule> = table(&world)?.find(server_name)?;
        world.rules.get(rule.id)?.clone()
    }

    /// The rule of a socket of UDP in the world of now, with its pool. `None`: its datagrams are dropped.
    fn rule_of_udp(&self, bound: &SocketAddr) -> Option<Forwarding> {
        let rule = self.rule_of(|world| world.router.udp(bound), None)?;
        let table = pool_of(&rule)?.clone();
        Some(Forwarding { rule, table })
    }

    fn with_rng<T>(&self, call: impl FnOnce(&mut Rng) -> T) -> T {
        thread_local! {
            static RNG: std::cell::RefCell<Rng> = std::cell::RefCell::new(Rng::new());
        }
        RNG.with_borrow_mut(call)
    }
}

/// A rule with the pool that it forwards to.
struct Forwarding {
    rule: Arc<RuleTable>,
    table: Arc<PoolTable>,
}

/// Where a rule forwards to; `None`: its connections are closed, and its datagrams dropped.
fn pool_of(rule: &RuleTable) -> Option<&Arc<PoolTable>> {
    match rule.rule.action {
        Action::Forward(_) => rule.pool.as_ref(),
        Action::Redirect(_) | Action::Respond(_) => None,
    }
}
