//! The data plane: Pingora carries the requests, this crate says where they go.
//!
//! Purpose: serve what stands in the state directory. Inputs: the state, clients' connections, answers of name
//! servers. Outputs: requests to endpoints, the log of them, metrics and reports.

pub mod listeners;
pub mod resolver;
pub mod workers;
