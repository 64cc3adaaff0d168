//! The failover engine: choose → attempt → outcome → next.
//!
//! Purpose: decide which endpoint a request goes to, what its outcome says about the endpoint, and whether it
//! is tried again elsewhere. Inputs: pools as the state describes them ([`PoolSpec`]), outcomes, and `now`.
//! Outputs: choices, retries, probes to run, and the events that users see. It does no I/O, knows no clock and
//! no protocol library: an HTTP proxy, a TCP relay and a test drive it alike.
//!
//! ```text
//! Exchange::begin(pool) ─ choose ─► Choice ─ (the caller connects and sends) ─► outcome ─► next ─► choose …
//! Engine::tick(now) ─► probes of endpoints on trial ─ (the caller connects) ─► Engine::probed
//!                  └► active checks that are due ─ (the caller asks) ─► Engine::checked
//! ```
//!
//! Health is learned once: a [`Record`] per endpoint and scope (policy object and timeouts), whichever pools
//! refer to it. A pool only decides whether it obeys (`maxEjectionPercent`).

mod admission;
mod check;
mod choose;
mod endpoint;
mod engine;
mod event;
mod evidence;
mod exchange;
mod grpc;
mod hash;
mod instant;
mod obey;
mod phase;
mod pool;
mod priority;
mod prober;
mod record;
mod report;
mod retry;
mod share;
mod slow_start;
mod spec;
mod tls;
mod view;

pub use admission::Room;
pub use check::{CheckFailure, CheckResult, CheckSpec};
pub use endpoint::{Endpoint, ScopeKey};
pub use engine::{Engine, Probe, Tick};
pub use event::{Event, EventKind};
pub use evidence::{Cause, ConnectFailure, Outcome};
pub use exchange::{Choice, Exchange, NoEndpoint, RequestTraits};
pub use grpc::GrpcStatus;
pub use hash::hash;
pub use instant::Instant;
pub use phase::Phase;
pub use pool::{Departure, Member, Pool};
pub use priority::{GroupHealth, Loads, loads};
pub use prober::CheckProbe;
pub use record::Record;
pub use retry::{Facts, Failure, GiveUp, Next, TimeoutKind};
pub use spec::{Address, Identity, MemberSpec, PoolSpec, RefSpec, Scope};
pub use tls::{TlsIdentity, TlsStrength};
