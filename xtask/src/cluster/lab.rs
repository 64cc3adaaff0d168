//! A cluster as other chores use it: brought up for them, or the one that runs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::components::{UNUSABLE, USABLE};
use super::place::Place;
use super::space::Space;
use super::{OTHER, bring_up, load_image, other, programs, take_down};
use crate::run;

/// Names the images that every cluster has, as [`Lab::name_image`] takes them.
pub(crate) const ECHO: &str = "localhost/testcluster/echo:1";
/// The name server's.
pub(crate) const DNS: &str = "localhost/testcluster/dns:1";

/// A cluster that runs.
pub(crate) struct Lab {
    place: Place,
    space: Space,
}

impl Lab {
    /// Why this machine cannot have one, if it cannot.
    pub(crate) fn unavailable() -> Option<String> {
        if let Some(other) = other() {
            return Some(format!("{OTHER} names the cluster of {}", other.display()));
        }
        programs::require_go().and_then(|()| programs::require_system()).err().map(|error| error.to_string())
    }

    /// A new one. A developer's own stays as it is.
    pub(crate) fn brought_up(which: &str) -> Result<Self> {
        let place = Place::of_checkout(which)?;
        take_down(&place)?;
        let space = bring_up::bring_up(&place, false)?;
        Ok(Self { place, space })
    }

    /// The developer's own.
    pub(crate) fn running() -> Result<Self> {
        let place = Place::of_checkout("")?;
        let space = Space::running(&place);
        let space = space.context("there is no cluster; bring one up with: cargo xtask cluster up")?;
        Ok(Self { place, space })
    }

    /// Ends it.
    pub(crate) fn take_down(self) -> Result<()> {
        take_down(&self.place)
    }

    /// A command where its addresses can be reached, with its kubeconfig.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.space.command(program)
    }

    /// kubectl, as its administrator.
    pub(crate) fn kubectl(&self) -> Command {
        self.space.kubectl()
    }

    /// Gives the node an image.
    pub(crate) fn load_image(&self, archive: &Path) -> Result<()> {
        load_image(&self.space, archive)
    }

    /// Gives an image of the node another name.
    pub(crate) fn name_image(&self, image: &str, another: &str) -> Result<()> {
        let mut tag = self.space.ctr();
        run::logged(tag.args(["image", "tag", "--force", image, another]), super::IMPORT_LIMIT).map(drop)
    }

    /// Asks until it is so, for a minute.
    pub(crate) fn wait_until(&self, what: &str, so: impl Fn() -> Result<bool>) -> Result<()> {
        self.space.wait_until(what, |_| so())
    }

    /// The number of a component's process, inside.
    pub(crate) fn pid(&self, component: &str) -> Result<String> {
        let file = self.place.file(&format!("pid/{component}"));
        let pid = std::fs::read_to_string(file).with_context(|| format!("{component} does not run"))?;
        Ok(pid.trim().to_owned())
    }

    /// An address that a Gateway can have by asking for it, and one that it cannot.
    pub(crate) fn addresses(&self) -> (&'static str, &'static str) {
        (USABLE, UNUSABLE)
    }
}
