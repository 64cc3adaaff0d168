//! The pure part of the resolver, driven by messages instead of servers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::Message;
use understudy_conf::Dns;

use super::answer::{Answer, Family, Plan, Round, merge, next_lookup, plan};
use super::query::read_records;

/// What a name's addresses are after each round of look-ups, and how long until the next one, if servers sent
/// these messages one after the other. A message that cannot be read is a failure, and so is a missing one.
#[must_use]
pub fn replay(messages: &[&[u8]], dns: &Dns) -> Vec<(Arc<[IpAddr]>, Duration)> {
    let mut messages = messages.iter().peekable();
    let mut addresses: Arc<[IpAddr]> = Arc::default();
    let mut failures = 0_u32;
    let mut rounds = Vec::new();
    while messages.peek().is_some() {
        let mut ask = |family| match messages.next().map(|message| Message::from_vec(message)) {
            Some(Ok(message)) => read_records(&message.answers, family),
            Some(Err(error)) => Answer::Failed(error.to_string()),
            None => Answer::Failed("no answer".to_owned()),
        };
        let mut round = Round::default();
        match plan(dns.lookup_family) {
            Plan::Only(family) => round.set(family, ask(family)),
            Plan::FirstThen(first, second) => {
                let answer = ask(first);
                if answer == Answer::Nothing {
                    round.set(second, ask(second));
                }
                round.set(first, answer);
            }
            Plan::Both => {
                for family in [Family::V4, Family::V6] {
                    round.set(family, ask(family));
                }
            }
        }
        failures = if round.failure().is_some() { failures.saturating_add(1) } else { 0 };
        addresses = merge(&addresses, &round);
        rounds.push((Arc::clone(&addresses), next_lookup(&round, dns, failures, 0.5)));
    }
    rounds
}
