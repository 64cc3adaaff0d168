//! What a case is made of: a gateway to set up, and a script of requests and faults. Plain values, so that both
//! proxies get the very same.

use std::time::Duration;

use understudy_testbed::Behaviour;

use super::record::Side;
use crate::manifests::Setup;

/// One case with its runs.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Its name on the command line, which is its number in the measurements of Envoy where it has one.
    pub(crate) id: &'static str,
    /// What happens in it, in a few words.
    pub(crate) title: &'static str,
    pub(crate) plans: Vec<Plan>,
}

/// One run of a case: a gateway and a script.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// What is special about this run; unique within the case.
    pub(crate) label: String,
    pub(crate) setup: Setup,
    pub(crate) steps: Vec<Step>,
    /// The script must be done by then.
    pub(crate) limit: Duration,
    /// Mostly waits: such runs of a case take place at the same time.
    pub(crate) waits: bool,
    /// Requests that are with a backend when it resets their connections may not be repeated, and are lost to
    /// everyone. Only what is lost beyond them counts.
    pub(crate) wire: bool,
}

impl Plan {
    pub(crate) fn new(label: impl Into<String>, setup: Setup, steps: Vec<Step>) -> Self {
        let limit = Duration::from_secs(60);
        Self { label: label.into(), setup, steps, limit, waits: false, wire: false }
    }

    /// Sets the time limit.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Lets it run beside the others of its case.
    pub(crate) fn waits(mut self) -> Self {
        self.waits = true;
        self
    }

    /// Lets it lose what was on connections that a backend reset.
    pub(crate) fn loses_what_is_on_the_wire(mut self) -> Self {
        self.wire = true;
        self
    }
}

/// The backend that something is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// One of the primary pool, from 0.
    Primary(usize),
    Fallback,
}

/// What the script does to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// The port closes, every connection is reset.
    Kill(Who),
    /// The port closes, and idle connections at once; requests under way are answered.
    Close(Who),
    /// The port closes, and each connection after an answer that says so.
    Drain(Who),
    /// The backend dies, and its port swallows connections from then on.
    Blackhole(Who),
    /// It listens again, and answers as it should.
    Heal(Who),
    /// It does this with its next requests, one after the other.
    Next(Who, Vec<Behaviour>),
    /// It does this with every request from now on.
    Always(Who, Behaviour),
}

/// A step of the script.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Act(Action),
    /// GETs one after the other, each on a connection of its own, as with curl.
    Requests(usize),
    /// The same without a pause between them.
    Burst(usize),
    /// One POST with a body of so many bytes, which a whole answer sends back.
    Post(usize),
    /// Load for a while, with actions in the meantime.
    Load(Load),
    /// GETs until this pool serves, for at most so long.
    Until(Side, Duration),
    /// Nothing for so long.
    Wait(Duration),
    /// Shares of the pools are counted from here.
    CountShares,
}

/// Load with actions.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) kind: LoadKind,
    pub(crate) lasting: Duration,
    /// What happens meanwhile, in order: so long after the beginning.
    pub(crate) actions: Vec<(Duration, Action)>,
}

/// How load is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadKind {
    /// So many requests a second whatever becomes of them, each on a connection of its own.
    Rate(u32),
    /// So many connections with keep-alive, each with one request after the other.
    Connections(usize),
    /// So many upgraded connections, as of WebSockets, each with one message after the other.
    Sessions(usize),
}
