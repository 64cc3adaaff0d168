//! The cases, in the order in which they run. Each leaves the cluster as the next expects it: Understudy installed, the
//! task's applications and their configuration perhaps there.

mod api_server_absent;
mod bad_pod;
mod chart;
mod class_parameters;
mod failover_task;
mod new_routes;
mod rolling_update;
mod scaled_to_zero;
mod tcp_failover;
mod thousand_routes;
mod two_controllers;

use anyhow::Result;

use crate::harness::Lab;

/// What a case needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A cluster alone.
    Cluster,
    /// Understudy in it.
    Understudy,
    /// The same, in the project's own test cluster: parts of it are stopped, its audit log is
    /// read, or its Helm is called.
    OwnCluster,
}

/// A case.
pub(crate) struct Case {
    /// Its name, a sentence.
    pub(crate) name: &'static str,
    /// What it needs.
    pub(crate) needs: Needs,
    /// Walks through it, and gives the figures to tell.
    pub(crate) run: fn(&Lab) -> Result<String>,
}

/// All cases.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "applications_answer_through_their_services",
        needs: Needs::Cluster,
        run: failover_task::applications_answer,
    },
    Case { name: "the_failover_task_loses_no_request", needs: Needs::Understudy, run: failover_task::walk },
    Case {
        name: "without_retries_the_failover_task_loses_exactly_one_request",
        needs: Needs::Understudy,
        run: failover_task::walk_without_retries,
    },
    Case { name: "one_bad_pod_of_three_is_ejected_alone", needs: Needs::Understudy, run: bad_pod::run },
    Case {
        name: "scaled_to_zero_the_fallback_serves_at_once",
        needs: Needs::Understudy,
        run: scaled_to_zero::run,
    },
    Case {
        name: "a_tcp_route_with_a_dead_primary_fails_over_at_its_first_connection",
        needs: Needs::Understudy,
        run: tcp_failover::run,
    },
    Case {
        name: "a_route_edited_under_traffic_loses_no_request",
        needs: Needs::Understudy,
        run: new_routes::edited_under_traffic,
    },
    Case {
        name: "a_new_route_answers_soon_beside_many",
        needs: Needs::Understudy,
        run: new_routes::new_routes_answer,
    },
    Case {
        name: "a_class_says_of_what_type_the_services_of_its_gateways_are",
        needs: Needs::Understudy,
        run: class_parameters::run,
    },
    Case {
        name: "a_rolling_update_under_load_loses_no_request",
        needs: Needs::Understudy,
        run: rolling_update::run,
    },
    Case {
        name: "with_host_ports_a_rolling_update_under_load_loses_no_request",
        needs: Needs::OwnCluster,
        run: rolling_update::run_with_host_ports,
    },
    Case { name: "the_chart_gives_what_the_manifests_give", needs: Needs::OwnCluster, run: chart::run },
    Case {
        name: "of_two_controllers_one_writes_and_the_other_takes_over",
        needs: Needs::OwnCluster,
        run: two_controllers::run,
    },
    Case {
        name: "without_an_api_server_failover_loses_no_request",
        needs: Needs::OwnCluster,
        run: api_server_absent::run,
    },
    Case {
        name: "a_thousand_routes_are_counted_in_few_writes",
        needs: Needs::OwnCluster,
        run: thousand_routes::run,
    },
];
