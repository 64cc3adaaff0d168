//! Counters that there are once per route or pool: a few words each, and written as text only when somebody asks.

use std::collections::HashMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Routes, and pools, beyond this many share the label `other`.
pub(super) const MAX_NAMES: usize = 2000;

/// The label of what is beyond the limit.
const OTHER: &str = "other";

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Default)]
pub struct Level(AtomicI64);

impl Level {
    /// What it is from now on.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters by name, of a bounded number of names.
#[derive(Default)]
pub(super) struct Named<C>(Mutex<HashMap<Box<str>, Arc<C>>>);

impl<C: Default> Named<C> {
    /// The counters of a name, or those of all names beyond the limit.
    pub(super) fn of(&self, name: &str) -> Arc<C> {
        let mut known = self.0.lock();
        if let Some(counters) = known.get(name) {
            return counters.clone();
        }
        // The place of `other` is not one of them.
        let taken = known.len() - usize::from(known.contains_key(OTHER));
        let name = if taken < MAX_NAMES { name } else { OTHER };
        known.entry(name.into()).or_default().clone()
    }

    /// Forgets the names whose counters nobody else has.
    pub(super) fn forget_unused(&self) {
        self.0.lock().retain(|_, counters| Arc::strong_count(counters) > 1);
    }

    /// All names with their counters, sorted by name.
    pub(super) fn all(&self) -> Vec<(Box<str>, Arc<C>)> {
        let known = self.0.lock();
        let mut all: Vec<_> = known.iter().map(|(name, counters)| (name.clone(), counters.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

/// What a family of series is called, and what it means.
pub(super) struct Series {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
}

impl Series {
    pub(super) fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "counter" }
    }

    pub(super) fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "gauge" }
    }
}

/// Writes a family in Prometheus' text format: `samples` calls back for each sample, with its labels and its value.
pub(super) fn write_family<V: Display>(
    text: &mut String,
    series: &Series,
    samples: impl FnOnce(&mut dyn FnMut(&[(&str, &str)], V)),
) {
    let Series { name, help, kind } = series;
    let mut is_first = true;
    samples(&mut |labels, value| {
        // A string takes whatever is written to it.
        if std::mem::take(&mut is_first) {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            text.push(if at == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            push_escaped(text, value);
            text.push('"');
        }
        let _ = writeln!(text, "}} {value}");
    });
}

fn push_escaped(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}
