//! Manifests are followed: on real files, with the state on disk as the proxy reads it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests end there")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use understudy_conf::store::{PROXY_FOLDER, ROOT_FILE, Read, Reader, write_acknowledgement};
use understudy_conf::{Acknowledgement, Refusal, State};
use understudy_controller::{Options, Reason, Report, Source, follow};

/// Longer than any rescan.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    folder: tempfile::TempDir,
    reports: mpsc::UnboundedReceiver<Report>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    /// Follows a folder, or one file of it, that holds `text` in `a.yaml`.
    async fn start(text: &str, file_only: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifests = folder.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        fs::write(manifests.join("a.yaml"), text).unwrap();
        let source = Source::Path(if file_only { manifests.join("a.yaml") } else { manifests });
        let state = folder.path().join("state");
        let (sender, reports) = mpsc::unbounded_channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            let on_report = |report: &Report| drop(sender.send(report.clone()));
            follow(&[source], &Options::default(), state, shutdown, on_report).await.unwrap();
        });
        Self { folder, reports, stop: Some(stop), task }
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.folder.path().join("manifests").join(name)
    }

    /// Puts another text in the place of `a.yaml`, at once: one that is written piece by piece may be read halfway on a
    /// busy machine.
    fn replace(&self, text: impl AsRef<[u8]>) {
        let next = self.folder.path().join("next.yaml");
        fs::write(&next, text).unwrap();
        fs::rename(next, self.manifest("a.yaml")).unwrap();
    }

    fn state_folder(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The next report.
    async fn report(&mut self) -> Report {
        timeout(PATIENCE, self.reports.recv()).await.expect("a report in time").expect("a report")
    }

    /// The first report from now on that fits.
    async fn report_with(&mut self, fits: impl Fn(&Report) -> bool) -> Report {
        loop {
            let report = self.report().await;
            if fits(&report) {
                return report;
            }
        }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        timeout(PATIENCE, &mut self.task).await.expect("an end in time").unwrap();
    }
}

fn read_state(folder: &Path) -> Arc<State> {
    match Reader::new(folder).read().unwrap() {
        Read::State(state) => state,
        Read::Unchanged => panic!("nothing was read"),
    }
}

fn text(port: u16) -> String {
    fs::read_to_string("../conf/examples/first-own.yaml").unwrap().replace("9001", &port.to_string())
}

fn port(state: &State) -> String {
    state.backends["backend/default/primary"].endpoints[0].address.to_string()
}

#[tokio::test]
async fn a_change_of_a_file_is_published_before_it_is_reported() {
    let mut world = World::start(&text(9001), false).await;
    let first = world.report().await;
    assert_eq!(port(&first.state), "127.0.0.1:9001");
    assert_eq!(port(&read_state(&world.state_folder())), "127.0.0.1:9001");
    world.replace(text(9100));
    let second = world.report_with(|report| port(&report.state) == "127.0.0.1:9100").await;
    assert!(!second.has_errors(), "{}", common::lines(&second.diagnostics));
    let state = read_state(&world.state_folder());
    assert_eq!((port(&state).as_str(), state.version), ("127.0.0.1:9100", 2));
    world.stop().await;
}

/// The example of TLS to backends with these authorities.
fn with_authorities(pem: &str) -> String {
    let example = fs::read_to_string("../conf/examples/backend-tls.yaml").unwrap();
    let (start, end) = (example.find("    -----BEGIN").unwrap(), example.find("    -----END").unwrap());
    let rest = example[end..].split_once('\n').unwrap().1;
    let pem: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("{}{pem}{rest}", &example[..start])
}

fn authority() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.self_signed(&key).unwrap().pem().replace("\r\n", "\n")
}

#[tokio::test]
async fn authorities_that_become_unreadable_stay_as_they_were_until_they_are_repaired() {
    let (one, two) = (authority(), authority());
    let mut world = World::start(&with_authorities(&one), false).await;
    let authorities =
        |state: &State| state.ca_bundles["configmap/default/our-authority"].certificates.clone();
    assert_eq!(authorities(&world.report().await.state), one);
    let broken = with_authorities("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    world.replace(broken);
    let report = world.report_with(Report::has_errors).await;
    assert!(report.diagnostics.iter().any(|found| found.reason == Reason::LastGoodKept));
    assert_eq!(authorities(&report.state), one);
    world.replace(with_authorities(&format!("{one}{two}")));
    let report = world.report_with(|report| !report.has_errors()).await;
    assert_eq!(authorities(&report.state), format!("{one}{two}"));
    world.stop().await;
}

#[tokio::test]
async fn a_file_that_an_editor_replaces_is_followed() {
    let mut world = World::start(&text(9001), true).await;
    world.report().await;
    for new in [9101, 9102, 9103] {
        let other = world.manifest(".a.yaml.swp");
        fs::write(&other, text(new)).unwrap();
        fs::rename(&other, world.manifest("a.yaml")).unwrap();
        world.report_with(|report| port(&report.state) == format!("127.0.0.1:{new}")).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn new_and_removed_files_and_folders_are_followed() {
    let mut world = World::start(&text(9001), false).await;
    world.report().await;
    let more = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {name: extra}\n\
                spec: {endpoints: [{ip: {address: 127.0.0.1, port: 1}}]}\n---\n\
                apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: extra}\n\
                spec: {parentRefs: [{name: local}], hostnames: [extra.example.com], \
                rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: extra}]}]}\n";
    let below = world.manifest("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("extra.yaml"), more).unwrap();
    let has_extra = |report: &Report| report.state.routes.contains_key("httproute/default/extra");
    world.report_with(has_extra).await;
    fs::remove_dir_all(&below).unwrap();
    world.report_with(|report| !has_extra(report)).await;
    assert_eq!(read_state(&world.state_folder()).routes.len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn what_was_served_goes_on_while_a_file_is_broken() {
    let mut world = World::start(&text(9001), true).await;
    world.report().await;
    let before = read_state(&world.state_folder());
    let kept = |report: &Report| report.diagnostics.iter().any(|d| d.reason == Reason::LastGoodKept);
    for broken in ["a: [", &text(9001).replace("port: 9001", "port: many"), "\u{0}"] {
        world.replace(broken);
        let report = world.report_with(kept).await;
        assert!(report.has_errors());
        assert_eq!(report.state.pools, before.pools);
        world.replace(text(9001));
        world.report_with(|report| !report.has_errors()).await;
    }
    fs::remove_file(world.manifest("a.yaml")).unwrap();
    world.report_with(kept).await;
    assert_eq!(read_state(&world.state_folder()).version, before.version);
    world.stop().await;
}

#[tokio::test]
async fn a_first_file_that_is_broken_still_gives_a_complete_state() {
    let mut world = World::start("a: [", false).await;
    let report = world.report().await;
    assert!(report.has_errors());
    assert_eq!(read_state(&world.state_folder()).routes.len(), 0);
    world.replace(text(9001));
    world.report_with(|report| report.state.routes.len() == 1).await;
    world.stop().await;
}

#[tokio::test]
async fn a_state_that_the_proxy_refuses_is_written_again() {
    let mut world = World::start(&text(9001), false).await;
    world.report().await;
    let folder = world.state_folder();
    let version = read_state(&folder).version;
    let root = folder.join(ROOT_FILE);
    let garbled = fs::read_to_string(&root).unwrap().replace('a', "b");
    fs::write(&root, garbled).unwrap();
    fs::create_dir_all(folder.join(PROXY_FOLDER)).unwrap();
    let refused = Some(Refusal { version: None, reason: "it is garbled".into() });
    write_acknowledgement(
        &folder,
        &Acknowledgement { serving: Some(version), refused, degraded: Vec::new() },
    )
    .unwrap();
    timeout(PATIENCE, async {
        loop {
            if let Ok(Read::State(state)) = Reader::new(&folder).read() {
                assert!(state.version > version);
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("a state that can be read again");
    world.stop().await;
}

/// A Gateway with an HTTPS listener, and its Secret.
fn secured(chain: &str, key: &str) -> String {
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: understudy}}\n\
         spec: {{controllerName: understudy.dev/gateway-controller}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: eg}}\n\
         spec: {{gatewayClassName: understudy, listeners: [{{name: https, protocol: HTTPS, port: 8443, \
         tls: {{certificateRefs: [{{name: shop}}]}}}}]}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: shop}}\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n{}  tls.key: |\n{}",
        indented(chain),
        indented(key)
    )
}

#[tokio::test]
async fn a_secret_that_became_broken_keeps_its_last_good_certificate_and_is_said() {
    let make = || {
        let made = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let ((chain, key), (other_chain, other_key)) = (make(), make());
    let mut world = World::start(&secured(&chain, &key), false).await;
    let first = world.report().await;
    assert!(!first.has_errors(), "{}", common::lines(&first.diagnostics));
    let served = |state: &State| {
        let certificate = &state.certificates["secret/default/shop"];
        (certificate.chain.clone(), certificate.key.expose_pem().to_owned())
    };
    let good = served(&read_state(&world.state_folder()));
    // Another key, then nothing that is a key, then the chain gone.
    for (chain, key) in [(&chain, &*other_key), (&chain, "no key"), (&String::new(), &*key)] {
        world.replace(secured(chain, key));
        let report = world.report_with(Report::has_errors).await;
        let said = common::lines(&report.diagnostics);
        assert!(said.contains("Secret default/shop") && said.contains("LastGoodKept"), "{said}");
        assert!(!said.contains(key), "{said}");
        assert_eq!(served(&report.state), good);
        assert_eq!(served(&read_state(&world.state_folder())), good);
        assert_eq!(report.state.gateways["gateway/default/eg"].listeners.len(), 1);
        world.replace(secured(&good.0, &good.1));
        world.report_with(|report| !report.has_errors()).await;
    }
    world.replace(secured(&other_chain, &other_key));
    world.report_with(|report| served(&report.state) != good).await;
    assert_ne!(served(&read_state(&world.state_folder())), good);
    world.stop().await;
}
