//! Names that an endpoint's certificate must be for, where it is not the one that is sent.
//!
//! rustls verifies the name that is sent, and Pingora hands on of a certificate only its digest, so these names are looked
//! for here. What was found out about a certificate is kept by its digest: a connection that Pingora made is judged by it,
//! and one with a certificate that was never looked at waits until another connection has shown it
//! ([`super::TlsGuard::look`]). Whether the certificate is signed by who is trusted was verified before, on both.

use std::collections::HashMap;

use parking_lot::Mutex;
use understudy_conf::SubjectAltName;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Certificates that are remembered; with more, all are looked at anew.
const MAX_KNOWN: usize = 1024;

/// The names of one policy, and which certificates have one of them.
#[derive(Debug)]
pub(super) struct Names {
    wanted: Vec<SubjectAltName>,
    /// By the certificate's digest.
    known: Mutex<HashMap<Vec<u8>, bool>>,
}

impl Names {
    /// `None` where there is none: then the name that is sent is verified.
    pub(super) fn new(wanted: &[SubjectAltName]) -> Option<Self> {
        let wanted = wanted.to_vec();
        (!wanted.is_empty()).then(|| Self { wanted, known: Mutex::default() })
    }

    /// Whether a certificate has one of the names; `None` if it was never looked at.
    pub(super) fn known(&self, digest: &[u8]) -> Option<bool> {
        self.known.lock().get(digest).copied()
    }

    /// Looks at a certificate.
    pub(super) fn look(&self, digest: &[u8], certificate: &[u8]) {
        let fits = has_one(certificate, &self.wanted);
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(digest.to_vec(), fits);
    }
}

fn has_one(certificate: &[u8], wanted: &[SubjectAltName]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(shown) => wanted.iter().any(|wanted| match wanted {
            SubjectAltName::Hostname(hostname) => covers(shown, hostname),
            SubjectAltName::Uri(_) => false,
        }),
        GeneralName::URI(shown) => {
            wanted.iter().any(|wanted| matches!(wanted, SubjectAltName::Uri(uri) if uri == shown))
        }
        _ => false,
    })
}

/// Whether a name of a certificate stands for a hostname; its wildcard for one label (RFC 6125, section 6.4.3).
fn covers(shown: &str, hostname: &str) -> bool {
    if shown.eq_ignore_ascii_case(hostname) {
        return true;
    }
    match (shown.strip_prefix("*."), hostname.split_once('.')) {
        (Some(shown), Some((first, rest))) => first != "*" && shown.eq_ignore_ascii_case(rest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[&str], uris: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn one_name_of_the_certificate_has_to_be_one_that_is_wanted() {
        let shown = certificate(&["a.example.com", "*.b.example.com"], &["spiffe://a.example.com/x"]);
        let host = |name: &str| SubjectAltName::Hostname(name.to_owned());
        let uri = |name: &str| SubjectAltName::Uri(name.to_owned());
        for (wanted, expected) in [
            (vec![host("a.example.com")], true),
            (vec![host("A.example.com")], true),
            (vec![host("x.b.example.com")], true),
            (vec![host("*.b.example.com")], true),
            (vec![host("b.example.com")], false),
            (vec![host("x.y.b.example.com")], false),
            (vec![host("*.example.com")], false),
            (vec![uri("spiffe://a.example.com/x")], true),
            (vec![uri("spiffe://a.example.com/X")], false),
            (vec![uri("spiffe://a.example.com/")], false),
            // A name of the one kind is none of the other.
            (vec![uri("a.example.com"), host("spiffe://a.example.com/x")], false),
            (vec![host("z.example.com"), uri("spiffe://a.example.com/x")], true),
        ] {
            assert_eq!(has_one(&shown, &wanted), expected, "{wanted:?}");
        }
        assert!(!has_one(b"no certificate", &[host("a.example.com")]));
        assert!(!has_one(&certificate(&[], &[]), &[host("a.example.com")]));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let names = Names::new(&[SubjectAltName::Hostname("a.example.com".to_owned())]).unwrap();
        let shown = certificate(&["a.example.com"], &[]);
        assert_eq!(names.known(&[1]), None);
        for number in 0..=MAX_KNOWN {
            names.look(&number.to_be_bytes(), &shown);
        }
        assert_eq!(names.known(&MAX_KNOWN.to_be_bytes()), Some(true));
        assert_eq!(names.known.lock().len(), 1);
        assert!(Names::new(&[]).is_none());
    }
}
