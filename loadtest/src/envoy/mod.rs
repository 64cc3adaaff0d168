//! A real Envoy to compare with: where its binary comes from, and its configuration for the manifests that
//! Understudy gets. Used by the drill and the benchmark.

mod cluster;
pub(crate) mod config;
mod health_check;
pub(crate) mod install;
