//! The cases. Their numbers are those of the measurements of the real Envoy that the drill repeats.

mod answers;
mod bodies;
mod checks;
mod failover;
mod limits;
mod outage;
mod pools;
mod sessions;
mod splits;

use std::time::Duration;

use anyhow::{Result, bail};
use understudy_testbed::Behaviour;

use super::case::{Action, Case, Who};

/// Runs without a retry policy.
pub(crate) const NO_RETRY: &str = "no retry";
/// Runs with Envoy Gateway's default retries.
pub(crate) const DEFAULT_RETRY: &str = "default retry";
/// Runs whose retries also cover reset connections.
pub(crate) const RESET_RETRY: &str = "retry with reset";
/// Runs whose retries go to the next pool.
pub(crate) const PRIORITY_RETRY: &str = "next pool at attempt 2";

const ACTIVE: Who = Who::Primary(0);

/// How long the long cases are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// As long as the known figures took.
    Full,
    /// Short enough for continuous integration.
    Short,
}

impl Length {
    /// Time before the fault in a load, and time after it.
    pub(crate) fn half_of_a_load(self) -> Duration {
        Duration::from_secs(match self {
            Self::Full => 2,
            Self::Short => 1,
        })
    }

    /// Length of the outage.
    pub(crate) fn outage(self) -> Duration {
        Duration::from_secs(match self {
            Self::Full => 65,
            Self::Short => 15,
        })
    }
}

/// All cases.
pub(crate) fn all(length: Length) -> Vec<Case> {
    vec![
        failover::all_up(),
        failover::port_closed(),
        failover::returns(),
        answers::one_bad_answer(),
        answers::silence(),
        answers::cut_body(),
        pools::three_primaries(),
        pools::all_is_lost(),
        bodies::posts(),
        outage::killed_under_load(length),
        outage::long_outage(length),
        answers::thresholds(),
        failover::no_ejection(),
        splits::empty_primary(),
        splits::missing_primary(),
        splits::mixed_kinds(),
        checks::active_check(),
        limits::overflow(),
        sessions::websockets(),
    ]
}

/// The cases with these names, in their own order; all without a name.
///
/// # Errors
/// When there is no such case, with the names that there are.
pub(crate) fn select(length: Length, wanted: &[String]) -> Result<Vec<Case>> {
    let mut cases = all(length);
    if let Some(unknown) = wanted.iter().find(|name| !cases.iter().any(|case| case.id == name.as_str())) {
        let known: Vec<&str> = cases.iter().map(|case| case.id).collect();
        bail!("there is no case {unknown:?}; the cases are {}", known.join(", "));
    }
    cases.retain(|case| wanted.is_empty() || wanted.iter().any(|name| name == case.id));
    Ok(cases)
}

fn kill() -> Action {
    Action::Kill(ACTIVE)
}

fn good() -> Behaviour {
    // The answer to a request without a body.
    Behaviour::body("")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use understudy_controller::{Options, Source, check};

    use super::*;
    use crate::manifests::{PrimaryKind, render};

    #[test]
    fn names_of_cases_and_labels_of_runs_are_unique() {
        let cases = all(Length::Full);
        let ids: BTreeSet<&str> = cases.iter().map(|case| case.id).collect();
        assert_eq!(ids.len(), cases.len());
        for case in &cases {
            let labels: BTreeSet<&str> = case.plans.iter().map(|plan| plan.label.as_str()).collect();
            assert_eq!(labels.len(), case.plans.len(), "case {}", case.id);
        }
    }

    #[test]
    fn the_manifests_of_every_run_are_right() {
        let folder = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:3000".parse().unwrap();
        for case in all(Length::Full) {
            for plan in &case.plans {
                let path = folder.path().join("case.yaml");
                std::fs::write(&path, render(&plan.setup, 8080, &[address], address)).unwrap();
                let report = check(&[Source::Path(path)], &Options::default());
                let broken_on_purpose = plan.setup.primary == PrimaryKind::Missing;
                assert_eq!(
                    report.has_errors(),
                    broken_on_purpose,
                    "case {} {}: {:?}",
                    case.id,
                    plan.label,
                    report.diagnostics
                );
                assert_eq!(report.state.policies.len(), usize::from(!plan.setup.policy.is_empty()));
            }
        }
    }

    #[test]
    fn cases_are_chosen_by_name() {
        let chosen = select(Length::Short, &["11".into(), "2".into()]).unwrap();
        assert_eq!(chosen.iter().map(|case| case.id).collect::<Vec<_>>(), ["2", "11"]);
        assert_eq!(select(Length::Short, &[]).unwrap().len(), all(Length::Short).len());
        let error = select(Length::Short, &["99".into()]).unwrap_err().to_string();
        assert!(error.contains("\"99\"") && error.contains("mixed-kinds"), "{error}");
    }
}
