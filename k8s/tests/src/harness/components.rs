//! Parts of the project's own test cluster: stopped and started by its script, which stands inside its namespaces.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

const SCRIPT: &str = "/run/understudy-testcluster/component.sh";

const CONTAINERD: &str = "/run/understudy-testcluster/containerd/containerd.sock";

/// Whether this runs inside the project's own test cluster.
pub(crate) fn are_ours() -> bool {
    Path::new(SCRIPT).exists()
}

/// Stops a part, as `cargo xtask cluster stop` does.
pub(crate) fn stop(name: &str) -> Result<()> {
    script("stop", name)
}

/// Starts a part again.
pub(crate) fn start(name: &str) -> Result<()> {
    script("start", name)
}

fn script(verb: &str, name: &str) -> Result<()> {
    let status = Command::new("sh").args([SCRIPT, verb, name]).status()?;
    if status.success() { Ok(()) } else { bail!("{verb} {name}: {status}") }
}

/// Gives an image of the node another name; both are short ones, as manifests have them.
pub(crate) fn name_image(image: &str, another: &str) -> Result<()> {
    let full = |name: &str| format!("docker.io/library/{name}");
    let mut ctr = Command::new("ctr");
    ctr.args(["--address", CONTAINERD, "--namespace", "k8s.io", "image", "tag", "--force"]);
    let out = ctr.args([full(image), full(another)]).output()?;
    if out.status.success() { Ok(()) } else { bail!("ctr: {}", String::from_utf8_lossy(&out.stderr).trim()) }
}

/// Signals the processes of a pod's containers, by the pod's name in their environment; only those that were started
/// with this word, unless it is empty. A container that is killed is started again, each time after a longer wait.
///
/// Gives how many there were.
pub(crate) fn signal_pod(pod: &str, word: &str, signal: &str) -> Result<usize> {
    let variable = format!("POD_NAME={pod}");
    let mut signalled = 0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if pid.bytes().all(|byte| byte.is_ascii_digit())
            && contains(&path.join("environ"), &variable)
            && (word.is_empty() || contains(&path.join("cmdline"), word))
        {
            // It may have ended by itself.
            signalled += usize::from(Command::new("kill").args(["-s", signal, pid]).status()?.success());
        }
    }
    Ok(signalled)
}

/// Whether a file of texts that end with zeros has this one.
fn contains(file: &Path, text: &str) -> bool {
    std::fs::read(file).is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|part| part == text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_with_the_pods_name_and_the_word_are_signalled() {
        let pod = format!("test-{}", std::process::id());
        let mut process = Command::new("sleep").arg("60").env("POD_NAME", &pod).spawn().unwrap();
        // A program that was started has its environment a moment later.
        let environment = format!("/proc/{}/environ", process.id());
        while !contains(Path::new(&environment), &format!("POD_NAME={pod}")) {
            std::thread::yield_now();
        }
        assert_eq!(signal_pod(&pod, "61", "KILL").unwrap(), 0);
        assert_eq!(signal_pod(&pod, "60", "KILL").unwrap(), 1);
        assert!(!process.wait().unwrap().success());
    }
}
