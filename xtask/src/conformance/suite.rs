//! The suite as a program: built from `conformance/`, run where the cluster's addresses can be reached.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Options;
use super::events::{self, End};
use super::verdict::{Listed, Verdict};
use crate::cluster::lab::{self, Lab};
use crate::cluster::place::files_below;
use crate::{paths, run};

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
/// The suite gives up by itself before that.
const LIMIT: Duration = Duration::from_secs(45 * 60);
const GO_LIMIT: &str = "-test.timeout=40m";

/// The class that the quickstart makes.
const CLASS: &str = "eg";

/// The suite, built.
pub(crate) struct Suite {
    /// The program, what it reads and what it writes.
    folder: PathBuf,
    tests: Vec<Listed>,
    /// The profiles that concern gateways, with the features that they know.
    profiles: Vec<Listed>,
}

impl Suite {
    /// Builds it, and asks it for its tests.
    pub(crate) fn build() -> Result<Self> {
        let folder = paths::target()?.join("conformance");
        fs::create_dir_all(&folder)?;
        let mut go = Command::new("go");
        go.current_dir(paths::root().join("conformance")).env("CGO_ENABLED", "0");
        go.args(["test", "-c", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]);
        run::logged(go.arg(program(&folder)).arg("."), BUILD_LIMIT)
            .context("building the conformance suite")?;
        let list = folder.join("list.json");
        let mut command = Command::new(program(&folder));
        run::logged(command.args(["-test.run", "TestList$"]).env("CONFORMANCE_LIST", &list), LIMIT)?;
        let list: Value = serde_json::from_str(&fs::read_to_string(&list)?)?;
        Ok(Self { folder, tests: read_list(&list["tests"])?, profiles: read_list(&list["profiles"])? })
    }

    /// Where the report of the last run stands.
    pub(crate) fn report(&self) -> PathBuf {
        self.folder.join("report.yaml")
    }

    /// The channel of the kinds that the last run found installed.
    pub(crate) fn channel(&self) -> Result<String> {
        let report = fs::read_to_string(self.report())?;
        let channel = report.lines().find_map(|line| line.strip_prefix("gatewayAPIChannel: "));
        Ok(channel.context("the report names no channel")?.to_owned())
    }

    /// Runs it once.
    pub(crate) fn run(&self, lab: &Lab, options: &Options, round: u32) -> Result<Verdict> {
        let mut claimed = claimed(lab)?;
        let profiles = self.profiles(options)?;
        let mut settings = settings(lab, &profiles);
        let mut wanted: Vec<&Listed> = self.tests.iter().collect();
        if !options.profile.is_empty() {
            let known: BTreeSet<&String> = profiles.iter().flat_map(|profile| &profile.features).collect();
            claimed.retain(|feature| known.contains(feature));
            wanted.retain(|test| test.features.iter().all(|feature| known.contains(feature)));
        }
        if let Some(name) = &options.run {
            wanted.retain(|test| test.name == *name);
            settings["runTest"] = json!(name);
        }
        if wanted.is_empty() {
            bail!("no test of gateways is meant; those that there are: {}", names(&self.tests));
        }
        if wanted.len() < self.tests.len() {
            // Otherwise the suite looks at the class by itself.
            settings["supportedFeatures"] = json!(claimed);
        }
        settings["reportOutputPath"] = json!(self.report());
        let events = self.events(lab, "TestConformance$", &settings, &format!("round-{round}"))?;
        Ok(Verdict::new(&wanted, &claimed, &events::conformance_tests(&events)))
    }

    /// The profiles that were asked for; all, if none was.
    fn profiles(&self, options: &Options) -> Result<Vec<&Listed>> {
        if options.profile.is_empty() {
            return Ok(self.profiles.iter().collect());
        }
        let find = |name: &String| {
            let found = self.profiles.iter().find(|profile| profile.name == *name);
            found.with_context(|| format!("there is no profile {name}; there are: {}", names(&self.profiles)))
        };
        options.profile.iter().map(find).collect()
    }

    /// Runs the tests that need features which are not claimed, and tells those that pass all the same.
    pub(crate) fn run_unclaimed(&self, lab: &Lab) -> Result<String> {
        let claimed = claimed(lab)?;
        let lacks = |listed: &&Listed| !listed.features.iter().all(|feature| claimed.contains(feature));
        if !self.tests.iter().any(|listed| lacks(&listed)) {
            return Ok("every feature that a test of gateways needs is claimed".to_owned());
        }
        let settings = settings(lab, &self.profiles(&Options::default())?);
        let events = self.events(lab, "TestUnclaimed$", &settings, "unclaimed")?;
        let tests = events::tests(&events, "TestUnclaimed/");
        let mut told = Vec::new();
        for listed in self.tests.iter().filter(lacks) {
            if tests.get(&listed.name).is_some_and(|test| test.end == Some(End::Passed)) {
                let features: Vec<_> =
                    listed.features.iter().filter(|name| !claimed.contains(*name)).collect();
                told.push(format!("passes and is not claimed: {} ({features:?})", listed.name));
            }
        }
        Ok(if told.is_empty() { "nothing passes that is not claimed".to_owned() } else { told.join("\n") })
    }

    /// What the suite prints, as events.
    fn events(&self, lab: &Lab, test: &str, settings: &Value, name: &str) -> Result<String> {
        let options = self.folder.join("options.yaml");
        // JSON is YAML.
        fs::write(&options, settings.to_string())?;
        let mut command = lab.command(program(&self.folder));
        command.args(["-test.v=test2json", GO_LIMIT, "-test.run", test]);
        command.arg(format!("--conformance-options-file={}", options.display()));
        let (_, text) = run::attempted(&mut command, LIMIT)?;
        let log = self.folder.join(format!("{name}.log"));
        fs::write(&log, &text)?;
        println!("    what the suite printed: {}", log.display());
        run::output(Command::new("go").args(["tool", "test2json", "cat"]).arg(&log))
    }
}

/// The manifests of Gateway API's kinds in the suite's version, experimental channel.
pub(crate) fn kinds() -> Result<Vec<PathBuf>> {
    let mut files = files_below(&module("sigs.k8s.io/gateway-api")?.join("config/crd/experimental"))?;
    let is_kind =
        |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("gateway."));
    files.retain(is_kind);
    Ok(files)
}

/// Where the source of a module is that the suite depends on.
fn module(name: &str) -> Result<PathBuf> {
    let mut go = Command::new("go");
    go.current_dir(paths::root().join("conformance")).args(["list", "-m", "-f", "{{.Dir}}", name]);
    Ok(PathBuf::from(run::output(&mut go)?.trim()))
}

/// The images that the suite's manifests name, each with the one of the cluster that it is.
pub(crate) fn images() -> Result<Vec<(&'static str, String)>> {
    let folder = module("sigs.k8s.io/gateway-api/conformance")?;
    let mut names = BTreeSet::new();
    for part in ["base", "tests"] {
        for file in files_below(&folder.join(part))? {
            if file.extension().is_some_and(|extension| extension == "yaml") {
                names.extend(named_images(&fs::read_to_string(&file)?));
            }
        }
    }
    let known = |name: String| match name.rsplit('/').next().and_then(|last| last.split(':').next()) {
        Some("echo-basic") => Ok((lab::ECHO, name)),
        Some("coredns") => Ok((lab::DNS, name)),
        _ => bail!("the suite needs the image {name}, which the test cluster does not build"),
    };
    names.into_iter().map(known).collect()
}

fn named_images(manifest: &str) -> impl Iterator<Item = String> {
    let names =
        manifest.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: "));
    names.map(|name| name.trim_matches('"').to_owned())
}

/// The version of the program that is tested.
pub(crate) fn version() -> String {
    format!("v{}", env!("CARGO_PKG_VERSION"))
}

/// The features in the status of the class; none before it has one.
pub(crate) fn claimed(lab: &Lab) -> Result<BTreeSet<String>> {
    let text = run::output(lab.kubectl().args(["get", "gatewayclass", CLASS, "-o", "json"]))?;
    let class: Value = serde_json::from_str(&text)?;
    let features = class["status"]["supportedFeatures"].as_array().cloned().unwrap_or_default();
    Ok(features.iter().filter_map(|feature| feature["name"].as_str()).map(str::to_owned).collect())
}

/// What the suite reads instead of flags. Timeouts are not among it: they stay the suite's own.
fn settings(lab: &Lab, profiles: &[&Listed]) -> Value {
    let profiles: Vec<&str> = profiles.iter().map(|profile| profile.name.as_str()).collect();
    let address = |value: &str| json!([{"type": "IPAddress", "value": value}]);
    let (usable, unusable) = lab.addresses();
    json!({
        "gatewayClassName": CLASS,
        "conformanceProfiles": profiles,
        "cleanupBaseResources": true,
        "cleanupTestResources": true,
        "usableNetworkAddresses": address(usable),
        "unusableNetworkAddresses": address(unusable),
        "implementation": {
            "organization": "understudy",
            "project": "understudy",
            "url": "https://understudy.dev",
            "version": version(),
            "contact": ["https://understudy.dev"],
        },
    })
}

fn program(folder: &Path) -> PathBuf {
    folder.join("conformance.test")
}

fn names(list: &[Listed]) -> String {
    list.iter().map(|listed| listed.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn read_list(list: &Value) -> Result<Vec<Listed>> {
    let list = list.as_array().context("the suite gave no list")?;
    list.iter()
        .map(|listed| {
            let name = listed["name"].as_str().context("something without a name")?.to_owned();
            let features =
                listed["features"].as_array().with_context(|| format!("{name} without features"))?;
            let features = features.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            Ok(Listed { name, features })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_where_manifests_name_them() {
        let text = "      containers:\n      - image: a/echo-basic:v1\n        name: x\n        image: \"b/coredns:1\"\n";
        assert_eq!(named_images(text).collect::<Vec<_>>(), ["a/echo-basic:v1", "b/coredns:1"]);
    }

    #[test]
    fn the_list_of_the_suite_is_read() {
        let list = read_list(&json!([{"name": "A", "features": ["Gateway", "HTTPRoute"]}])).unwrap();
        assert_eq!(list[0].features, ["Gateway", "HTTPRoute"]);
        assert!(read_list(&json!([{"features": []}])).is_err());
        assert!(read_list(&json!(null)).is_err());
    }
}
