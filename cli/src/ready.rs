//! `understudy ready`: what a probe asks that cannot ask the admin address, because two proxies share it for a while.

use std::process::ExitCode;

use anyhow::Result;
use understudy_conf::store::read_acknowledgement;

use crate::args::ReadyArgs;

/// Success if the proxy of a state directory serves a version of it.
pub(crate) fn run(args: &ReadyArgs) -> Result<ExitCode> {
    let acknowledgement = read_acknowledgement(&args.state)?;
    match acknowledgement.and_then(|acknowledgement| acknowledgement.serving) {
        Some(version) => {
            eprintln!("ready: serving version {version}");
            Ok(ExitCode::SUCCESS)
        }
        None => {
            eprintln!("not ready: no proxy serves a complete state of {} yet", args.state.display());
            Ok(ExitCode::FAILURE)
        }
    }
}
