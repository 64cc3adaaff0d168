//! What a client gets when the answer is ours: a status, a flag for the log and a short text without internals
//! (rule R14).

use understudy_engine::{ConnectFailure, Failure, GiveUp, NoEndpoint};

/// An answer of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// As Envoy's response flags; empty where nothing went wrong.
    pub(crate) flags: &'static str,
    pub(crate) text: &'static str,
}

impl Reply {
    const fn new(status: u16, flags: &'static str, text: &'static str) -> Self {
        Self { status, flags, text }
    }

    /// No route matches: 404 with an empty body.
    pub(crate) const NO_ROUTE: Self = Self::new(404, "NR", "");
    /// The request itself is not to be served.
    pub(crate) const BAD_REQUEST: Self = Self::new(400, "DPE", "bad request");
    /// Something of ours broke.
    pub(crate) const INTERNAL: Self = Self::new(500, "", "internal error");

    /// The rule says so: nothing can be forwarded.
    pub(crate) const fn of_rule(status: u16) -> Self {
        let text = if status == 500 { "no valid backend" } else { "" };
        Self::new(status, "NR", text)
    }
}

impl From<NoEndpoint> for Reply {
    fn from(error: NoEndpoint) -> Self {
        match error {
            NoEndpoint::Invalid => Self::new(500, "NC", "no valid backend"),
            NoEndpoint::Empty | NoEndpoint::Unhealthy => Self::new(503, "UH", "no healthy upstream"),
        }
    }
}

/// The answer to a failure that no further attempt follows.
pub(crate) fn of_failure(failure: Failure, give_up: GiveUp) -> Reply {
    let (status, flags, text) = match failure {
        Failure::Connect(ConnectFailure::TimedOut) => (503, "UF", "upstream connection timeout"),
        Failure::Connect(_) => (503, "UF", "upstream connection failure"),
        Failure::StalePooled | Failure::Reset => (503, "UC", "upstream connection termination"),
        Failure::Protocol => (502, "UPE", "upstream protocol error"),
        Failure::Timeout { .. } => (504, "UT", "upstream request timeout"),
        Failure::Body => (502, "UPE", ""),
        Failure::Status(status) => (status, "", ""),
    };
    let flags = match (give_up, flags) {
        (GiveUp::Exhausted, "UF") => "URX,UF",
        (GiveUp::Exhausted, "UC") => "URX,UC",
        (GiveUp::Exhausted, "UT") => "URX,UT",
        (GiveUp::Exhausted, "UPE") => "URX,UPE",
        (GiveUp::Overflow, "UF") => "UO,UF",
        (GiveUp::Overflow, "UC") => "UO,UC",
        _ => flags,
    };
    Reply::new(status, flags, text)
}

/// What failed, for the log.
pub(crate) fn cause_text(failure: Failure) -> String {
    failure.cause().map_or_else(|| "the pooled connection was closed".to_owned(), |cause| cause.to_string())
}

#[cfg(test)]
mod tests {
    use understudy_engine::TimeoutKind;

    use super::*;

    #[test]
    fn r14_failures_become_the_statuses_and_flags_that_envoys_users_know() {
        for (failure, status, flags) in [
            (Failure::Connect(ConnectFailure::Refused), 503, "UF"),
            (Failure::Connect(ConnectFailure::TimedOut), 503, "UF"),
            (Failure::Reset, 503, "UC"),
            (Failure::Protocol, 502, "UPE"),
            (Failure::Timeout { kind: TimeoutKind::Request, connected: true }, 504, "UT"),
            (Failure::Timeout { kind: TimeoutKind::PerTry, connected: false }, 504, "UT"),
        ] {
            let reply = of_failure(failure, GiveUp::NotRetriable);
            assert_eq!((reply.status, reply.flags), (status, flags), "{failure:?}");
            assert!(!reply.text.is_empty());
        }
        assert_eq!(of_failure(Failure::Connect(ConnectFailure::Refused), GiveUp::Exhausted).flags, "URX,UF");
        assert_eq!(of_failure(Failure::Connect(ConnectFailure::Refused), GiveUp::Overflow).flags, "UO,UF");
    }

    #[test]
    fn no_endpoint_is_500_where_gateway_api_demands_it_and_503_otherwise() {
        assert_eq!(Reply::from(NoEndpoint::Invalid).status, 500);
        assert_eq!(Reply::from(NoEndpoint::Empty).status, 503);
        assert_eq!(Reply::from(NoEndpoint::Unhealthy).status, 503);
    }
}
