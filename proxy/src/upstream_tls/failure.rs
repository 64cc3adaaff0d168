//! What a failed handshake says.

use std::error::Error as StdError;
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
    reason.trim_start_matches([':', ' ']).to_owned()
}

/// Whether the endpoint turned down the certificate that it was shown. In TLS 1.3 it says so when the request is on its
/// way already; it reads none of it before.
pub(crate) fn is_client_certificate_refused(error: &Error) -> bool {
    use AlertDescription as Alert;
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(inner) = cause {
        let tls = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(TlsError::AlertReceived(alert)) = tls.and_then(|tls| tls.downcast_ref()) {
            return matches!(
                alert,
                Alert::CertificateRequired
                    | Alert::BadCertificate
                    | Alert::UnsupportedCertificate
                    | Alert::CertificateRevoked
                    | Alert::CertificateExpired
                    | Alert::CertificateUnknown
                    | Alert::UnknownCA
                    | Alert::AccessDenied
            );
        }
        cause = inner.source();
    }
    false
}
