//! What an outcome says, and when it ejects (rules O1–O4, O10–O13, O15). Pure.

use std::fmt;

use understudy_conf::PassiveHealthCheck;

use crate::GrpcStatus;

/// Why a connection did not come about. No byte of a request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// Nobody listens.
    Refused,
    /// No answer within the connect timeout.
    TimedOut,
    /// Reset while connecting.
    Reset,
    /// The network says that there is no way.
    Unreachable,
    /// TLS could not be agreed on.
    Tls,
    /// The certificate was not accepted.
    Certificate,
    /// The gateway itself had no file, port or memory left for it. That says nothing of the endpoint.
    Local,
    /// The endpoint left the pool before it answered. That says nothing of it either: others may have it still.
    Left,
    /// Something else.
    Other,
}

/// What went wrong, small enough to keep with each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No connection.
    Connect(ConnectFailure),
    /// The endpoint refused the HTTP/2 stream.
    Refused,
    /// The connection ended after the request was sent and before the answer's headers.
    Reset,
    /// The answer was no HTTP.
    Protocol,
    /// No headers within the request or attempt timeout.
    Timeout,
    /// No connection within the request or attempt timeout.
    TimeoutConnecting,
    /// The answer's body was cut.
    Body,
    /// The answer's status.
    Status(u16),
    /// Too many of the requests of an interval failed (rule O17).
    Share {
        /// So many failed.
        failed: u32,
        /// Of so many.
        total: u32,
    },
    /// The status of gRPC in the answer's headers.
    Grpc(GrpcStatus),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect(ConnectFailure::Refused) => "connection refused",
            Self::Connect(ConnectFailure::TimedOut) => "connection timeout",
            Self::Connect(ConnectFailure::Reset) => "connection reset while connecting",
            Self::Connect(ConnectFailure::Unreachable) => "network unreachable",
            Self::Connect(ConnectFailure::Tls) => "TLS handshake failed",
            Self::Connect(ConnectFailure::Certificate) => "certificate not accepted",
            Self::Connect(ConnectFailure::Local) => "the gateway is out of files, ports or memory",
            Self::Connect(ConnectFailure::Left) => "the endpoint left the pool before it answered",
            Self::Connect(ConnectFailure::Other) => "connection failed",
            Self::Refused => "stream refused",
            Self::Reset => "connection closed before the answer",
            Self::Protocol => "the answer was no HTTP",
            Self::Timeout => "timeout waiting for the answer",
            Self::TimeoutConnecting => "timeout while connecting",
            Self::Body => "the answer's body was cut",
            Self::Status(status) => return write!(f, "status {status}"),
            Self::Share { failed, total } => return write!(f, "{failed} of {total} requests failed"),
            Self::Grpc(status) => return write!(f, "gRPC status {status}"),
        })
    }
}

/// What an attempt taught about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer arrived (for a stream: it flowed for a while), and its status was no failure.
    Success,
    /// A failure.
    Failure(Cause),
}

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    consecutive_5xx: u32,
    consecutive_gateway: u32,
    consecutive_local: u32,
}

impl Counters {
    pub(crate) fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// Rule O4: a connection that came about ends the run of local failures.
    pub(crate) fn record_connected(&mut self) {
        self.consecutive_local = 0;
    }

    /// Counts an outcome. Returns true if a detector fires; its own counter is zero then, unless the endpoint is
    /// ejected already (rule O15).
    pub(crate) fn record(&mut self, outcome: Outcome, detection: &PassiveHealthCheck, ejected: bool) -> bool {
        let Outcome::Failure(cause) = outcome else {
            // O11; a finished answer proves the connection too.
            *self = Self::default();
            return false;
        };
        match classify(cause, detection.split_external_local_origin_errors) {
            Class::Local => {
                fires(&mut self.consecutive_local, detection.consecutive_local_origin_failures, ejected)
            }
            Class::Status(status) if (500..=599).contains(&status) => {
                let gateway = if matches!(status, 502..=504) {
                    // O10: evaluated first.
                    fires(&mut self.consecutive_gateway, detection.consecutive_gateway_errors, ejected)
                } else {
                    self.consecutive_gateway = 0;
                    false
                };
                let any =
                    fires(&mut self.consecutive_5xx, detection.consecutive_5xx_errors, ejected || gateway);
                gateway || any
            }
            Class::Status(_) => {
                self.consecutive_5xx = 0;
                self.consecutive_gateway = 0;
                false
            }
        }
    }
}

enum Class {
    Local,
    Status(u16),
}

/// Rules O3 and O4: unless split, local failures are the statuses that a client would get.
fn classify(cause: Cause, split: bool) -> Class {
    match cause {
        Cause::Status(status) => Class::Status(status),
        // O2
        Cause::Grpc(status) => Class::Status(status.http()),
        _ if split => Class::Local,
        Cause::Timeout | Cause::TimeoutConnecting => Class::Status(504),
        _ => Class::Status(503),
    }
}

/// Rule O13: equality at the increment, so a threshold of 0 never fires.
fn fires(counter: &mut u32, threshold: u32, ejected: bool) -> bool {
    *counter = counter.saturating_add(1);
    if *counter != threshold || threshold == 0 {
        return false;
    }
    if !ejected {
        *counter = 0;
    }
    true
}

/// Whether the share of failures counts this outcome as one; `None`: it says nothing of the endpoint's answers
/// (local failures under split).
pub(crate) fn counts_in_share(outcome: Outcome, detection: &PassiveHealthCheck) -> Option<bool> {
    let Outcome::Failure(cause) = outcome else { return Some(false) };
    match classify(cause, detection.split_external_local_origin_errors) {
        Class::Local => None,
        Class::Status(status) => Some((500..=599).contains(&status)),
    }
}

/// The share of failures that ejects, where that detector is on.
pub(crate) fn share_threshold(detection: &PassiveHealthCheck) -> Option<u8> {
    detection.failure_percentage_threshold.map(understudy_conf::Percent::get).filter(|percent| *percent > 0)
}

/// Whether a detector that is on would count this outcome: what makes a trial request fail.
pub(crate) fn counts(outcome: Outcome, detection: &PassiveHealthCheck) -> bool {
    let Outcome::Failure(cause) = outcome else { return false };
    match classify(cause, detection.split_external_local_origin_errors) {
        Class::Local => detection.consecutive_local_origin_failures > 0,
        Class::Status(status) => {
            ((500..=599).contains(&status)
                && (detection.consecutive_5xx_errors > 0 || share_threshold(detection).is_some()))
                || (matches!(status, 502..=504) && detection.consecutive_gateway_errors > 0)
        }
    }
}

/// Successful trial requests that an endpoint needs: the smallest threshold that is on.
pub(crate) fn successes_needed(detection: &PassiveHealthCheck) -> u32 {
    let local = if detection.split_external_local_origin_errors {
        detection.consecutive_local_origin_failures
    } else {
        0
    };
    [detection.consecutive_5xx_errors, detection.consecutive_gateway_errors, local]
        .into_iter()
        .filter(|threshold| *threshold > 0)
        .min()
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESET: Outcome = Outcome::Failure(Cause::Reset);
    const REFUSED: Outcome = Outcome::Failure(Cause::Connect(ConnectFailure::Refused));

    fn status(status: u16) -> Outcome {
        if status < 500 { Outcome::Success } else { Outcome::Failure(Cause::Status(status)) }
    }

    fn detection(any: u32, gateway: u32, local: u32, split: bool) -> PassiveHealthCheck {
        PassiveHealthCheck {
            consecutive_5xx_errors: any,
            consecutive_gateway_errors: gateway,
            consecutive_local_origin_failures: local,
            split_external_local_origin_errors: split,
            ..PassiveHealthCheck::default()
        }
    }

    /// The index (from 1) of the outcome at which a detector fires.
    fn fired_at(detection: &PassiveHealthCheck, outcomes: &[Outcome]) -> Option<usize> {
        let mut counters = Counters::default();
        outcomes.iter().position(|outcome| counters.record(*outcome, detection, false)).map(|index| index + 1)
    }

    #[test]
    fn o1_only_statuses_from_500_to_599_are_failures() {
        for failure in [500, 501, 502, 504, 505, 599] {
            assert_eq!(fired_at(&detection(1, 0, 0, false), &[status(failure)]), Some(1), "{failure}");
        }
        for other in [200, 404, 429, 499] {
            assert_eq!(fired_at(&detection(1, 0, 0, false), &[status(other)]), None, "{other}");
        }
    }

    #[test]
    fn o2_a_grpc_status_counts_as_the_status_that_it_is_mapped_to() {
        for (status, any, gateway) in
            [(14, true, true), (4, true, true), (13, true, false), (12, true, false)]
        {
            let outcome = Outcome::Failure(Cause::Grpc(GrpcStatus(status)));
            assert_eq!(fired_at(&detection(1, 0, 0, false), &[outcome]).is_some(), any, "{status}");
            assert_eq!(fired_at(&detection(0, 1, 0, false), &[outcome]).is_some(), gateway, "{status}");
        }
    }

    #[test]
    fn o3_without_split_local_failures_count_as_their_status() {
        let causes = [
            Cause::Connect(ConnectFailure::Refused),
            Cause::Connect(ConnectFailure::TimedOut),
            Cause::Connect(ConnectFailure::Certificate),
            Cause::Refused,
            Cause::Reset,
            Cause::Protocol,
            Cause::Timeout,
            Cause::TimeoutConnecting,
            Cause::Body,
        ];
        for cause in causes {
            assert_eq!(fired_at(&detection(1, 0, 0, false), &[Outcome::Failure(cause)]), Some(1), "{cause}");
            assert_eq!(fired_at(&detection(0, 1, 0, false), &[Outcome::Failure(cause)]), Some(1), "{cause}");
        }
    }

    #[test]
    fn o4_with_split_local_failures_have_a_counter_of_their_own() {
        let split = detection(1, 1, 2, true);
        assert_eq!(fired_at(&split, &[REFUSED, REFUSED]), Some(2));
        let mut counters = Counters::default();
        for _ in 0..5 {
            // Each of these connected first, so no run of two comes about.
            counters.record_connected();
            assert!(!counters.record(RESET, &split, false));
        }
        assert_eq!(fired_at(&detection(5, 0, 1, true), &[RESET]), Some(1));
    }

    #[test]
    fn o10_to_o12_runs_are_counted_as_measured() {
        let three = detection(3, 0, 0, false);
        assert_eq!(fired_at(&three, &[status(500), status(404), status(500), status(500)]), None);
        let interrupted = [500, 500, 200, 500, 500, 500].map(status);
        assert_eq!(fired_at(&three, &interrupted), Some(6));
        assert_eq!(fired_at(&three, &[RESET, status(500), RESET]), Some(3));
        assert_eq!(fired_at(&detection(0, 2, 0, false), &[503, 500, 503, 503].map(status)), Some(4));
    }

    #[test]
    fn o13_a_threshold_of_zero_is_off() {
        assert_eq!(fired_at(&detection(0, 0, 0, false), &[500, 503, 500, 503].map(status)), None);
        assert_eq!(fired_at(&detection(0, 0, 0, true), &[REFUSED, REFUSED]), None);
    }

    #[test]
    fn o14_local_failures_do_not_act_without_split() {
        assert_eq!(fired_at(&detection(0, 0, 1, false), &[REFUSED, REFUSED]), None);
    }

    #[test]
    fn o15_a_fired_detector_starts_anew_unless_the_endpoint_is_ejected() {
        let two = detection(2, 0, 0, false);
        let mut counters = Counters::default();
        assert!(!counters.record(status(500), &two, false));
        assert!(counters.record(status(500), &two, false));
        assert!(counters.is_zero());
        let mut kept = Counters::default();
        kept.record(status(500), &two, true);
        kept.record(status(500), &two, true);
        assert!(!kept.is_zero());
    }

    #[test]
    fn a_trial_fails_by_what_the_detectors_count() {
        assert!(counts(status(503), &detection(0, 2, 0, false)));
        assert!(!counts(status(500), &detection(0, 2, 0, false)));
        assert!(counts(RESET, &detection(0, 0, 1, true)));
        assert!(!counts(Outcome::Success, &detection(1, 1, 1, false)));
        let share = PassiveHealthCheck {
            failure_percentage_threshold: understudy_conf::Percent::new(10).ok(),
            ..detection(0, 0, 0, false)
        };
        assert!(counts(status(500), &share) && !counts(status(404), &share));
        assert_eq!(successes_needed(&detection(5, 3, 1, false)), 3);
        assert_eq!(successes_needed(&detection(5, 3, 1, true)), 1);
        assert_eq!(successes_needed(&detection(0, 0, 0, false)), 1);
    }
}
