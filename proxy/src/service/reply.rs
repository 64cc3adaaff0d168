//! What a client gets when the answer is ours: a status, a flag for the log and a short text without internals
//! (rule R14).

use understudy_engine::{ConnectFailure, Failure, GiveUp, NoEndpoint};

use crate::access_log::Flag;

/// An answer of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Empty where nothing went wrong.
    pub(crate) flags: &'static [Flag],
    pub(crate) text: &'static str,
}

impl Reply {
    const fn new(status: u16, flags: &'static [Flag], text: &'static str) -> Self {
        Self { status, flags, text }
    }

    /// No route matches: 404 with an empty body.
    pub(crate) const NO_ROUTE: Self = Self::new(404, &[Flag::NoRoute], "");
    /// The request itself is not to be served.
    pub(crate) const BAD_REQUEST: Self = Self::new(400, &[Flag::DownstreamProtocolError], "bad request");
    /// No byte in either direction for too long.
    pub(crate) const IDLE: Self = Self::new(504, &[Flag::StreamIdle], "stream timeout");
    /// The request belongs on a connection of its own: 421 (RFC 9110, section 15.5.20).
    pub(crate) const MISDIRECTED: Self = Self::new(421, &[Flag::NoRoute], "misdirected request");
    /// The same, where no request will be served on this connection any more.
    pub(crate) const RECONNECT: Self = Self::new(421, &[Flag::NoRoute], "connect again");
    /// Something of ours broke.
    pub(crate) const INTERNAL: Self = Self::new(500, &[], "internal error");

    /// The request's time was over before an endpoint was chosen.
    pub(crate) const TIMEOUT: Self = Self::new(504, &[Flag::UpstreamTimeout], "upstream request timeout");
    /// The stream took longer than any may.
    pub(crate) const STREAM_TOO_LONG: Self =
        Self::new(504, &[Flag::StreamDuration], "upstream max stream duration reached");
    /// A limit of the pool was reached (rule B2).
    pub(crate) const OVERFLOW: Self = Self::new(503, &[Flag::UpstreamOverflow], "upstream overflow");

    /// The rule says so: nothing can be forwarded.
    pub(crate) const fn of_rule(status: u16) -> Self {
        let text = if status == 500 { "no valid backend" } else { "" };
        Self::new(status, &[Flag::NoRoute], text)
    }
}

impl From<NoEndpoint> for Reply {
    fn from(error: NoEndpoint) -> Self {
        match error {
            NoEndpoint::Invalid => Self::new(500, &[Flag::NoRoute], "no valid backend"),
            // Who waits chooses again; where that is not so, there was no room.
            NoEndpoint::Overflow | NoEndpoint::Wait => Self::OVERFLOW,
            NoEndpoint::Empty | NoEndpoint::Unhealthy => {
                Self::new(503, &[Flag::NoHealthyUpstream], "no healthy upstream")
            }
        }
    }
}

/// The answer to a failure that no further attempt follows.
pub(crate) fn of_failure(failure: Failure, give_up: GiveUp) -> Reply {
    let (status, flags, text): (u16, &'static [Flag], _) = match failure {
        Failure::Connect(ConnectFailure::TimedOut) => {
            (503, of(give_up, Flag::UpstreamConnectFailure), "upstream connection timeout")
        }
        Failure::Connect(_) => {
            (503, of(give_up, Flag::UpstreamConnectFailure), "upstream connection failure")
        }
        Failure::Refused => (503, of(give_up, Flag::UpstreamReset), "upstream stream refused"),
        Failure::StalePooled | Failure::Reset => {
            (503, of(give_up, Flag::UpstreamConnectionEnded), "upstream connection termination")
        }
        Failure::Protocol => (502, of(give_up, Flag::UpstreamProtocolError), "upstream protocol error"),
        Failure::Timeout { .. } => (504, of(give_up, Flag::UpstreamTimeout), "upstream request timeout"),
        Failure::Body => (502, &[Flag::UpstreamProtocolError], ""),
        Failure::Status(status) => (status, &[], ""),
        Failure::Grpc(status) => (status.http(), &[], ""),
    };
    Reply::new(status, flags, text)
}

/// The flag of the failure, with the one that says why there was no further attempt.
fn of(give_up: GiveUp, flag: Flag) -> &'static [Flag] {
    macro_rules! with {
        ($($name:ident),*) => {
            match (give_up, flag) {
                $(
                    (GiveUp::Exhausted, Flag::$name) => &[Flag::RetryLimitExceeded, Flag::$name],
                    (GiveUp::Overflow, Flag::$name) => &[Flag::UpstreamOverflow, Flag::$name],
                    (_, Flag::$name) => &[Flag::$name],
                )*
                _ => &[],
            }
        };
    }
    with!(
        UpstreamConnectFailure,
        UpstreamConnectionEnded,
        UpstreamProtocolError,
        UpstreamReset,
        UpstreamTimeout
    )
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
        for (failure, status, flag) in [
            (Failure::Connect(ConnectFailure::Refused), 503, Flag::UpstreamConnectFailure),
            (Failure::Connect(ConnectFailure::TimedOut), 503, Flag::UpstreamConnectFailure),
            (Failure::Reset, 503, Flag::UpstreamConnectionEnded),
            (Failure::Refused, 503, Flag::UpstreamReset),
            (Failure::Protocol, 502, Flag::UpstreamProtocolError),
            (Failure::Timeout { kind: TimeoutKind::Request, connected: true }, 504, Flag::UpstreamTimeout),
            (Failure::Timeout { kind: TimeoutKind::PerTry, connected: false }, 504, Flag::UpstreamTimeout),
        ] {
            let reply = of_failure(failure, GiveUp::NotRetriable);
            assert_eq!((reply.status, reply.flags), (status, &[flag][..]), "{failure:?}");
            assert!(!reply.text.is_empty());
            let exhausted = of_failure(failure, GiveUp::Exhausted);
            assert_eq!(exhausted.flags, [Flag::RetryLimitExceeded, flag]);
            assert_eq!(of_failure(failure, GiveUp::Overflow).flags, [Flag::UpstreamOverflow, flag]);
        }
    }

    #[test]
    fn no_endpoint_is_500_where_gateway_api_demands_it_and_503_otherwise() {
        assert_eq!(Reply::from(NoEndpoint::Invalid).status, 500);
        assert_eq!(Reply::from(NoEndpoint::Empty).status, 503);
        assert_eq!(Reply::from(NoEndpoint::Unhealthy).status, 503);
        assert_eq!(Reply::from(NoEndpoint::Overflow), Reply::OVERFLOW);
    }
}
