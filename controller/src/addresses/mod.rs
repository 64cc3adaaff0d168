//! Addresses of Gateways: the Service that leads to each, its endpoints, and what its status says.
//!
//! Inputs: passes over the cluster, and the pods that serve. Outputs: a Service for each Gateway, in the Gateway's
//! namespace and without a selector, with EndpointSlices that hold the pods of the DaemonSet; and for each Gateway the
//! addresses that work.
//!
//! The Service is also the record of which container port a listener has: every sidecar reads it there, and only the
//! leader writes it. Why it is like this: `docs/decisions/0014-a-service-for-each-gateway.md`.

mod names;
mod parameters;
mod peers;
mod plan;
mod ports;
mod requested;
mod service;
mod slices;
mod status;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use parameters::{
    ClassParameters, GATEWAY_PARAMETERS, ServiceType, StatusAddresses, WrongParameter,
    resolve_gateway_parameters, resolve_parameters,
};
pub(crate) use peers::{Peers, follow_peers};
pub use ports::HeldPorts;
pub(crate) use ports::{PortMap, Transport, container_ports, foreign_service};
pub(crate) use requested::{RequestedAddresses, UnusableAddress, requested_addresses};
pub(crate) use status::{Addresses, GatewayAddress, follow_addresses};
pub(crate) use writer::{Signs, run};
