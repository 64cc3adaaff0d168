//! The failover drill: the same faults for Understudy and for a real Envoy, counted alike.
//!
//! Purpose: show what each proxy loses when backends fail, so that nobody has to believe a claim. Inputs: the
//! binaries of both, and the names of cases. Outputs: a table, and on demand a Markdown file and a page with
//! pictures. A case is plain values (`case`, `cases`), turned into manifests (`manifests`) and for Envoy into the
//! configuration that Envoy Gateway would render (`envoy`), run on real sockets (`gateway`, `run`), and
//! written down as a record (`record`) that `outcome`, `known`, `table` and `html` only read.

mod case;
mod cases;
mod clients;
mod gateway;
mod html;
mod known;
mod outcome;
mod record;
mod report;
mod run;
mod table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tokio::task::JoinSet;

use case::{Case, Plan};
use cases::Length;
use gateway::{Binaries, Proxy};
use outcome::{Ran, Row};

use crate::envoy::install;
use crate::program::find_understudy;

/// Arguments of the drill.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cases to run, by number or name; all without any.
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
    /// Who takes part.
    #[arg(long, value_enum, default_value_t = Who::Both)]
    proxy: Who,
    /// Cuts the outage of case 11 from 65 s to 15 s, and the loads of case 10 by half.
    #[arg(long)]
    short: bool,
    /// Installs Envoy outside the repository, and ends.
    #[arg(long)]
    setup: bool,
    /// Writes the result to this file as Markdown.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Writes a page that draws each run over its time.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Who {
    Understudy,
    Envoy,
    Both,
}

impl Who {
    fn proxies(self) -> &'static [Proxy] {
        match self {
            Self::Understudy => &[Proxy::Understudy],
            Self::Envoy => &[Proxy::Envoy],
            Self::Both => &[Proxy::Understudy, Proxy::Envoy],
        }
    }
}

/// Runs the drill, or installs Envoy for it.
///
/// # Errors
/// When a case could not run, or Understudy lost more requests in one than Envoy.
pub(crate) async fn run(args: Args) -> Result<()> {
    if args.setup {
        let envoy = install::install().await?;
        println!("{} is ready: {}", install::version(&envoy).await?, envoy.display());
        return Ok(());
    }
    let length = if args.short { Length::Short } else { Length::Full };
    let cases = cases::select(length, &args.cases)?;
    let proxies = args.proxy.proxies();
    let binaries = Binaries {
        understudy: if proxies.contains(&Proxy::Understudy) { find_understudy()? } else { PathBuf::new() },
        envoy: if proxies.contains(&Proxy::Envoy) { install::find()? } else { PathBuf::new() },
    };
    if proxies.contains(&Proxy::Envoy) {
        install::version(&binaries.envoy).await?;
    }

    let mut rows = Vec::new();
    for case in &cases {
        rows.extend(run_case(case, proxies, &binaries).await?);
    }
    let objection =
        proxies.contains(&Proxy::Envoy).then(|| known::objection(&known::compare(&rows, length))).flatten();
    let report = report::Report {
        rows: &rows,
        proxies,
        objection: objection.as_deref(),
        command: &report::command(&args, length),
    };
    println!("\n{}", report.body());
    if let Some(out) = &args.out {
        std::fs::write(out, report.markdown()).with_context(|| format!("writing {}", out.display()))?;
        println!("written to {}", out.display());
    }
    if let Some(page) = &args.html {
        std::fs::write(page, html::page(&rows, proxies))
            .with_context(|| format!("writing {}", page.display()))?;
        println!("drawn in {}", page.display());
    }
    let complaints = table::complaints(&rows);
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n       "));
    }
    Ok(())
}

/// Runs all plans of a case: those that mostly wait together, the others one after the other.
async fn run_case(case: &Case, proxies: &[Proxy], binaries: &Binaries) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = case.plans.iter().map(|plan| empty_row(case, plan)).collect();
    let mut together = JoinSet::new();
    for (index, plan) in case.plans.iter().enumerate() {
        for proxy in proxies.iter().copied() {
            if plan.waits {
                let (plan, binaries) = (plan.clone(), binaries.clone());
                together.spawn(async move { (index, proxy, run_plan(&plan, proxy, &binaries).await) });
            } else {
                let ran = run_plan(plan, proxy, binaries).await;
                say(case, plan, proxy, &ran);
                put(&mut rows[index], proxy, ran);
            }
        }
    }
    while let Some(done) = together.join_next().await {
        let (index, proxy, ran) = done.context("a run ended early")?;
        say(case, &case.plans[index], proxy, &ran);
        put(&mut rows[index], proxy, ran);
    }
    Ok(rows)
}

fn empty_row(case: &Case, plan: &Plan) -> Row {
    Row {
        case: case.id,
        title: case.title,
        label: plan.label.clone(),
        wire: plan.wire,
        understudy: None,
        envoy: None,
    }
}

async fn run_plan(plan: &Plan, proxy: Proxy, binaries: &Binaries) -> Ran {
    run::run(plan, proxy, binaries).await.map_err(|error| format!("{error:#}"))
}

fn put(row: &mut Row, proxy: Proxy, ran: Ran) {
    match proxy {
        Proxy::Understudy => row.understudy = Some(ran),
        Proxy::Envoy => row.envoy = Some(ran),
    }
}

/// One line as soon as a run is done.
fn say(case: &Case, plan: &Plan, proxy: Proxy, ran: &Ran) {
    let name = format!("case {} ({}), {proxy}", case.id, plan.label);
    match ran {
        Ok(record) => {
            let summary = record.summary();
            let answers: Vec<String> =
                summary.answers.iter().map(|(what, count)| format!("{what} ×{count}")).collect();
            println!(
                "{name}: {} of {} lost; primary {}, fallback {}; {}; slowest {}",
                summary.lost,
                summary.requests,
                summary.primary,
                summary.fallback,
                answers.join(", "),
                table::span(summary.slowest)
            );
        }
        Err(why) => println!("{name}: could not run: {why}"),
    }
}
