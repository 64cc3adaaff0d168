//! Addresses of Gateways: the Service that leads to each, its endpoints, and what its status says.
//!
//! Inputs: passes over the cluster, and the pods that serve. Outputs: a Service for each Gateway, in the Gateway's
//! namespace and without a selector, with EndpointSlices that hold the pods of the DaemonSet; and for each Gateway the
//! addresses that work.
//!
//! The Service is also the record of which container port a listener has: every sidecar reads it there, and only the
//! leader writes it. Why it is like this: `docs/decisions/0014-a-service-for-each-gateway.md`.

#[allow(dead_code, reason = "for the writer of Services")]
mod names;
#[allow(dead_code, reason = "for the writer of Services")]
mod parameters;
#[allow(dead_code, reason = "for the writer of Services")]
mod ports;
mod requested;

pub(crate) use parameters::{ClassParameters, ServiceType, WrongParameter, resolve_parameters};
pub(crate) use ports::recorded_ports;
pub(crate) use requested::{UnusableAddress, requested_address};
