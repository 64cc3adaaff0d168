//! Asks name servers. Names are absolute: search domains are never tried. Nothing is cached here, since the
//! caller decides when to ask again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use understudy_conf::LookupFamily;

use super::ResolverError;
use super::answer::{Answer, Family, Plan, Round, plan};

/// How long the servers may take for one family of one name, all tries included.
const BOUND: Duration = Duration::from_secs(15);

/// Asks the servers of the system, or one that was named.
pub(super) struct Servers {
    resolver: TokioResolver,
}

impl Servers {
    pub(super) fn new(server: Option<SocketAddr>) -> Result<Self, ResolverError> {
        let mut builder = match server {
            Some(address) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
                let server = NameServerConfig::new(address.ip(), true, connections.into());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
                let options = builder.options_mut();
                options.use_hosts_file = ResolveHosts::Never;
                options.timeout = Duration::from_secs(2);
                options.attempts = 1;
                builder
            }
            None => {
                TokioResolver::builder_tokio().map_err(|error| ResolverError::System(error.to_string()))?
            }
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
            Ok(Ok(lookup)) => {
                let addresses: Vec<IpAddr> = lookup
                    .answers()
                    .iter()
                    .filter_map(|record| match (&record.data, family) {
                        (RData::A(address), Family::V4) => Some(address.0.into()),
                        (RData::AAAA(address), Family::V6) => Some(address.0.into()),
                        _ => None,
                    })
                    .collect();
                // Aliases on the way count too: the answer is as old as its oldest part.
                let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                if addresses.is_empty() {
                    Answer::Nothing
                } else {
                    Answer::Addresses { addresses, ttl: Duration::from_secs(ttl.into()) }
                }
            }
            Ok(Err(error)) => classify(&error),
            Err(_elapsed) => Answer::Failed(format!("no answer within {} s", BOUND.as_secs())),
        }
    }
}

fn classify(error: &NetError) -> Answer {
    if error.is_no_records_found() { Answer::Nothing } else { Answer::Failed(error.to_string()) }
}
