//! Secrets of type `kubernetes.io/tls`: a chain of certificates and the key of the first one.

use k8s_openapi::api::core::v1::Secret;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use understudy_conf::{Hostname, PrivateKey};
use x509_parser::extensions::GeneralName;

use crate::cluster::Object;
use crate::diagnostics::{Diagnostic, reasons};

/// The type of Secrets that hold a certificate.
pub(crate) const TLS_TYPE: &str = "kubernetes.io/tls";
/// More certificates than this do not lead to an authority; they only slow each handshake down.
const MAX_CHAIN: usize = 16;

const CHAIN: &str = "data.tls.crt";
const KEY: &str = "data.tls.key";

/// A certificate that fits its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificatePair {
    /// In PEM, without anything between the certificates.
    pub(crate) chain: String,
    pub(crate) key: PrivateKey,
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
    leaf: CertificateDer<'static>,
}

/// Why a Secret holds no certificate that can be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("it has no {field}")]
    Missing { field: &'static str },
    #[error("it holds no certificate in PEM")]
    NoCertificate,
    #[error("certificate {number} of the chain cannot be read")]
    Unreadable { number: usize },
    #[error("it holds {count} certificates")]
    TooLong { count: usize },
    #[error("the key is protected by a passphrase")]
    Encrypted,
    #[error("it holds no private key in PEM")]
    NoKey,
    #[error("the private key is of no kind that can sign: {reason}")]
    UnusableKey { reason: String },
    #[error("the key is not that of the first certificate")]
    Mismatch,
}

impl CertificateError {
    /// The field of the Secret that it is about.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Missing { field } => field,
            Self::NoCertificate | Self::Unreadable { .. } | Self::TooLong { .. } => CHAIN,
            Self::Encrypted | Self::NoKey | Self::UnusableKey { .. } | Self::Mismatch => KEY,
        }
    }

    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "Give both tls.crt and tls.key, as `kubectl create secret tls` does.",
            Self::NoCertificate | Self::Unreadable { .. } => {
                "Give the certificate and those that lead to its authority in PEM, encoded in base64 (as data) or plain \
                 (as stringData)."
            }
            Self::TooLong { .. } => "Give at most 16: the own one and those that lead to its authority.",
            Self::Encrypted => "Remove the passphrase (`openssl pkey -in KEY -out PLAIN_KEY`).",
            Self::NoKey => "Give the private key in PEM, in PKCS#8, PKCS#1 or SEC1 form.",
            Self::UnusableKey { .. } => "Use ECDSA on P-256 or P-384, RSA of 2048 to 8192 bits, or Ed25519.",
            Self::Mismatch => "Put the certificate of tls.key first in tls.crt.",
        }
    }
}

/// Checks a Secret of type `kubernetes.io/tls`; others may hold anything.
pub(crate) fn validate_secret(secret: &Object<Secret>) -> Vec<Diagnostic> {
    if secret.value.type_.as_deref() != Some(TLS_TYPE) {
        return Vec::new();
    }
    match read_certificate(&secret.value) {
        Ok(_) => Vec::new(),
        Err(error) => {
            vec![reasons::invalid(&secret.at(error.field()), error.to_string(), error.remedy())]
        }
    }
}

/// Reads certificate and key of a Secret.
pub(crate) fn read_certificate(secret: &Secret) -> Result<CertificatePair, CertificateError> {
    let chain = pem_blocks(field(secret, "tls.crt", CHAIN)?, |label| label == "CERTIFICATE");
    let key = field(secret, "tls.key", KEY)?;
    let certificates = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| CertificateError::NoCertificate)?;
    let Some(leaf) = certificates.first().cloned() else { return Err(CertificateError::NoCertificate) };
    if certificates.len() > MAX_CHAIN {
        return Err(CertificateError::TooLong { count: certificates.len() });
    }
    for (index, certificate) in certificates.iter().enumerate() {
        let unreadable = CertificateError::Unreadable { number: index + 1 };
        let (rest, _) = x509_parser::parse_x509_certificate(certificate).map_err(|_| unreadable.clone())?;
        if !rest.is_empty() {
            return Err(unreadable);
        }
    }
    let (not_before, not_after) = validity(&leaf).ok_or(CertificateError::Unreadable { number: 1 })?;
    if key.contains("ENCRYPTED") {
        return Err(CertificateError::Encrypted);
    }
    let key = pem_blocks(key, |label| label.ends_with("PRIVATE KEY"));
    let parsed = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| CertificateError::NoKey)?;
    let signing = default_provider()
        .key_provider
        .load_private_key(parsed)
        .map_err(|error| CertificateError::UnusableKey { reason: error.to_string() })?;
    match CertifiedKey::new(certificates, signing).keys_match() {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(_)) => return Err(CertificateError::Mismatch),
        Err(_) => return Err(CertificateError::Unreadable { number: 1 }),
    }
    Ok(CertificatePair { chain, key: PrivateKey::from_pem(&key), not_before, not_after, leaf })
}

impl CertificatePair {
    /// Whether some client of a listener takes the certificate for what it asked for.
    pub(crate) fn covers(&self, hostname: &Hostname) -> bool {
        if hostname.wildcard_suffix().is_some() {
            return dns_names(&self.leaf).iter().any(|name| name.intersect(hostname).is_some());
        }
        let Ok(name) = ServerName::try_from(hostname.as_str()) else { return false };
        ParsedCertificate::try_from(&self.leaf)
            .is_ok_and(|leaf| rustls::client::verify_server_name(&leaf, &name).is_ok())
    }
}

fn dns_names(certificate: &CertificateDer<'_>) -> Vec<Hostname> {
    let parsed = x509_parser::parse_x509_certificate(certificate).ok().map(|(_, parsed)| parsed);
    let names = parsed.as_ref().and_then(|parsed| parsed.subject_alternative_name().ok().flatten());
    let names = names.into_iter().flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Hostname::new(name.to_ascii_lowercase()).ok(),
            _ => None,
        })
        .collect()
}

fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// A field of a Secret as text; as the API server does it, `stringData` comes before `data`.
fn field<'a>(secret: &'a Secret, key: &str, field: &'static str) -> Result<&'a str, CertificateError> {
    let plain = secret.string_data.as_ref().and_then(|data| data.get(key)).map(String::as_str);
    let encoded = || {
        let bytes = secret.data.as_ref()?.get(key)?;
        // What is no text holds no PEM; the caller says so.
        Some(std::str::from_utf8(&bytes.0).unwrap_or_default())
    };
    plain.or_else(encoded).ok_or(CertificateError::Missing { field })
}

/// The PEM blocks with these labels, without the text around them, which may be anything.
pub(super) fn pem_blocks(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let mut blocks = String::new();
    let mut end = None;
    for line in text.lines().map(str::trim) {
        if end.is_none()
            && let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"))
            && wanted(label)
        {
            end = Some(format!("-----END {label}-----"));
        }
        let Some(last) = &end else { continue };
        if line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            blocks.push_str(line);
            blocks.push('\n');
        }
        if line == last {
            end = None;
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    fn secret(chain: &str, key: &str) -> Secret {
        let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
        Secret { data: Some([entry("tls.crt", chain), entry("tls.key", key)].into()), ..Secret::default() }
    }

    fn certificate(names: &[&str], key: &KeyPair) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        CertificateParams::new(names).unwrap().self_signed(key).unwrap().pem()
    }

    #[test]
    fn ecdsa_and_ed25519_pairs_are_read_and_what_stands_around_the_blocks_is_left_out() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let pem = certificate(&["shop.example.com"], &key);
            let noisy = format!("Bag Attributes: \u{7}\r\n{}\r\nmore\r\n{pem}", pem.replace('\n', "\r\n"));
            let read = read_certificate(&secret(&noisy, &key.serialize_pem())).unwrap();
            assert_eq!(read.chain, format!("{pem}{pem}").replace("\r\n", "\n"));
            assert_eq!(read.key.expose_pem().trim(), key.serialize_pem().replace("\r\n", "\n").trim());
            assert!(read.not_before < read.not_after);
        }
    }

    #[test]
    fn string_data_comes_before_data() {
        let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut both = secret(&certificate(&["a.example"], &one), &one.serialize_pem());
        let plain = [("tls.crt", certificate(&["b.example"], &two)), ("tls.key", two.serialize_pem())];
        both.string_data = Some(plain.map(|(key, text)| (key.to_owned(), text)).into());
        let read = read_certificate(&both).unwrap();
        assert!(read.covers(&Hostname::new("b.example").unwrap()));
    }

    #[test]
    fn what_cannot_be_shown_is_refused_with_field_and_remedy() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = certificate(&["a.example"], &key);
        let pem = key.serialize_pem();
        let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (chain, key, expected) in [
            ("", &*pem, CertificateError::NoCertificate),
            ("-----BEGIN CERTIFICATE-----\n", &pem, CertificateError::NoCertificate),
            (garbled, &pem, CertificateError::Unreadable { number: 1 }),
            (&format!("{good}{garbled}"), &pem, CertificateError::Unreadable { number: 2 }),
            (&good.repeat(17), &pem, CertificateError::TooLong { count: 17 }),
            (&good, "", CertificateError::NoKey),
            (&good, &good, CertificateError::NoKey),
            (&good, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", CertificateError::Encrypted),
            (&good, &other.serialize_pem(), CertificateError::Mismatch),
        ] {
            let error = read_certificate(&secret(chain, key)).unwrap_err();
            assert_eq!(error, expected);
            assert!(error.field().starts_with("data.tls.") && error.remedy().ends_with('.'));
        }
        let unusable = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let error = read_certificate(&secret(&good, unusable)).unwrap_err();
        assert!(matches!(error, CertificateError::UnusableKey { .. }), "{error}");
        let missing = read_certificate(&Secret::default()).unwrap_err();
        assert_eq!(missing, CertificateError::Missing { field: CHAIN });
    }

    #[test]
    fn a_certificate_covers_its_names_one_label_below_its_wildcards_and_a_wildcard_in_part() {
        let key = KeyPair::generate().unwrap();
        let pem = certificate(&["www.example.com", "*.shop.example.com"], &key);
        let read = read_certificate(&secret(&pem, &key.serialize_pem())).unwrap();
        for (name, expected) in [
            ("www.example.com", true),
            ("*.shop.example.com", true),
            ("a.shop.example.com", true),
            ("a.b.shop.example.com", false),
            // Some of its clients are served.
            ("*.example.com", true),
            ("*.example.net", false),
            ("example.com", false),
        ] {
            assert_eq!(read.covers(&Hostname::new(name).unwrap()), expected, "{name}");
        }
    }
}
