//! The data plane: Pingora carries the requests, this crate says where they go.
//!
//! Purpose: serve what stands in the state directory. Inputs: the state, clients' connections, answers of name
//! servers. Outputs: requests to endpoints, the log of them, metrics and reports.

mod check;
mod driver;
mod guard;
mod l4;
mod reporter;
mod server;
mod service;
mod upstream_h2;
mod upstream_tls;
mod world;

pub mod access_log;
pub mod admin;
pub mod clock;
mod decimal;
pub mod listeners;
pub mod metrics;
pub mod resolver;
pub mod source;
pub mod workers;

pub use access_log::LogFormat;
pub use server::{AccessLogOptions, H2_IDLE, ProxyError, ProxyOptions, run};
