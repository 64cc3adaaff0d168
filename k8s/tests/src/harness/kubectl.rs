//! Calling kubectl.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How kubectl is called.
pub(crate) struct Kubectl {
    words: Vec<String>,
}

impl Kubectl {
    /// The test cluster's own kubectl, or the one on the PATH.
    pub(crate) fn of_environment() -> Self {
        let words = match std::env::var("UNDERSTUDY_KUBECTL") {
            Ok(program) if !program.is_empty() => vec![program, "kubectl".to_owned()],
            _ => vec!["kubectl".to_owned()],
        };
        Self { words }
    }

    /// Runs kubectl and gives its stdout.
    ///
    /// # Errors
    /// With what kubectl said, when it fails.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        self.run_with_input(args, "")
    }

    /// Applies manifests that are given as text.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        self.run_with_input(&["apply", "-f", "-"], manifests).map(drop)
    }

    /// Applies a file, as a user does.
    pub(crate) fn apply_file(&self, file: &Path) -> Result<()> {
        self.run(&["apply", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// Applies a file whose objects may be larger than the annotation in which kubectl keeps what was applied last.
    pub(crate) fn apply_large(&self, file: &Path) -> Result<()> {
        self.run(&["apply", "--server-side", "--force-conflicts", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// Applies what a kustomization gives, over what others made of the same objects.
    pub(crate) fn apply_kustomization(&self, folder: &Path) -> Result<()> {
        self.run(&["apply", "--server-side", "--force-conflicts", "-k", &folder.to_string_lossy()]).map(drop)
    }

    /// Deletes what a file names, where it exists, and waits until it is gone.
    pub(crate) fn delete_file(&self, file: &Path) -> Result<()> {
        self.run(&["delete", "--ignore-not-found", "--wait", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// What `get` gives as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "-o", "json"], args].concat())?;
        serde_json::from_str(&text).context("kubectl gave no JSON")
    }

    /// The items of a list that `get` gives.
    pub(crate) fn items(&self, args: &[&str]) -> Result<Vec<Value>> {
        Ok(self.json(args)?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until a Deployment or DaemonSet is as its specification says.
    pub(crate) fn rolled_out(&self, namespace: &str, object: &str) -> Result<()> {
        self.run(&["-n", namespace, "rollout", "status", object, "--timeout=120s"]).map(drop)
    }

    /// Starts kubectl with a pipe to each of its streams.
    pub(crate) fn start(&self, args: &[&str]) -> Result<Child> {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("starting {}", self.words[0]))
    }

    /// The same, with something on its stdin.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let mut child = self.start(args)?;
        // kubectl reads all of its input before it prints more than a pipe holds.
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(input.as_bytes())?;
        }
        let out = child.wait_with_output()?;
        if !out.status.success() {
            bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}
