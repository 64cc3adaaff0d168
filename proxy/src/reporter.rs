//! Writes the reports into the state directory: what the controller reads of this proxy.
//!
//! Inputs: the driver's reports and switches, the world's refused endpoints. Outputs: `proxy/reports.yaml`. A switch is
//! written at once, or soon after the one before; other changes within a second. Counters alone are written seldom:
//! under load they change all the time, and the admin server has them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, sleep_until, timeout_at};
use understudy_conf::{Health, PoolReport, PoolState, Reports, store};

use crate::driver::Driver;
use crate::world::World;

/// How often is looked for changes that are no switches.
const EVERY: Duration = Duration::from_secs(1);
/// The pause after a write, before a switch is written.
const PAUSE: Duration = Duration::from_millis(200);
/// How often counters that changed alone are written.
const COUNTERS_EVERY: Duration = Duration::from_secs(30);

/// Writes reports until it is dropped.
pub(crate) async fn run(folder: PathBuf, driver: Arc<Driver>, world: Arc<ArcSwap<World>>) {
    let mut switched = driver.switched();
    let mut written: Option<(Reports, Instant)> = None;
    let mut complained = false;
    loop {
        let looked = Instant::now();
        // The sender lives as long as the driver, so this ends with a switch or with the time.
        let _ = timeout_at(looked + EVERY, switched.changed()).await;
        if let Some((_, at)) = &written {
            sleep_until(*at + PAUSE).await;
        }
        switched.mark_unchanged();
        let reports = driver.reports_where(&world.load().refused, |pool| !is_sound(pool));
        let now = Instant::now();
        let is_due = written.as_ref().is_none_or(|(before, at)| {
            says_something_new(before, &reports) || (now >= *at + COUNTERS_EVERY && *before != reports)
        });
        if !is_due {
            continue;
        }
        match store::write_reports(&folder, &reports) {
            Ok(()) => {
                written = Some((reports, now));
                complained = false;
            }
            Err(error) => {
                // Once: it is tried every second.
                if !std::mem::replace(&mut complained, true) {
                    log::error!("the reports cannot be written: {error}");
                }
                written = None;
            }
        }
    }
}

/// Whether there is nothing to say of a pool: it serves from its primaries, and everybody is well.
fn is_sound(pool: &PoolReport) -> bool {
    pool.state == PoolState::Primary
        && pool.without_endpoints.is_empty()
        && pool.endpoints.iter().all(|endpoint| endpoint.health.state == Health::Healthy)
}

/// Whether more than counters and remaining times changed.
fn says_something_new(before: &Reports, now: &Reports) -> bool {
    let key = |pool: &PoolReport| {
        let endpoints = pool.endpoints.iter().map(|endpoint| {
            let health = &endpoint.health;
            let standing = (health.state, health.obeyed, health.since_ms);
            (endpoint.backend.clone(), endpoint.address.clone(), standing, endpoint.last_error.clone())
        });
        (
            pool.pool.clone(),
            pool.state,
            pool.reason.clone(),
            pool.without_endpoints.clone(),
            endpoints.collect::<Vec<_>>(),
        )
    };
    before.refused != now.refused
        || before.switches.last().map(|last| last.seq) != now.switches.last().map(|last| last.seq)
        || before.pools.len() != now.pools.len()
        || before.pools.iter().zip(&now.pools).any(|(before, now)| key(before) != key(now))
}
