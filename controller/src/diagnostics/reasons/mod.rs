//! One constructor for each thing that is said.

mod certificates;
mod failover;
mod gateways;
mod policies;
mod reading;
mod routes;
mod values;

pub(crate) use certificates::*;
pub(crate) use failover::*;
pub(crate) use gateways::*;
pub(crate) use policies::*;
pub(crate) use reading::*;
pub(crate) use routes::*;
pub(crate) use values::*;

/// "Did you mean X?" where something near is known, else a remedy.
fn suggest(near: Option<&str>, remedy: impl Into<String>) -> String {
    near.map_or_else(|| remedy.into(), |near| format!("Did you mean {near}?"))
}
