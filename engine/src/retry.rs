//! Whether a failed attempt is made again (rules R1–R9, and the safe retry). Pure.

use std::time::Duration;

use fastrand::Rng;
use understudy_conf::{BackOff, Retry, RetryTrigger};

use crate::GrpcStatus;
use crate::evidence::{Cause, ConnectFailure};

/// Safe moves of one request at most.
pub(crate) const MAX_SAFE_MOVES: u32 = 5;

/// Which timeout ended an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutKind {
    /// The limit of one attempt.
    PerTry,
    /// The limit of the whole request: never retried (rule R5).
    Request,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection came about.
    Connect(ConnectFailure),
    /// A pooled connection was found dead before the first byte was written: nothing is known of the endpoint.
    StalePooled,
    /// The endpoint refused the HTTP/2 stream and says that it did nothing with it.
    Refused,
    /// The connection ended after bytes were sent and before the answer's headers.
    Reset,
    /// The answer was no HTTP.
    Protocol,
    /// A timeout fired.
    Timeout {
        /// Which.
        kind: TimeoutKind,
        /// False while the connection was still pending.
        connected: bool,
    },
    /// The answer's body was cut, after its headers went to the client.
    Body,
    /// The answer has this status.
    Status(u16),
    /// The answer's headers have this status of gRPC.
    Grpc(GrpcStatus),
}

impl Failure {
    /// What the failure says of the endpoint, if anything.
    #[must_use]
    pub fn cause(self) -> Option<Cause> {
        Some(match self {
            Self::Connect(ConnectFailure::Local | ConnectFailure::Left) => return None,
            Self::Connect(failure) => Cause::Connect(failure),
            Self::StalePooled => return None,
            Self::Refused => Cause::Refused,
            Self::Reset => Cause::Reset,
            Self::Protocol => Cause::Protocol,
            Self::Timeout { connected: true, .. } => Cause::Timeout,
            Self::Timeout { connected: false, .. } => Cause::TimeoutConnecting,
            Self::Body => Cause::Body,
            Self::Status(status) if status >= 500 => Cause::Status(status),
            Self::Status(_) => return None,
            Self::Grpc(status) if status.http() >= 500 => Cause::Grpc(status),
            Self::Grpc(_) => return None,
        })
    }

    /// Whether the endpoint has done nothing with the request.
    pub(crate) fn nothing_sent(self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::StalePooled
                | Self::Refused
                | Self::Timeout { kind: TimeoutKind::PerTry, connected: false }
        )
    }
}

/// What the caller knows of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Some of the answer went to the client already.
    pub response_started: bool,
    /// The request can be sent again: its body is kept whole, or none of it was read.
    pub can_resend: bool,
}

/// What happens after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, after so long.
    Retry {
        /// Zero for a request that is moved because nothing was sent.
        after: Duration,
    },
    /// None: the failure goes to the client.
    GiveUp(GiveUp),
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Nothing asks for one.
    NotRetriable,
    /// The retries are used up.
    Exhausted,
    /// Too many retries are under way (rule R8).
    Overflow,
    /// The request cannot be sent again.
    CannotResend,
}

/// Why an attempt may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Nothing was sent: moved at once, not counted against `numRetries`.
    Safe,
    /// An endpoint on trial failed: replayed at once, the trial was ours.
    Trial,
    /// The policy or the route asks for it.
    Policy,
}

/// What was used up so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) safe: u32,
    pub(crate) policy: u32,
}

/// Finds the grounds for another attempt, best first.
pub(crate) fn grounds(
    failure: Failure,
    facts: Facts,
    on_trial: bool,
    retry: Option<&Retry>,
    used: Used,
) -> Result<Vec<Ground>, GiveUp> {
    if facts.response_started || matches!(failure, Failure::Timeout { kind: TimeoutKind::Request, .. }) {
        return Err(GiveUp::NotRetriable);
    }
    let turned_off = retry.is_some_and(|retry| retry.num_retries == 0);
    let mut grounds = Vec::new();
    if failure.nothing_sent() && used.safe < MAX_SAFE_MOVES && !turned_off {
        grounds.push(Ground::Safe);
    }
    if on_trial && failure.cause().is_some() {
        grounds.push(Ground::Trial);
    }
    let asked = retry.is_some_and(|retry| is_retriable(failure, retry));
    let left = retry.is_some_and(|retry| used.policy < retry.num_retries);
    if asked && left {
        grounds.push(Ground::Policy);
    }
    match grounds.is_empty() {
        true if asked && !turned_off => Err(GiveUp::Exhausted),
        true => Err(GiveUp::NotRetriable),
        false if !facts.can_resend => Err(GiveUp::CannotResend),
        false => Ok(grounds),
    }
}

/// Rule R3.
fn is_retriable(failure: Failure, retry: &Retry) -> bool {
    use RetryTrigger as T;
    let any = |triggers: &[T]| triggers.iter().any(|trigger| retry.triggers.contains(trigger));
    match failure {
        Failure::Connect(_) | Failure::StalePooled | Failure::Timeout { connected: false, .. } => {
            any(&[T::ConnectFailure, T::ResetBeforeRequest, T::Reset, T::GatewayError, T::Status5xx])
        }
        Failure::Refused => any(&[
            T::RefusedStream,
            T::ConnectFailure,
            T::ResetBeforeRequest,
            T::Reset,
            T::GatewayError,
            T::Status5xx,
        ]),
        Failure::Reset | Failure::Protocol | Failure::Timeout { connected: true, .. } => {
            any(&[T::Reset, T::GatewayError, T::Status5xx])
        }
        Failure::Status(status) => {
            (any(&[T::Status5xx]) && (500..=599).contains(&status))
                || (any(&[T::GatewayError]) && matches!(status, 502..=504))
                || (any(&[T::Retriable4xx]) && status == 409)
                || (any(&[T::RetriableStatusCodes]) && retry.status_codes.contains(&status))
        }
        // R4
        Failure::Grpc(status) => {
            let trigger = match status {
                GrpcStatus::CANCELLED => T::Cancelled,
                GrpcStatus::DEADLINE_EXCEEDED => T::DeadlineExceeded,
                GrpcStatus::RESOURCE_EXHAUSTED => T::ResourceExhausted,
                GrpcStatus::INTERNAL => T::Internal,
                GrpcStatus::UNAVAILABLE => T::Unavailable,
                _ => return false,
            };
            any(&[trigger])
        }
        Failure::Body => false,
    }
}

/// Rule R6: uniform in [0, min(max, base × 2^(n-1))) before retry n (from 1).
pub(crate) fn back_off(back_off: BackOff, n: u32, rng: &mut Rng) -> Duration {
    let factor = 1_u64.checked_shl(n.saturating_sub(1)).unwrap_or(u64::MAX);
    let bound =
        back_off.base_interval.as_millis().saturating_mul(factor).min(back_off.max_interval.as_millis());
    Duration::from_micros(rng.u64(0..bound.saturating_mul(1000).max(1)))
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
