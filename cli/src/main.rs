//! The binary `understudy`: argument parsing and start-up.
//!
//! Purpose: turn a command line into a running controller, proxy or both. Everything that decides anything is in
//! the libraries.

mod args;
mod check;
mod demo;
mod manifests;
mod pools;
mod privileges;
mod ready;
mod serve;
mod signals;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use args::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Threads have the capabilities of the one that starts them, so this is first.
    privileges::raise_low_ports();
    let cli = Cli::parse();
    env_logger::Builder::from_env(
        env_logger::Env::default().default_filter_or("info,pingora_core=off,pingora_proxy=off,notify=warn"),
    )
    .init();
    match execute(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("understudy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<ExitCode> {
    match command {
        Command::Check(args) => return check::run(&args),
        Command::Ready(args) => return ready::run(&args),
        Command::Pools(args) => pools::run(&args)?,
        Command::Run(args) => serve::run(args)?,
        Command::Controller(args) => serve::controller(args)?,
        Command::Proxy(args) => serve::proxy(args)?,
        Command::Demo(args) => return demo::run(&args),
    }
    Ok(ExitCode::SUCCESS)
}
