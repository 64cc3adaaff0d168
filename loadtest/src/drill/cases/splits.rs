//! Rules that Envoy Gateway turns into a split by weight without a word.

use super::kill;
use crate::drill::case::{Case, Plan, Step};
use crate::manifests::{FallbackKind, PrimaryKind, Setup, task_passive};

pub(super) fn empty_primary() -> Case {
    let setup = Setup { primary: PrimaryKind::EmptyService, ..Setup::task(task_passive()) };
    let plan = Plan::new("Service scaled to zero", setup, vec![Step::Requests(40)]);
    Case { id: "empty-primary", title: "primary is a Service without endpoints", plans: vec![plan] }
}

pub(super) fn missing_primary() -> Case {
    let setup = Setup { primary: PrimaryKind::Missing, ..Setup::task(task_passive()) };
    let plan = Plan::new("Backend does not exist", setup, vec![Step::Requests(40)]);
    Case { id: "missing-primary", title: "primary is a Backend that does not exist", plans: vec![plan] }
}

pub(super) fn mixed_kinds() -> Case {
    let setup = Setup { fallback: FallbackKind::Fqdn, ..Setup::task(task_passive()) };
    let up = Plan::new("all up", setup.clone(), vec![Step::Requests(40)]);
    let steps = vec![Step::Requests(10), Step::Act(kill()), Step::CountShares, Step::Requests(40)];
    let killed = Plan::new("primary killed", setup, steps);
    Case { id: "mixed-kinds", title: "primary by address, fallback by name", plans: vec![up, killed] }
}
