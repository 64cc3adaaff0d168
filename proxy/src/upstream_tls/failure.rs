//! What a failed handshake says.

use std::io;

use pingora_error::Error;
use rustls::{AlertDescription, Error as TlsError};
use understudy_engine::ConnectFailure;

/// How the reason begins where a certificate was refused: Pingora hands on the text of rustls, not its error.
const REFUSED: &str = "invalid peer certificate";
/// The endpoint showed none at all.
const NONE_SHOWN: &str = "peer sent no certificates";

/// Tells a certificate that was not accepted from a handshake that failed otherwise.
pub(crate) fn of_handshake(error: &Error) -> ConnectFailure {
    let text = error.to_string();
    if text.contains(REFUSED) || text.contains(NONE_SHOWN) {
        ConnectFailure::Certificate
    } else {
        ConnectFailure::Tls
    }
}

/// What is wrong with a certificate, in the words of rustls.
pub(super) fn reason(error: &Error) -> String {
    let text = error.to_string();
    let start = text.find(REFUSED).map(|at| at + REFUSED.len()).or_else(|| text.find(NONE_SHOWN));
    let reason = start.map_or(&*text, |start| &text[start..]);
    // What Pingora adds is said otherwise.
    let reason = reason.rfind(", SNI: ").map_or(reason, |end| &reason[..end]);
    reason.trim_start_matches([':', ' ']).to_owned()
}

/// What an endpoint says that does not accept the certificate which it was shown.
const REFUSALS: [AlertDescription; 8] = [
    AlertDescription::CertificateRequired,
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
];

/// Whether the endpoint turned down the certificate that it was shown. In TLS 1.3 it says so when the request is on its
/// way already; it reads none of it before.
pub(crate) fn is_client_certificate_refused(error: &Error) -> bool {
    let io = error.root_cause().downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match io.and_then(|inner| inner.downcast_ref()) {
        Some(TlsError::AlertReceived(alert)) => REFUSALS.contains(alert),
        _ => false,
    }
}

/// The same from an error of HTTP/2, which keeps only the text of what it was told.
pub(crate) fn is_client_certificate_refused_in_h2(error: &h2::Error) -> bool {
    let text = error.get_io().map(ToString::to_string).unwrap_or_default();
    REFUSALS.iter().any(|alert| text.contains(&TlsError::AlertReceived(*alert).to_string()))
}

#[cfg(test)]
mod tests {
    use pingora_error::{ErrorType, OrErr};

    use super::*;

    fn handshake(text: &str) -> Box<Error> {
        Error::explain(ErrorType::TLSHandshakeFailure, text.to_owned())
    }

    #[test]
    fn a_refused_certificate_is_told_from_other_failures_and_its_reason_from_what_stands_around_it() {
        let refused = "TLS connect() failed:  TLSHandshakeFailure context: tls connect error cause: \
                       invalid peer certificate: UnknownIssuer, SNI: a.example";
        let error = handshake(refused);
        assert_eq!((of_handshake(&error), &*reason(&error)), (ConnectFailure::Certificate, "UnknownIssuer"));
        let none = handshake("peer sent no certificates");
        assert_eq!(of_handshake(&none), ConnectFailure::Certificate);
        let alert = handshake("received fatal alert: HandshakeFailure");
        assert_eq!(of_handshake(&alert), ConnectFailure::Tls);
    }

    #[test]
    fn only_alerts_about_the_client_certificate_say_that_it_was_refused() {
        for (alert, expected) in [
            (AlertDescription::CertificateRequired, true),
            (AlertDescription::UnknownCA, true),
            (AlertDescription::HandshakeFailure, false),
            (AlertDescription::InternalError, false),
        ] {
            let io = io::Error::new(io::ErrorKind::InvalidData, TlsError::AlertReceived(alert));
            let error = Err::<(), _>(io).or_err(ErrorType::ReadError, "reading").unwrap_err();
            assert_eq!(is_client_certificate_refused(&error), expected, "{alert:?}");
        }
        assert!(!is_client_certificate_refused(&handshake("CertificateRequired")));
    }
}
