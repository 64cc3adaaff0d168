//! What Pingora's errors mean to the engine.

use std::error::Error as _;
use std::io;

use h2::Reason;
use nix::errno::Errno;
use pingora_error::{Error, ErrorType};
use understudy_engine::{ConnectFailure, Failure};

use super::connecting::LEFT;
use crate::metrics::AttemptOutcome;
use crate::upstream_tls::of_handshake;

/// An error before a connection stood: no byte of the request was sent.
pub(crate) fn of_connecting(error: &Error) -> ConnectFailure {
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => ConnectFailure::TimedOut,
        ErrorType::ConnectRefused => ConnectFailure::Refused,
        ErrorType::ConnectNoRoute => ConnectFailure::Unreachable,
        left if *left == LEFT => ConnectFailure::Left,
        ErrorType::TLSHandshakeFailure => of_handshake(error),
        ErrorType::InvalidCert => ConnectFailure::Certificate,
        _ => io_error(error).map_or(ConnectFailure::Other, of_io),
    }
}

/// The same, from the system's own error.
pub(crate) fn of_io(error: &io::Error) -> ConnectFailure {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused | Kind::NotFound => ConnectFailure::Refused,
        Kind::ConnectionReset | Kind::ConnectionAborted => ConnectFailure::Reset,
        Kind::TimedOut => ConnectFailure::TimedOut,
        Kind::NetworkUnreachable | Kind::HostUnreachable => ConnectFailure::Unreachable,
        _ => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EADDRNOTAVAIL) => {
                ConnectFailure::Local
            }
            _ => ConnectFailure::Other,
        },
    }
}

/// An error of the endpoint after the connection stood.
pub(crate) fn of_exchange(error: &Error, response_started: bool, stale: bool) -> Failure {
    if response_started {
        return Failure::Body;
    }
    if stale {
        return Failure::StalePooled;
    }
    match error.etype() {
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error => Failure::Protocol,
        _ => Failure::Reset,
    }
}

/// A stream that could not begin: its connection takes no more, so nothing was sent.
pub(crate) fn of_unsent(error: &h2::Error, reused: bool) -> Failure {
    if reused {
        return Failure::StalePooled;
    }
    match error.reason() {
        // It has said something already that is no HTTP/2.
        Some(_) if error.is_library() => Failure::Protocol,
        Some(_) => Failure::Refused,
        None => Failure::Connect(ConnectFailure::Reset),
    }
}

/// An error of a stream of HTTP/2. `reused`: its connection had carried another request before.
pub(crate) fn of_stream(error: &h2::Error, response_started: bool, reused: bool) -> Failure {
    if response_started {
        return Failure::Body;
    }
    if error.is_remote() && error.is_go_away() {
        // The endpoint is going, and this stream is beyond those that it will serve. On a new connection it is not
        // willing to serve any.
        return if reused { Failure::StalePooled } else { Failure::Refused };
    }
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_remote() => Failure::Refused,
        Some(Reason::HTTP_1_1_REQUIRED) => Failure::Protocol,
        // We found that what it said is no HTTP/2.
        Some(_) if error.is_library() => Failure::Protocol,
        _ => Failure::Reset,
    }
}

/// Under which name a failed attempt is counted.
pub(crate) fn outcome(failure: Failure) -> AttemptOutcome {
    match failure {
        Failure::Connect(ConnectFailure::Tls) => AttemptOutcome::TlsFailed,
        Failure::Connect(ConnectFailure::Certificate) => AttemptOutcome::CertificateRefused,
        Failure::Connect(_) => AttemptOutcome::ConnectFailed,
        Failure::StalePooled => AttemptOutcome::StalePooled,
        Failure::Refused => AttemptOutcome::Refused,
        Failure::Reset | Failure::Protocol => AttemptOutcome::Reset,
        Failure::Timeout { .. } => AttemptOutcome::Timeout,
        Failure::Body => AttemptOutcome::Body,
        Failure::Status(_) | Failure::Grpc(_) => AttemptOutcome::ServerError,
    }
}

/// The system's own error at the bottom, if there is one.
fn io_error(error: &Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = inner.source();
    }
    error.root_cause().downcast_ref::<io::Error>()
}

#[cfg(test)]
mod tests {
    use pingora_error::OrErr;

    use super::*;

    fn io(kind: io::ErrorKind) -> Box<Error> {
        Err::<(), _>(io::Error::from(kind)).or_err(ErrorType::ConnectError, "connecting").unwrap_err()
    }

    fn of_system(errno: Errno) -> Box<Error> {
        let error = io::Error::from_raw_os_error(errno as i32);
        Err::<(), _>(error).or_err(ErrorType::ConnectError, "connecting").unwrap_err()
    }

    #[test]
    fn errors_of_connecting_are_told_apart() {
        for (error, expected) in [
            (Error::new(ErrorType::ConnectRefused), ConnectFailure::Refused),
            (Error::new(ErrorType::ConnectTimedout), ConnectFailure::TimedOut),
            (Error::new(ErrorType::InvalidCert), ConnectFailure::Certificate),
            (Error::new(ErrorType::TLSHandshakeFailure), ConnectFailure::Tls),
            (io(io::ErrorKind::ConnectionReset), ConnectFailure::Reset),
            (io(io::ErrorKind::NotFound), ConnectFailure::Refused),
            (io(io::ErrorKind::HostUnreachable), ConnectFailure::Unreachable),
            (Error::new(ErrorType::SocketError), ConnectFailure::Other),
            (of_system(Errno::EMFILE), ConnectFailure::Local),
            (of_system(Errno::EADDRNOTAVAIL), ConnectFailure::Local),
            (of_system(Errno::EACCES), ConnectFailure::Other),
        ] {
            assert_eq!(of_connecting(&error), expected, "{error}");
        }
    }

    #[test]
    fn r3_errors_of_streams_are_told_apart() {
        let internal = h2::Error::from(Reason::INTERNAL_ERROR);
        assert_eq!(of_stream(&internal, false, true), Failure::Reset);
        assert_eq!(of_stream(&internal, true, true), Failure::Body);
        assert_eq!(of_stream(&Reason::HTTP_1_1_REQUIRED.into(), false, true), Failure::Protocol);
        assert_eq!(of_unsent(&internal, true), Failure::StalePooled);
        assert_eq!(of_unsent(&internal, false), Failure::Refused);
    }

    #[test]
    fn errors_after_connecting_depend_on_how_far_the_answer_was() {
        let closed = Error::new(ErrorType::ConnectionClosed);
        assert_eq!(of_exchange(&closed, false, false), Failure::Reset);
        assert_eq!(of_exchange(&closed, true, false), Failure::Body);
        assert_eq!(of_exchange(&closed, false, true), Failure::StalePooled);
        assert_eq!(of_exchange(&Error::new(ErrorType::InvalidHTTPHeader), false, false), Failure::Protocol);
    }
}
