//! Active health checks: what is asked, what an answer says (rules H1–H3). Pure.

use std::fmt;
use std::sync::Arc;

use understudy_conf::ActiveHealthCheck;

use crate::{Cause, ConnectFailure};

/// What an endpoint is asked. Pools that ask an endpoint the same share one prober.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CheckSpec {
    /// The policy's settings.
    pub settings: Arc<ActiveHealthCheck>,
    /// The Host (or `:authority`) to send; empty where the check sends none.
    pub host: Arc<str>,
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// As expected.
    Passed,
    /// Otherwise.
    Failed(CheckFailure),
}

/// Why a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckFailure {
    /// No connection.
    Connect(ConnectFailure),
    /// Not answered within the timeout.
    Timeout,
    /// The connection ended before the answer did.
    Closed,
    /// The answer could not be understood.
    Protocol,
    /// A status that is neither expected nor retriable.
    Status(u16),
    /// A retriable status.
    RetriableStatus(u16),
    /// The right status, and not the body that was expected.
    Response,
    /// The endpoint asks to be left alone (rule H7).
    OnRequest,
    /// A gRPC status, or a health status other than SERVING (0: the service said so).
    Grpc(u16),
}

impl CheckFailure {
    /// Rule H2: an answer that says no counts at once; what may be the network's fault counts to the threshold.
    fn is_final(self) -> bool {
        matches!(self, Self::Status(_) | Self::Response | Self::Grpc(_) | Self::OnRequest)
    }
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(failure) => Cause::Connect(*failure).fmt(f),
            Self::Timeout => f.write_str("no answer within the check's timeout"),
            Self::Closed => f.write_str("connection closed before the answer's end"),
            Self::Protocol => f.write_str("the answer could not be understood"),
            Self::Status(status) | Self::RetriableStatus(status) => write!(f, "status {status}"),
            Self::Response => f.write_str("the answer is not the expected one"),
            Self::OnRequest => f.write_str("it asks to get no traffic"),
            Self::Grpc(0) => f.write_str("the service is not serving"),
            Self::Grpc(status) => write!(f, "gRPC status {status}"),
        }
    }
}

/// Where an endpoint stands with a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckStanding {
    /// There is no result yet.
    Pending,
    /// It may take traffic.
    Passing,
    /// It may not, for this reason.
    Failing(CheckFailure),
}

/// The standing, and the run of results that may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) standing: CheckStanding,
    /// Results in a row against the standing.
    run: u32,
}

impl Verdict {
    pub(crate) fn new() -> Self {
        Self { standing: CheckStanding::Pending, run: 0 }
    }

    /// It stood well under another check, so this one has to fail before it is believed.
    pub(crate) fn assume_passing(&mut self) {
        *self = Self { standing: CheckStanding::Passing, run: 0 };
    }

    /// Counts a result. Returns true if the endpoint may take traffic now and could not before, or the other way, or
    /// if not even panic may make use of it any longer.
    pub(crate) fn record(&mut self, result: CheckResult, settings: &ActiveHealthCheck) -> bool {
        if result == CheckResult::Failed(CheckFailure::Connect(ConnectFailure::Local)) {
            // Nobody was asked.
            return false;
        }
        let (before, against) = (self.standing, self.run + 1);
        (self.standing, self.run) = match (before, result) {
            // H1: the first result decides, whatever the thresholds.
            (CheckStanding::Pending, CheckResult::Passed) => (CheckStanding::Passing, 0),
            (CheckStanding::Pending, CheckResult::Failed(failure)) => (CheckStanding::Failing(failure), 0),
            (CheckStanding::Passing, CheckResult::Passed) => (before, 0),
            // H2
            (CheckStanding::Passing, CheckResult::Failed(failure)) => {
                if failure.is_final() || against >= settings.unhealthy_threshold {
                    (CheckStanding::Failing(failure), 0)
                } else {
                    (before, against)
                }
            }
            // H7: it stays out until a check passes, however the checks before that fail.
            (CheckStanding::Failing(CheckFailure::OnRequest), CheckResult::Failed(_)) => (before, 0),
            (CheckStanding::Failing(_), CheckResult::Failed(failure)) => (CheckStanding::Failing(failure), 0),
            // H3
            (CheckStanding::Failing(_), CheckResult::Passed) => {
                if against >= settings.healthy_threshold {
                    (CheckStanding::Passing, 0)
                } else {
                    (before, against)
                }
            }
        };
        let excluded = |standing| standing == CheckStanding::Failing(CheckFailure::OnRequest);
        std::mem::discriminant(&before) != std::mem::discriminant(&self.standing)
            || excluded(before) != excluded(self.standing)
    }
}

#[cfg(test)]
mod tests {
    use understudy_conf::{ActiveProbe, HttpProbe};

    use super::*;

    const PASS: CheckResult = CheckResult::Passed;
    const REFUSED: CheckResult = CheckResult::Failed(CheckFailure::Connect(ConnectFailure::Refused));
    const LOCAL: CheckResult = CheckResult::Failed(CheckFailure::Connect(ConnectFailure::Local));
    const TIMEOUT: CheckResult = CheckResult::Failed(CheckFailure::Timeout);
    const STATUS: CheckResult = CheckResult::Failed(CheckFailure::Status(503));
    const RETRIABLE: CheckResult = CheckResult::Failed(CheckFailure::RetriableStatus(503));

    fn settings(unhealthy_threshold: u32, healthy_threshold: u32) -> ActiveHealthCheck {
        let probe = ActiveProbe::Http(HttpProbe::get("/"));
        ActiveHealthCheck { unhealthy_threshold, healthy_threshold, ..ActiveHealthCheck::new(probe) }
    }

    /// After each result, whether the endpoint may take traffic.
    fn serves(settings: &ActiveHealthCheck, results: &[CheckResult]) -> Vec<bool> {
        let mut verdict = Verdict::new();
        let serves = |verdict: &Verdict| verdict.standing == CheckStanding::Passing;
        results
            .iter()
            .map(|result| {
                let (before, pending) = (serves(&verdict), verdict.standing == CheckStanding::Pending);
                let changed = verdict.record(*result, settings);
                assert_eq!(changed, pending || before != serves(&verdict));
                serves(&verdict)
            })
            .collect()
    }

    #[test]
    fn h1_the_first_result_decides_whatever_the_thresholds() {
        assert_eq!(serves(&settings(3, 5), &[PASS]), [true]);
        assert_eq!(serves(&settings(3, 1), &[TIMEOUT]), [false]);
        assert_eq!(serves(&settings(3, 1), &[RETRIABLE]), [false]);
    }

    #[test]
    fn a_check_that_the_gateway_had_no_means_for_says_nothing() {
        assert_eq!(
            serves(&settings(1, 1), &[PASS, LOCAL, LOCAL, TIMEOUT, LOCAL, PASS]),
            [true, true, true, false, false, true]
        );
        let mut verdict = Verdict::new();
        assert!(!verdict.record(LOCAL, &settings(1, 1)));
        assert_eq!(verdict.standing, CheckStanding::Pending);
    }

    #[test]
    fn h2_connect_failures_timeouts_and_retriable_statuses_count_to_the_threshold() {
        let three = settings(3, 1);
        assert_eq!(serves(&three, &[PASS, REFUSED, TIMEOUT, RETRIABLE]), [true, true, true, false]);
        assert_eq!(
            serves(&three, &[PASS, REFUSED, REFUSED, PASS, REFUSED, REFUSED]),
            [true; 6],
            "a pass ends the run"
        );
    }

    #[test]
    fn h2_an_unexpected_status_makes_unhealthy_at_once() {
        assert_eq!(serves(&settings(3, 1), &[PASS, STATUS]), [true, false]);
        let response = CheckResult::Failed(CheckFailure::Response);
        assert_eq!(serves(&settings(3, 1), &[PASS, response]), [true, false]);
    }

    #[test]
    fn h3_healthy_again_after_so_many_passes_in_a_row() {
        let two = settings(1, 2);
        assert_eq!(
            serves(&two, &[PASS, REFUSED, PASS, REFUSED, PASS, PASS]),
            [true, false, false, false, false, true]
        );
        assert_eq!(serves(&settings(1, 1), &[REFUSED, PASS]), [false, true]);
    }

    #[test]
    fn h7_an_endpoint_that_wants_no_traffic_stays_out_until_a_check_passes() {
        let on_request = CheckResult::Failed(CheckFailure::OnRequest);
        let mut verdict = Verdict::new();
        verdict.assume_passing();
        assert!(verdict.record(on_request, &settings(3, 1)));
        assert!(!verdict.record(REFUSED, &settings(3, 1)));
        assert_eq!(verdict.standing, CheckStanding::Failing(CheckFailure::OnRequest));
        assert!(verdict.record(PASS, &settings(3, 1)));
        verdict.record(STATUS, &settings(3, 1));
        assert!(verdict.record(on_request, &settings(3, 1)), "a failing endpoint may say so too");
    }

    #[test]
    fn an_assumed_standing_needs_the_threshold_to_fall() {
        let mut verdict = Verdict::new();
        verdict.assume_passing();
        assert!(!verdict.record(REFUSED, &settings(2, 1)));
        assert!(verdict.record(REFUSED, &settings(2, 1)));
    }
}
