//! Certificates: files that only their owner may read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::tempdir;

use super::super::{ROOT_FILE, Reader, StoreError, Writer};
use super::*;

/// One shop behind HTTPS.
fn secured(key: &str) -> State {
    let mut state = shops(1);
    let certificate = Certificate {
        name: CertificateName::new("secret/default/shop").unwrap(),
        chain: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        key: PrivateKey::from_pem(key),
    };
    let gateway = state.gateways.values_mut().next().unwrap();
    let listener = &mut Arc::make_mut(gateway).listeners[0];
    listener.protocol = Protocol::Https;
    listener.tls = Some(ListenerTls {
        mode: TlsMode::Terminate,
        certificates: vec![certificate.name.clone()],
        client_validation: None,
    });
    state.certificates.insert(certificate.name.clone(), Arc::new(certificate));
    state
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn key_file(folder: &Path) -> PathBuf {
    let found = files(&folder.join("certificates"));
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn a_key_stands_in_a_file_and_a_folder_for_their_owner_only_and_nowhere_else() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&secured("very private")).unwrap();
    assert_eq!(mode(&folder.path().join("certificates")), 0o700);
    let key = key_file(folder.path());
    assert_eq!(mode(&key), 0o600);
    for file in files(folder.path()) {
        let holds = fs::read_to_string(&file).unwrap().contains("very private");
        assert_eq!(holds, file == key, "{}", file.display());
    }
}

#[test]
fn a_key_is_written_for_its_owner_only_even_over_a_file_that_others_may_read() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&secured("one")).unwrap();
    let key = key_file(folder.path());
    fs::remove_file(folder.path().join(ROOT_FILE)).unwrap();
    // What a killed writer of another version, or a person, may have left.
    let temporary = key.with_file_name(format!(".tmp-{}", key.file_name().unwrap().to_str().unwrap()));
    fs::write(&temporary, "x").unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(&key).unwrap();
    writer.publish(&secured("one")).unwrap();
    assert_eq!((mode(&key), temporary.exists()), (0o600, false));
}

#[test]
fn a_change_of_a_certificate_writes_it_its_index_and_the_root() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&secured("one")).unwrap();
    let mut reader = Reader::new(folder.path());
    let before = read_state(&mut reader);
    assert_eq!(writer.publish(&secured("two")).unwrap().written, 3);
    let after = read_state(&mut reader);
    assert_eq!(after.certificates["secret/default/shop"].key.expose_pem(), "two");
    let gateway = |state: &State| state.gateways["gateway/default/eg"].clone();
    assert!(Arc::ptr_eq(&gateway(&before), &gateway(&after)));
    // The key before goes with the next version.
    writer.publish(&secured("three")).unwrap();
    writer.publish(&secured("four")).unwrap();
    let keys: Vec<_> = files(&folder.path().join("certificates"));
    assert_eq!(keys.len(), 2, "{keys:?}");
}

#[test]
fn a_garbled_key_file_is_refused_without_being_quoted_and_the_last_good_state_stays() {
    let folder = tempdir().unwrap();
    let mut writer = Writer::open(folder.path()).unwrap();
    writer.publish(&secured("the old key")).unwrap();
    let mut reader = Reader::new(folder.path());
    let good = read_state(&mut reader);
    let old = key_file(folder.path());
    writer.publish(&secured("the new key")).unwrap();
    let new = files(&folder.path().join("certificates")).into_iter().find(|file| *file != old).unwrap();
    let text = fs::read_to_string(&new).unwrap();
    fs::write(&new, text.replace("new key", "bad key")).unwrap();
    let error = reader.read().unwrap_err();
    assert!(matches!(error, StoreError::Garbled { .. }), "{error}");
    assert!(!error.to_string().contains("bad key"), "{error}");
    assert_eq!(reader.state(), Some(&good));
    // The controller writes it again.
    assert!(writer.repair().unwrap().changed);
    assert_eq!(read_state(&mut reader).certificates["secret/default/shop"].key.expose_pem(), "the new key");
}

#[test]
fn a_listener_with_a_certificate_that_is_not_there_is_refused() {
    let folder = tempdir().unwrap();
    let mut state = secured("one");
    state.certificates.clear();
    let error = Writer::open(folder.path()).unwrap().publish(&state).unwrap_err();
    assert!(error.to_string().contains("secret/default/shop"), "{error}");
}

#[test]
fn a_state_without_certificates_has_the_root_that_it_always_had() {
    let folder = tempdir().unwrap();
    Writer::open(folder.path()).unwrap().publish(&shops(1)).unwrap();
    let root = fs::read_to_string(folder.path().join(ROOT_FILE)).unwrap();
    assert!(!root.contains("certificates") && !root.contains("ca-bundles"), "{root}");
}

#[test]
fn a_backend_finds_its_authorities_and_its_client_certificate_in_the_state() {
    let folder = tempdir().unwrap();
    let mut state = shops(1);
    let bundle = CaBundle {
        name: CaBundleName::new("configmap/default/ca").unwrap(),
        certificates: "an authority".to_owned(),
    };
    let certificate = secured("very private").certificates.into_values().next().unwrap();
    let backend = Arc::make_mut(state.backends.values_mut().next().unwrap());
    backend.tls = Some(BackendTls {
        client_certificate: Some(certificate.name.clone()),
        ..BackendTls::new(Trust::Bundles(vec![bundle.name.clone()]))
    });
    let mut writer = Writer::open(folder.path()).unwrap();
    let error = writer.publish(&state).unwrap_err();
    assert!(error.to_string().contains("secret/default/shop"), "{error}");
    state.certificates.insert(certificate.name.clone(), certificate);
    let error = writer.publish(&state).unwrap_err();
    assert!(error.to_string().contains("configmap/default/ca"), "{error}");
    state.ca_bundles.insert(bundle.name.clone(), Arc::new(bundle));
    writer.publish(&state).unwrap();
    let mut read = (*read_state(&mut Reader::new(folder.path()))).clone();
    read.version = 0;
    assert_eq!(read, state);
    assert_eq!(files(&folder.path().join("ca-bundles")).len(), 1);
}
