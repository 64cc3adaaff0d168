//! Which rule a request belongs to, and what is changed on its way.
//!
//! Purpose: match requests as Gateway API's HTTPRoute says, and apply its filters. Inputs: an
//! [`understudy_conf::State`], then one [`RequestParts`] after the other. Outputs: the [`CompiledRule`] of each
//! request, changed headers and paths, redirects. Pure: no network, no clock, no lock.
//!
//! [`Router::build`] sorts every match into hash maps once: socket → listener by hostname → hostname of the
//! route → path. A look-up then costs a few hashes, whatever the number of hosts and paths, and allocates
//! nothing. [`Router::update`] makes the router of the next state of it, at the price of what changed. Two things are looked at one by one: the matches that have the same host and the same path, and the
//! regular expressions of a host.
//!
//! Paths and query parameters are matched as they were received: neither percent-decoding nor removal of `.`,
//! `..` or `//` is done. Of a query parameter the first value counts; a header that stands there several times
//! counts as one, its values joined by commas. Hosts are compared without port, trailing dot and case.

mod build;
mod conditions;
mod cors;
mod filters;
mod host;
mod mirror;
mod origin;
mod path;
mod pattern;
mod redirect;
mod rewrite;
mod rule;
mod streams;
mod table;

pub use cors::CompiledCors;
pub use filters::{CompiledFilters, HeaderEdit};
pub use host::host_without_port;
pub use mirror::CompiledMirror;
pub use redirect::redirect_location;
pub use rewrite::CompiledRewrite;
pub use rule::CompiledRule;
pub use streams::StreamTable;
pub use table::{ListenerInfo, RequestParts, Router, RuleMatch, SocketTable};
