//! Waiting for conditions.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

const BETWEEN: Duration = Duration::from_millis(200);

/// How long something took so far. A clock that jumps is the machine's problem, not that of a case.
pub(crate) fn since(start: SystemTime) -> Duration {
    start.elapsed().unwrap_or_default()
}

/// Asks until there is an answer.
///
/// # Errors
/// When there is none within the limit, with the last reason.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let start = SystemTime::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(reason) if since(start) > limit => {
                bail!("waited {} s in vain for {what}: {reason:#}", limit.as_secs())
            }
            Err(_) => sleep(BETWEEN),
        }
    }
}
