//! `cargo xtask test`: the stages that decide whether the tree is good.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::counts::Counts;
use crate::paths::cargo;
use crate::stages::{Done, Stages};
use crate::{
    bench, cluster, commands, conformance, deny, direction, docs, files, fuzz, release, run, semantics,
    tools, tree,
};

/// No single program runs longer, so that nothing can hang a run for ever.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// Stages that count their tests.
const WITH_TESTS: [&str; 3] = ["tests", "cluster", "conformance"];

/// Runs all stages, or the fast ones, or only those that are named, and prints the closing line; true when all
/// passed.
pub(crate) fn run_all(fast: bool, only: Vec<String>) -> Result<bool> {
    let mut stages = Stages::only(only);
    let mut counts = Counts::default();
    let before = tree::snapshot()?;

    stages.run("tools", 10, tools::check_components);
    stages.run("format", 10, || passes(&["fmt", "--all", "--check"]));
    stages.run("documents", 5, || {
        let mut problems = docs::broken_links(&files::tracked()?)?;
        problems.extend(docs::machine_paths(&files::tracked()?)?);
        problems.extend(semantics::missing_tests(&files::tracked()?)?);
        none(problems)
    });
    stages.run("direction", 5, || none(direction::strays(&crate::paths::metadata()?)));
    stages.run("lints", 360, || {
        passes(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
    });
    let which: &[&str] = if fast { &["--lib", "--bins"] } else { &[] };
    stages.run("tests", 720, || tests(which, &mut counts));
    if !fast {
        stages.run("rustdoc", 120, rustdoc);
        stages.run("commands", 120, || none(commands::unknown(&files::tracked()?)?));
        stages.run("licences", 360, deny::check);
        stages.run("release", 720, release::build);
        stages.run("demo", 90, release::demo);
        stages.run("testcluster", 900, cluster::stage::build);
        stages.run("bench", 120, bench::smoke);
        stages.run("soak", 40, bench::soak);
        stages.run("drill", 150, bench::drill);
        stages.run("scale", 120, cluster::stage::scale);
        stages.run("cluster", 600, || cluster::stage::test(&mut counts));
        stages.run("conformance", 1200, || conformance::stage(&mut counts));
        stages.run("fuzz", 600, fuzz::run_fixed);
    }
    stages.run("clean tree", 5, || tree::unchanged_since(&before));

    stages.check_names()?;
    stages.print_table();
    let failed = stages.failed();
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(", "));
    }
    // A stage without tests that failed counts as one failure: the line never says 0 where something is wrong.
    counts.failed +=
        failed.iter().filter(|name| !WITH_TESTS.contains(name) || counts.failed == 0).count() as u64;
    println!("\n{counts}");
    Ok(failed.is_empty())
}

fn passes(args: &[&str]) -> Result<Done> {
    run::logged(cargo().args(args), LIMIT)?;
    Ok(Done::Passed)
}

fn none(problems: Vec<String>) -> Result<Done> {
    if problems.is_empty() { Ok(Done::Passed) } else { bail!("{}", problems.join("\n")) }
}

fn tests(which: &[&str], counts: &mut Counts) -> Result<Done> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(which);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        // Tests on real sockets measure time: more of them at once than processors would measure each other.
        command.env("RUST_TEST_THREADS", "2");
    }
    let (success, text) = run::attempted(&mut command, LIMIT)?;
    *counts = Counts::of(&text);
    if !success {
        bail!("{text}");
    }
    if counts.passed == 0 {
        bail!("{text}\nno test ran");
    }
    Ok(Done::Note(counts.to_string()))
}

fn rustdoc() -> Result<Done> {
    let mut command = cargo();
    command.args(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings");
    run::logged(&mut command, LIMIT)?;
    Ok(Done::Passed)
}
