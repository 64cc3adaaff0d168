#![allow(clippy::unwrap_used)]

use rcgen::{CertificateParams, KeyPair};
use understudy_conf::{
    Backend, CaBundle, CaBundleName, Certificate, CertificateName, Endpoint, EndpointAddress, PrivateKey,
    TlsVersion, Trust, UpstreamProtocol,
};
use understudy_engine::{Address, TlsStrength};

use super::*;

fn self_signed() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn name(number: usize) -> BackendName {
    BackendName::new(format!("backend/default/{number}")).unwrap()
}

fn state(policies: &[BackendTls], bundles: &[(&str, &str)]) -> State {
    let mut state = State::default();
    for (number, tls) in policies.iter().enumerate() {
        let backend = Backend {
            name: name(number),
            protocol: UpstreamProtocol::Http1,
            tls: Some(tls.clone()),
            endpoints: Vec::new(),
        };
        state.backends.insert(name(number), Arc::new(backend));
    }
    for (name, pem) in bundles {
        let name = CaBundleName::new(name).unwrap();
        let bundle = CaBundle { name: name.clone(), certificates: (*pem).to_owned() };
        state.ca_bundles.insert(name, Arc::new(bundle));
    }
    state
}

fn by(bundle: &str) -> BackendTls {
    BackendTls::new(Trust::Bundles(vec![CaBundleName::new(bundle).unwrap()]))
}

fn numbers(table: &UpstreamTlsTable, count: usize) -> Vec<Option<u64>> {
    (0..count).map(|number| table.of_backend(&name(number)).map(|tls| tls.number())).collect()
}

#[test]
fn equal_content_is_one_policy_wherever_it_stands_and_any_difference_makes_another() {
    let (one, two) = (self_signed().0, self_signed().0);
    let both = format!("{two}{one}{two}");
    let swapped = format!("{one}{two}");
    let named = BackendTls { server_name: Some("a.example".to_owned()), ..by("one") };
    let newer = BackendTls { min_version: TlsVersion::Tls13, ..by("one") };
    let policies = [
        by("one"),
        named,
        by("same"),
        by("both"),
        by("swapped"),
        newer,
        BackendTls::new(Trust::System),
        BackendTls::new(Trust::Nothing),
    ];
    let bundles = [("one", &*one), ("same", &*one), ("both", &*both), ("swapped", &*swapped), ("two", &*two)];
    let table = UpstreamTlsTable::build(&state(&policies, &bundles), &UpstreamTlsTable::default());
    assert_eq!(table.degraded, [""; 0]);
    let found = numbers(&table, policies.len());
    assert_eq!(found, [1, 1, 1, 2, 2, 3, 4, 5].map(Some));
}

#[test]
fn a_policy_keeps_its_number_over_reloads_and_no_number_is_given_twice() {
    let (one, two) = (self_signed().0, self_signed().0);
    let first = UpstreamTlsTable::build(&state(&[by("a")], &[("a", &one)]), &UpstreamTlsTable::default());
    let same = UpstreamTlsTable::build(&state(&[by("b")], &[("b", &one)]), &first);
    assert_eq!(numbers(&same, 1), [Some(1)]);
    assert!(Arc::ptr_eq(same.of_backend(&name(0)).unwrap(), first.of_backend(&name(0)).unwrap()));
    let other = UpstreamTlsTable::build(&state(&[by("a")], &[("a", &two)]), &same);
    assert_eq!(numbers(&other, 1), [Some(2)]);
    // Requests and probes of the world before still find theirs, once.
    assert!(other.by_number(1).is_some() && other.by_number(2).is_some());
    let back = UpstreamTlsTable::build(&state(&[by("a")], &[("a", &one)]), &other);
    assert_eq!(numbers(&back, 1), [Some(3)]);
    assert!(back.by_number(1).is_none());
}

#[test]
fn what_cannot_be_used_is_refused_with_the_name_of_what_is_wrong() {
    let (authority, (chain, key)) = (self_signed().0, self_signed());
    let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let certificate = CertificateName::new("secret/default/client").unwrap();
    let with_client = BackendTls { client_certificate: Some(certificate.clone()), ..by("good") };
    for (tls, chain, key, expected) in [
        (by("missing"), &*chain, &*key, "missing is not in the state"),
        (by("empty"), &chain, &key, "the authorities of empty cannot be read"),
        (by("garbled"), &chain, &key, "the authorities of garbled cannot be read"),
        (with_client.clone(), "", &key, "the certificates of secret/default/client cannot be read"),
        (with_client.clone(), garbled, &key, "the certificates of secret/default/client cannot be read"),
        (with_client.clone(), &chain, "", "the key of secret/default/client cannot be used"),
        (with_client.clone(), &chain, &self_signed().1, "the key of secret/default/client cannot be used"),
    ] {
        let bundles = [("good", &*authority), ("empty", ""), ("garbled", garbled)];
        let mut state = state(&[tls], &bundles);
        let shown = Certificate {
            name: certificate.clone(),
            chain: chain.to_owned(),
            key: PrivateKey::from_pem(key),
        };
        state.certificates.insert(certificate.clone(), Arc::new(shown));
        let table = UpstreamTlsTable::build(&state, &UpstreamTlsTable::default());
        assert_eq!(table.degraded, [format!("backend/default/0 is not served: its TLS: {expected}")]);
        assert_eq!(numbers(&table, 1), [None]);
    }
}

#[test]
fn every_endpoint_has_a_name_to_verify_or_none_of_it_is_used() {
    let tables = [Trust::System, Trust::Nothing].map(|trust| {
        let tls = BackendTls::new(trust);
        let table =
            UpstreamTlsTable::build(&state(std::slice::from_ref(&tls), &[]), &UpstreamTlsTable::default());
        (table.of_backend(&name(0)).unwrap().clone(), tls)
    });
    let ip = Address::Socket("[2001:db8::1]:443".parse().unwrap());
    let unix = Address::Unix(std::path::Path::new("/run/a.sock").into());
    let bare = Endpoint::at(EndpointAddress::Unix { path: "/run/a.sock".into() });
    let fqdn = Endpoint::at(EndpointAddress::Fqdn { hostname: "a.example".to_owned(), port: 443 });
    let named = |policy: &UpstreamTls, tls: &BackendTls, endpoint: &Endpoint, address: &Address| {
        let identity = policy.identity(tls, endpoint, address)?;
        Some((identity.server_name.to_string(), identity.strength))
    };
    let (verified, nothing) = (&tables[0], &tables[1]);
    let strong = |name: &str| Some((name.to_owned(), TlsStrength::Verified));
    assert_eq!(named(&verified.0, &verified.1, &fqdn, &ip), strong("a.example"));
    assert_eq!(named(&verified.0, &verified.1, &bare, &ip), strong("2001:db8::1"));
    assert_eq!(named(&verified.0, &verified.1, &bare, &unix), None);
    for wrong in ["", "a b", "a..b"] {
        let tls = BackendTls { server_name: Some(wrong.to_owned()), ..verified.1.clone() };
        assert_eq!(named(&verified.0, &tls, &fqdn, &ip), None, "{wrong:?}");
    }
    let weak = named(&nothing.0, &nothing.1, &bare, &unix);
    assert_eq!(weak, Some(("127.0.0.1".to_owned(), TlsStrength::Unverified)));
}
