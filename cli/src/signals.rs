//! When to stop.

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for the first request to stop: Ctrl-C or SIGTERM.
pub(crate) fn stop() -> Result<impl Future<Output = ()> + Send> {
    let mut interrupt: Signal = signal(SignalKind::interrupt())?;
    let mut terminate: Signal = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
