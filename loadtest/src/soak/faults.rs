//! The primary backend breaks and heals, and the gateway's own counters say whether it saw that.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep, sleep_until};

use super::backend::{Backend, Mode};
use crate::subject::{Subject, sum_of};

/// How often counters are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a switch is waited for before the next fault comes anyway.
const PATIENCE: Duration = Duration::from_secs(10);
/// The ways to break, in turn.
const WAYS: [Mode; 3] = [Mode::Refuses, Mode::Fails, Mode::Resets];

/// Switches that the gateway counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switches {
    pub(crate) failovers: u64,
    pub(crate) failbacks: u64,
}

impl Switches {
    /// Asks the gateway.
    ///
    /// # Errors
    /// When its metrics cannot be read.
    pub(crate) async fn read(subject: &Subject) -> Result<Self> {
        let text = subject.statistics().await?;
        let of = |name: &str| sum_of(&text, name).unwrap_or(0);
        Ok(Self {
            failovers: of("understudy_failovers_total{"),
            failbacks: of("understudy_failbacks_total{"),
        })
    }
}

/// Breaks the backend so often, evenly over the time; it heals in the middle between two faults, and never before
/// the gateway has seen the fault. Returns how often it broke.
///
/// # Errors
/// When the gateway's metrics cannot be read.
pub(crate) async fn run(backend: &Backend, subject: &Subject, times: u32, length: Duration) -> Result<u32> {
    let (start, cycle) = (Instant::now(), length / times);
    let mut broken = 0;
    for number in 0..times {
        let begin = start + cycle * number + cycle / 5;
        sleep_until(begin).await;
        if start.elapsed() >= length {
            break;
        }
        backend.set(WAYS[number as usize % WAYS.len()]);
        broken += 1;
        let wanted = u64::from(number) + 1;
        wait_until(subject, |switches| switches.failovers >= wanted).await?;
        sleep_until(begin + cycle / 5).await;
        backend.set(Mode::Serves);
        wait_until(subject, |switches| switches.failbacks >= wanted).await?;
    }
    Ok(broken)
}

async fn wait_until(subject: &Subject, holds: impl Fn(Switches) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if holds(Switches::read(subject).await.context("reading the gateway's metrics")?) {
            break;
        }
        sleep(LOOK).await;
    }
    Ok(())
}
