//! Asks name servers. Names are absolute: search domains are never tried. Nothing is cached here, since the
//! caller decides when to ask again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use understudy_conf::LookupFamily;

use super::ResolverError;
use super::answer::{Answer, Family, Plan, Round, plan};

/// How long the servers may take for one family of one name, all tries included.
const BOUND: Duration = Duration::from_secs(15);

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The server of a machine that names none.
const OWN_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

type Builder = ResolverBuilder<TokioRuntimeProvider>;

/// Asks the servers of the system, or one that was named.
pub(super) struct Servers {
    resolver: TokioResolver,
}

impl Servers {
    pub(super) fn new(server: Option<SocketAddr>) -> Result<Self, ResolverError> {
        let mut builder = match server {
            Some(address) => {
                let mut builder = builder_for(address);
                let options = builder.options_mut();
                options.use_hosts_file = ResolveHosts::Never;
                options.timeout = Duration::from_secs(2);
                options.attempts = 1;
                builder
            }
            None => builder_of_system()?,
        };
        builder.options_mut().cache_size = 0;
        let resolver = builder.build().map_err(|error| ResolverError::System(error.to_string()))?;
        Ok(Self { resolver })
    }

    /// Asks for the families that `family` wants.
    pub(super) async fn ask(&self, hostname: &str, family: LookupFamily) -> Round {
        let mut round = Round::default();
        let name = match Name::from_utf8(hostname) {
            Ok(mut name) => {
                name.set_fqdn(true);
                name
            }
            Err(error) => {
                round.set(Family::V4, Answer::Failed(format!("{hostname:?} is no DNS name: {error}")));
                return round;
            }
        };
        match plan(family) {
            Plan::Only(only) => round.set(only, self.ask_for(&name, only).await),
            Plan::FirstThen(first, second) => {
                let answer = self.ask_for(&name, first).await;
                if answer == Answer::Nothing {
                    round.set(second, self.ask_for(&name, second).await);
                }
                round.set(first, answer);
            }
            Plan::Both => {
                let (v4, v6) = tokio::join!(self.ask_for(&name, Family::V4), self.ask_for(&name, Family::V6));
                round = Round { v4: Some(v4), v6: Some(v6) };
            }
        }
        round
    }

    async fn ask_for(&self, name: &Name, family: Family) -> Answer {
        let record_type = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        // A size of zero still lets the newest entries live for a moment.
        self.resolver.clear_lookup_cache(name.clone(), record_type);
        // Boxed: the future is large, and one of it lives in each name's loop.
        let asking = Box::pin(self.resolver.lookup(name.clone(), record_type));
        match tokio::time::timeout(BOUND, asking).await {
            Ok(Ok(lookup)) => read_records(lookup.answers(), family),
            Ok(Err(error)) => classify(&error),
            Err(_elapsed) => Answer::Failed(format!("no answer within {} s", BOUND.as_secs())),
        }
    }
}

/// What the records of an answer say of one family.
pub(super) fn read_records(records: &[Record], family: Family) -> Answer {
    let addresses: Vec<IpAddr> = records
        .iter()
        .filter_map(|record| match (&record.data, family) {
            (RData::A(address), Family::V4) => Some(address.0.into()),
            (RData::AAAA(address), Family::V6) => Some(address.0.into()),
            _ => None,
        })
        .collect();
    if addresses.is_empty() {
        return Answer::Nothing;
    }
    // Aliases on the way count too: the answer is as old as its oldest part.
    let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
    Answer::Addresses { addresses, ttl: Duration::from_secs(ttl.into()) }
}

fn builder_for(server: SocketAddr) -> Builder {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
}

/// A machine whose configuration names no server asks itself, as its C library would: fixed answers, addresses
/// and the hosts file work there, too.
fn builder_of_system() -> Result<Builder, ResolverError> {
    match TokioResolver::builder_tokio() {
        Ok(builder) => Ok(builder),
        Err(error) if names_no_server(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()) => {
            log::warn!("{RESOLV_CONF} names no server ({error}); {OWN_SERVER} is asked");
            Ok(builder_for(OWN_SERVER))
        }
        Err(error) => Err(ResolverError::System(error.to_string())),
    }
}

fn names_no_server(resolv_conf: &str) -> bool {
    !resolv_conf.lines().any(|line| line.trim_start().starts_with("nameserver"))
}

fn classify(error: &NetError) -> Answer {
    if error.is_no_records_found() { Answer::Nothing } else { Answer::Failed(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_without_a_server_is_told_from_a_broken_one() {
        assert!(names_no_server(""));
        assert!(names_no_server("# nameserver 10.0.0.1\nsearch example.com\n"));
        assert!(!names_no_server("search example.com\n nameserver 10.0.0.1\n"));
    }
}
