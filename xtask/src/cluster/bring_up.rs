//! Brings a cluster up: namespaces, control plane, node, name server.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::components::{self, NODE_NAME};
use super::place::{Place, files_below, inside};
use super::programs::{self, Programs};
use super::space::Space;
use super::{groups, take_down};
use crate::run;

const LIMIT: Duration = Duration::from_secs(120);

/// Who has a kubeconfig; the names and tokens are those of `tokens.csv`.
const USERS: [&str; 5] = ["admin", "controllers", "scheduler", "node", "proxy"];

/// Brings a cluster up, or leaves the running one as it is. Without the node nothing runs in it, but the API answers.
pub(crate) fn bring_up(place: &Place, control_plane_only: bool) -> Result<Space> {
    programs::require_system()?;
    let programs = Programs::built(place)?;
    if let Some(space) = Space::running(place) {
        println!("the cluster is up");
        return Ok(space);
    }
    take_down(place)?;
    let clock = Clock(SystemTime::now());
    write_files(place, &programs)?;
    let space = Space::make(place, &programs.program("pause"), &programs.program("kubernetes"))?;
    space.component("start", "etcd")?;
    space.component("start", "apiserver")?;
    if !control_plane_only {
        groups::make(&place.group())?;
        space.component("start", "containerd")?;
        load_all(&space, &programs)?;
        clock.tell("containerd has the images");
    }
    wait_for(&space, "apiserver", &["get", "--raw", "/readyz"])?;
    clock.tell("the API server is ready");
    // Not before: without the roles that the API server makes, they give up at once.
    space.component("start", "controllers")?;
    space.component("start", "scheduler")?;
    wait_for(&space, "controllers", &["-n", "default", "get", "serviceaccount", "default"])?;
    clock.tell("the controllers work");
    if !control_plane_only {
        bring_node_up(place, &space)?;
        clock.tell("the node and its name server are ready");
    }
    Ok(space)
}

fn bring_node_up(place: &Place, space: &Space) -> Result<()> {
    space.component("start", "kubelet")?;
    space.component("start", "proxy")?;
    wait_for(space, "kubelet", &["get", "node", NODE_NAME])?;
    let mut apply = space.kubectl();
    run::logged(apply.args(["apply", "-f"]).arg(place.sources.join("manifests").join("dns.yaml")), LIMIT)?;
    let mut ready = space.kubectl();
    let node = format!("node/{NODE_NAME}");
    run::logged(ready.args(["wait", "--for=condition=Ready", "--timeout=60s", &node]), LIMIT)?;
    let mut ready = space.kubectl();
    run::logged(
        ready.args(["-n", "kube-system", "rollout", "status", "deployment/dns", "--timeout=60s"]),
        LIMIT,
    )?;
    Ok(())
}

/// Waits until a question to the API succeeds; a component that ended is told with the last lines of its log.
fn wait_for(space: &Space, component: &str, question: &[&str]) -> Result<()> {
    space.wait_until(&format!("kubectl {} succeeds", question.join(" ")), |space| {
        let mut kubectl = space.kubectl();
        kubectl.args(question);
        if space.succeeds(kubectl)? {
            return Ok(true);
        }
        if !space.component("running", component)? {
            let mut tail = space.command("tail");
            let log = run::output(tail.args(["-n", "5", &inside(&format!("log/{component}.log"))]))?;
            anyhow::bail!("{component} ended:\n{log}");
        }
        Ok(false)
    })
}

fn load_all(space: &Space, programs: &Programs) -> Result<()> {
    space.wait_until("containerd answers", |space| {
        let mut version = space.ctr();
        version.arg("version");
        space.succeeds(version)
    })?;
    for image in programs.images() {
        run::logged(space.ctr().args(["image", "import"]).arg(&image), LIMIT)
            .with_context(|| format!("loading {}", image.display()))?;
    }
    Ok(())
}

/// Everything that the components read.
fn write_files(place: &Place, programs: &Programs) -> Result<()> {
    for folder in ["config", "etcd", "kubeconfig", "kubelet", "log", "pid", "pki", "pods", "start"] {
        fs::create_dir_all(place.file(folder))?;
    }
    let config = place.sources.join("config");
    for file in files_below(&config)? {
        let to = place.file("config").join(file.strip_prefix(&config)?);
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::copy(&file, to)?;
    }
    fs::copy(place.sources.join("component.sh"), place.file("component.sh"))?;
    let kubeconfig = fs::read_to_string(config.join("kubeconfig.yaml"))?;
    for user in USERS {
        fs::write(place.file("kubeconfig").join(user), kubeconfig.replace("USER", user))?;
    }
    let (key, public) = (place.file("pki/accounts.key"), place.file("pki/accounts.pub"));
    run::logged(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048"), LIMIT)?;
    let mut openssl = Command::new("openssl");
    run::logged(openssl.args(["rsa", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public), LIMIT)?;
    for component in components::all(place, programs) {
        component.write_script(place)?;
    }
    Ok(())
}

struct Clock(SystemTime);

impl Clock {
    fn tell(&self, what: &str) {
        println!("{:5.1} s  {what}", self.0.elapsed().unwrap_or_default().as_secs_f64());
    }
}
