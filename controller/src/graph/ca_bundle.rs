//! ConfigMaps and Secrets with the certificates of authorities: the key `ca.crt`.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::cluster::Object;
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::certificate::pem_blocks;

/// The key that holds them.
pub(super) const CA_KEY: &str = "ca.crt";

/// Why there are no authorities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CaError {
    #[error("it has no data.{CA_KEY}")]
    Missing,
    #[error("data.{CA_KEY} holds no certificate in PEM")]
    Empty,
    #[error("certificate {number} of data.{CA_KEY} cannot be read")]
    Unreadable { number: usize },
}

impl CaError {
    pub(crate) fn remedy(&self) -> String {
        format!("Give the authorities' certificates in PEM under the key {CA_KEY}.")
    }
}

/// The certificates of a ConfigMap, in PEM, without anything between them.
pub(super) fn read_config_map(map: &ConfigMap) -> Result<String, CaError> {
    let plain = map.data.as_ref().and_then(|data| data.get(CA_KEY)).map(String::as_str);
    let binary = || std::str::from_utf8(&map.binary_data.as_ref()?.get(CA_KEY)?.0).ok();
    read(plain.or_else(binary))
}

/// The certificates of a Secret. As the API server does it, `stringData` comes before `data`.
pub(super) fn read_secret(secret: &Secret) -> Result<String, CaError> {
    let plain = secret.string_data.as_ref().and_then(|data| data.get(CA_KEY)).map(String::as_str);
    let encoded = || {
        let bytes = secret.data.as_ref()?.get(CA_KEY)?;
        // What is no text holds no PEM.
        Some(std::str::from_utf8(&bytes.0).unwrap_or_default())
    };
    read(plain.or_else(encoded))
}

fn read(text: Option<&str>) -> Result<String, CaError> {
    let blocks = pem_blocks(text.ok_or(CaError::Missing)?, |label| label == "CERTIFICATE");
    let mut store = RootCertStore::empty();
    let mut number = 0;
    for certificate in CertificateDer::pem_slice_iter(blocks.as_bytes()) {
        number += 1;
        let unreadable = CaError::Unreadable { number };
        let certificate = certificate.map_err(|_| unreadable.clone())?;
        let parsed = x509_parser::parse_x509_certificate(&certificate);
        if !parsed.is_ok_and(|(rest, _)| rest.is_empty()) || store.add(certificate).is_err() {
            return Err(unreadable);
        }
    }
    if number == 0 { Err(CaError::Empty) } else { Ok(blocks) }
}

/// Checks what calls itself authorities, so that a broken object leaves the last good one in force. An empty entry is
/// none: some issuers write one.
pub(crate) fn validate_ca<T>(object: &Object<T>, found: Result<String, CaError>) -> Vec<Diagnostic> {
    match found {
        Ok(_) | Err(CaError::Missing | CaError::Empty) => Vec::new(),
        Err(error) => {
            let place = object.at(&format!("data.{CA_KEY}"));
            vec![reasons::invalid(&place, error.to_string(), error.remedy())]
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn authority() -> String {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem().replace("\r\n", "\n")
    }

    fn map(text: &str) -> ConfigMap {
        ConfigMap { data: Some([(CA_KEY.to_owned(), text.to_owned())].into()), ..ConfigMap::default() }
    }

    #[test]
    fn several_certificates_are_read_and_what_stands_between_them_is_left_out() {
        let (one, two) = (authority(), authority());
        let noisy = format!("# the old one\n{one}\n\u{7}the new one\n{two}");
        assert_eq!(read_config_map(&map(&noisy)).unwrap(), format!("{one}{two}"));
        let bytes = |text: &str| Some([(CA_KEY.to_owned(), ByteString(text.as_bytes().to_vec()))].into());
        let binary = ConfigMap { binary_data: bytes(&one), ..ConfigMap::default() };
        assert_eq!(read_config_map(&binary).unwrap(), one);
        let plain = Some([(CA_KEY.to_owned(), two.clone())].into());
        let mut secret = Secret { data: bytes(&one), ..Secret::default() };
        assert_eq!(read_secret(&secret).unwrap(), one);
        secret.string_data = plain;
        assert_eq!(read_secret(&secret).unwrap(), two);
    }

    #[test]
    fn what_holds_no_authority_says_why() {
        let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let second = format!("{}{garbled}", authority());
        for (map, expected) in [
            (ConfigMap::default(), CaError::Missing),
            (map(""), CaError::Empty),
            (map("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), CaError::Empty),
            (map(garbled), CaError::Unreadable { number: 1 }),
            (map(&second), CaError::Unreadable { number: 2 }),
        ] {
            assert_eq!(read_config_map(&map), Err(expected));
        }
        let binary = ByteString(vec![0xff, 0xfe]);
        let secret = Secret { data: Some([(CA_KEY.to_owned(), binary)].into()), ..Secret::default() };
        assert_eq!(read_secret(&secret), Err(CaError::Empty));
    }
}
