//! `cargo xtask cluster`: a real Kubernetes cluster of one node, for machines without Docker.
//!
//! Inputs: `k8s/testcluster/`, Go, root. Outputs: the cluster's programs in the cache, and a process tree in namespaces
//! of its own. With `UNDERSTUDY_TEST_KUBECONFIG` set, another cluster takes its place.

mod bring_up;
mod components;
mod groups;
pub(crate) mod lab;
pub(crate) mod place;
mod programs;
mod space;
pub(crate) mod stage;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::{image, run};
use place::Place;
use space::{Space, become_command};

/// Names another cluster than the project's own.
const OTHER: &str = "UNDERSTUDY_TEST_KUBECONFIG";

const IMPORT_LIMIT: Duration = Duration::from_secs(120);

/// What can be done with a cluster.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Brings it up; builds its programs first, once.
    Up {
        /// Only the API: etcd, API server, controllers and scheduler, but no node that runs pods.
        #[arg(long)]
        control_plane: bool,
    },
    /// Stops it and removes what it wrote.
    Down,
    /// Runs kubectl as its administrator.
    Kubectl {
        /// kubectl's own arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs a command where all addresses of the cluster can be reached.
    Exec {
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Gives the node an image; Understudy's own, from the release, if no file is named.
    LoadImage {
        /// An archive as `cargo xtask image` or `docker save` writes it.
        file: Option<PathBuf>,
    },
    /// Tells which addresses a Gateway may ask for in `spec.addresses`, and which not, as the options of Gateway API's
    /// conformance tests.
    Addresses,
    /// Starts a component that was stopped.
    Start {
        /// etcd, apiserver, containerd, controllers, scheduler, kubelet or proxy.
        component: String,
    },
    /// Stops a component.
    Stop {
        /// etcd, apiserver, containerd, controllers, scheduler, kubelet or proxy.
        component: String,
    },
    /// Shows what a component wrote, or where all logs are.
    Logs {
        /// etcd, apiserver, containerd, controllers, scheduler, kubelet or proxy; `audit` for writes to the API.
        component: Option<String>,
    },
}

/// Does it.
pub(crate) fn run(action: Action) -> Result<()> {
    let place = Place::of_checkout("")?;
    if let Some(other) = other() {
        return run_on_other(action, &other);
    }
    match action {
        Action::Up { control_plane } => bring_up::bring_up(&place, control_plane).map(drop),
        Action::Down => take_down(&place),
        Action::Kubectl { args } => {
            let mut kubectl = running(&place)?.kubectl();
            kubectl.args(args);
            Err(become_command(kubectl))
        }
        Action::Exec { command } => {
            let mut inside = running(&place)?.command(&command[0]);
            inside.args(&command[1..]);
            Err(become_command(inside))
        }
        Action::LoadImage { file } => {
            let space = running(&place)?;
            let file = match file {
                Some(file) => file,
                None => image::build(None, None)?,
            };
            load_image(&space, &file)
        }
        Action::Addresses => {
            print!("{}", components::addresses());
            Ok(())
        }
        Action::Start { component } => running(&place)?.component("start", &component).map(drop),
        Action::Stop { component } => running(&place)?.component("stop", &component).map(drop),
        Action::Logs { component } => {
            let folder = place.file("log");
            let Some(component) = component else {
                println!("{}", folder.display());
                return Ok(());
            };
            let text = std::fs::read_to_string(folder.join(format!("{component}.log")))
                .with_context(|| format!("{component} has written no log"))?;
            print!("{text}");
            Ok(())
        }
    }
}

/// The kubeconfig of another cluster, if one is to be used.
fn other() -> Option<PathBuf> {
    std::env::var_os(OTHER).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn run_on_other(action: Action, kubeconfig: &Path) -> Result<()> {
    let (program, args) = match action {
        Action::Kubectl { args } => ("kubectl".to_owned(), args),
        Action::Exec { command } => (command[0].clone(), command[1..].to_vec()),
        _ => bail!(
            "{OTHER} is set: that cluster is yours to start, stop and load (`kind load image-archive FILE`)"
        ),
    };
    let mut command = Command::new(program);
    command.args(args).env("KUBECONFIG", kubeconfig);
    Err(become_command(command))
}

fn running(place: &Place) -> Result<Space> {
    Space::running(place).context("there is no cluster; bring one up with: cargo xtask cluster up")
}

fn load_image(space: &Space, file: &Path) -> Result<()> {
    let text = run::logged(space.ctr().args(["image", "import"]).arg(file), IMPORT_LIMIT)?;
    print!("{text}");
    Ok(())
}

fn take_down(place: &Place) -> Result<()> {
    if let Some(space) = Space::running(place) {
        space.end()?;
    }
    groups::remove(&place.group())?;
    if place.run.is_dir() {
        std::fs::remove_dir_all(&place.run).with_context(|| format!("removing {}", place.run.display()))?;
    }
    Ok(())
}
