//! What is told of the switches in a proxy's reports: which Events, on which objects, and how many at most. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use understudy_conf::{Reports, Switch, SwitchKind};

use crate::visible::budget::Bucket;
use crate::visible::subject::Subject;

/// Events on one object at once, and how long one more takes.
const OBJECT_BURST: u32 = 5;
const OBJECT_EVERY: Duration = Duration::from_secs(30);
/// Events of this sidecar at once, and how long one more takes.
const SIDECAR_BURST: u32 = 20;
const SIDECAR_EVERY: Duration = Duration::from_millis(200);
/// Objects whose Events are counted. Beyond that, those of whom nothing was told lately are forgotten.
const MAX_OBJECTS: usize = 4096;
/// A note has at most 1 kB.
const MAX_NOTE: usize = 1000;

/// An Event to write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) subject: Subject,
    pub(crate) is_warning: bool,
    pub(crate) reason: &'static str,
    /// Events of one object and reason that agree in this are one, seen again.
    pub(crate) series: String,
    pub(crate) note: String,
    /// It says of others that were left out, so it must not be counted as one of a series that was written before.
    pub(crate) stands_alone: bool,
    /// When it happened, in milliseconds since 1970.
    pub(crate) at_ms: u64,
}

/// Remembers what was told.
pub(crate) struct Teller {
    node: String,
    /// What happened before this, in milliseconds since 1970, was somebody else's to tell.
    since_ms: u64,
    /// When the proxy started, and the last of its switches that was seen.
    seen: Option<(u64, u64)>,
    sidecar: Bucket,
    objects: BTreeMap<Subject, OfObject>,
}

struct OfObject {
    bucket: Bucket,
    left_out: u64,
}

impl Teller {
    pub(crate) fn new(node: &str, since_ms: u64, now: Duration) -> Self {
        Self {
            node: node.to_owned(),
            since_ms,
            seen: None,
            sidecar: Bucket::new(SIDECAR_BURST, SIDECAR_EVERY, now),
            objects: BTreeMap::new(),
        }
    }

    /// The switches that were not there the last time.
    pub(crate) fn news<'r>(&mut self, reports: &'r Reports) -> Vec<&'r Switch> {
        let is_new = |switch: &&Switch| match self.seen {
            Some((started, seq)) if started == reports.started_ms => switch.seq > seq,
            _ => switch.at_ms >= self.since_ms,
        };
        let news = reports.switches.iter().filter(is_new).collect();
        let last = reports.switches.last().map_or(0, |last| last.seq);
        self.seen = Some((reports.started_ms, last));
        news
    }

    /// The Events of some switches, as far as the budget allows.
    pub(crate) fn tell(
        &mut self,
        news: &[&Switch],
        pods: &BTreeMap<String, String>,
        now: Duration,
    ) -> Vec<Told> {
        let mut told = Vec::new();
        for switch in news {
            let Some((route, rule)) = Subject::of_pool(switch.pool.as_str()) else { continue };
            let of_backends = switch.backends.iter().filter_map(|origin| Subject::of_origin(origin));
            let subjects: BTreeSet<Subject> = of_backends.chain([route]).collect();
            let note = note(switch, &rule, &self.node, pods);
            for subject in subjects {
                let Some(left_out) = self.admit(&subject, now) else { continue };
                let more = match left_out {
                    0 => String::new(),
                    count => format!(" ({count} more events of this object were left out before)"),
                };
                let (reason, is_warning) = reason(switch.kind);
                let text = cut(&note, MAX_NOTE - more.len());
                told.push(Told {
                    subject,
                    is_warning,
                    reason,
                    series: series(switch),
                    note: format!("{text}{more}"),
                    stands_alone: left_out > 0,
                    at_ms: switch.at_ms,
                });
            }
        }
        told
    }

    /// Whether an Event on an object may be written, and how many were not before.
    fn admit(&mut self, subject: &Subject, now: Duration) -> Option<u64> {
        if !self.objects.contains_key(subject) && self.objects.len() >= MAX_OBJECTS {
            self.objects.retain(|_, object| !object.bucket.is_full(now));
            if self.objects.len() >= MAX_OBJECTS {
                return None;
            }
        }
        let fresh = || OfObject { bucket: Bucket::new(OBJECT_BURST, OBJECT_EVERY, now), left_out: 0 };
        let object = self.objects.entry(subject.clone()).or_insert_with(fresh);
        // The object's own bucket first: what it may not have anyway costs the others nothing.
        if object.bucket.ready_at(now) <= now && self.sidecar.take(now) {
            object.bucket.take(now);
            Some(std::mem::take(&mut object.left_out))
        } else {
            object.left_out += 1;
            None
        }
    }
}

fn reason(kind: SwitchKind) -> (&'static str, bool) {
    match kind {
        SwitchKind::Failover => ("Failover", true),
        SwitchKind::Failback => ("Failback", false),
        SwitchKind::Ejection => ("Ejected", true),
        SwitchKind::Return => ("Returned", false),
        SwitchKind::Unhealthy => ("Unhealthy", true),
        SwitchKind::Healthy => ("Healthy", false),
    }
}

/// Where, and for what cause; times, which differ each time, aside.
fn series(switch: &Switch) -> String {
    let cause = switch.cause.split(';').next().unwrap_or_default();
    format!("{} {} {cause}", switch.pool, switch.endpoint.as_deref().unwrap_or_default())
}

fn note(switch: &Switch, rule: &str, node: &str, pods: &BTreeMap<String, String>) -> String {
    let lasted = seconds(switch.lasted_ms);
    let address = switch.endpoint.as_deref().unwrap_or("an endpoint");
    let pod = pods.get(address).map(|pod| format!(" (pod {pod})")).unwrap_or_default();
    let of = match switch.backends.as_slice() {
        [] => String::new(),
        backends => format!(" of {}", backends.join(", ")),
    };
    let cause = &switch.cause;
    match switch.kind {
        SwitchKind::Failover => format!(
            "on node {node}, {rule} serves from its fallback pool: {cause}. The primary pool had served for {lasted}"
        ),
        SwitchKind::Failback => {
            format!("on node {node}, {rule} serves from its primary pool again after {lasted}: {cause}")
        }
        SwitchKind::Ejection => {
            format!("on node {node}, endpoint {address}{pod}{of} is ejected from {rule}: {cause}")
        }
        SwitchKind::Return => {
            format!("on node {node}, endpoint {address}{pod}{of} is back in {rule} after {lasted}: {cause}")
        }
        SwitchKind::Unhealthy => {
            format!("on node {node}, endpoint {address}{pod}{of} fails its active check for {rule}: {cause}")
        }
        SwitchKind::Healthy => {
            format!(
                "on node {node}, endpoint {address}{pod}{of} passes its active check for {rule} after {lasted}"
            )
        }
    }
}

fn seconds(millis: u64) -> String {
    if millis < 10_000 {
        format!("{}.{} s", millis / 1000, millis % 1000 / 100)
    } else {
        format!("{} s", millis / 1000)
    }
}

/// The text, shortened to so many bytes.
pub(crate) fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use understudy_conf::PoolName;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const START: u64 = 1_000_000;

    fn switch(seq: u64, kind: SwitchKind) -> Switch {
        Switch {
            seq,
            at_ms: START + seq,
            kind,
            pool: PoolName::new("httproute/default/ha-example/rule/0").unwrap(),
            endpoint: Some("10.244.0.7:3000".to_owned()),
            backends: vec!["backend/default/active".to_owned()],
            cause: "connection refused; out for 30s, then on trial".to_owned(),
            lasted_ms: 12_345,
        }
    }

    fn reports(switches: Vec<Switch>) -> Reports {
        Reports { started_ms: 7, switches, ..Reports::default() }
    }

    fn tell(teller: &mut Teller, reports: &Reports, now: Duration) -> Vec<Told> {
        let news = teller.news(reports);
        teller.tell(&news, &BTreeMap::new(), now)
    }

    fn teller() -> Teller {
        Teller::new("n1", START, Duration::ZERO)
    }

    #[test]
    fn an_ejection_is_told_on_the_route_and_on_the_backend_with_all_that_matters() {
        let reports = reports(vec![switch(1, SwitchKind::Ejection)]);
        let mut teller = teller();
        let news = teller.news(&reports);
        let pods = BTreeMap::from([("10.244.0.7:3000".to_owned(), "active-x".to_owned())]);
        let told = teller.tell(&news, &pods, SECOND);
        let subjects: Vec<String> = told.iter().map(|told| told.subject.to_string()).collect();
        assert_eq!(subjects, ["Backend default/active", "HTTPRoute default/ha-example"]);
        assert_eq!((told[0].reason, told[0].is_warning, told[0].at_ms), ("Ejected", true, START + 1));
        assert_eq!(
            told[0].note,
            "on node n1, endpoint 10.244.0.7:3000 (pod active-x) of backend/default/active is ejected from rule 0 of \
             HTTPRoute default/ha-example: connection refused; out for 30s, then on trial"
        );
    }

    #[test]
    fn a_failover_of_a_tcp_route_is_told_on_that_route() {
        let pool = PoolName::new("tcproute/default/db/rule/0").unwrap();
        let reports = reports(vec![Switch { pool, ..switch(1, SwitchKind::Failover) }]);
        let told = tell(&mut teller(), &reports, SECOND);
        let on_route: Vec<_> =
            told.iter().filter(|told| told.subject.kind() == "TCPRoute").map(|told| &told.note).collect();
        assert_eq!(on_route.len(), 1, "{told:?}");
        assert!(
            on_route[0].contains("rule 0 of TCPRoute default/db serves from its fallback pool"),
            "{told:?}"
        );
    }

    #[test]
    fn every_kind_of_switch_has_its_reason_and_a_failover_names_cause_and_duration() {
        for (kind, reason, part) in [
            (SwitchKind::Failover, "Failover", "serves from its fallback pool: connection refused"),
            (SwitchKind::Failback, "Failback", "serves from its primary pool again after 12 s"),
            (SwitchKind::Ejection, "Ejected", "is ejected"),
            (SwitchKind::Return, "Returned", "is back in rule 0"),
            (SwitchKind::Unhealthy, "Unhealthy", "fails its active check"),
            (SwitchKind::Healthy, "Healthy", "passes its active check"),
        ] {
            let told = tell(&mut teller(), &reports(vec![switch(1, kind)]), SECOND);
            assert_eq!(told[0].reason, reason);
            assert!(told[0].note.contains(part) && told[0].note.contains("n1"), "{}", told[0].note);
        }
    }

    #[test]
    fn nothing_is_told_twice_and_nothing_from_before_the_start() {
        let mut teller = teller();
        let mut old = switch(1, SwitchKind::Failover);
        old.at_ms = START - 1;
        let mut all = vec![old, switch(2, SwitchKind::Failback)];
        assert_eq!(tell(&mut teller, &reports(all.clone()), SECOND).len(), 2, "the failback on both objects");
        assert!(tell(&mut teller, &reports(all.clone()), SECOND).is_empty());
        all.push(switch(3, SwitchKind::Failover));
        let told = tell(&mut teller, &reports(all), SECOND);
        assert!(told.len() == 2 && told.iter().all(|told| told.reason == "Failover"));
        // Another proxy counts from 1 again.
        let restarted = Reports { started_ms: 8, ..reports(vec![switch(1, SwitchKind::Failover)]) };
        assert_eq!(tell(&mut teller, &restarted, SECOND).len(), 2);
        assert!(tell(&mut teller, &restarted, SECOND).is_empty());
    }

    #[test]
    fn a_flapping_endpoint_is_told_five_times_and_then_every_thirty_seconds_with_what_was_left_out() {
        let mut teller = teller();
        let mut on_backend = Vec::new();
        for second in 1..=120_u64 {
            let kind = if second % 2 == 0 { SwitchKind::Return } else { SwitchKind::Ejection };
            let told = tell(&mut teller, &reports(vec![switch(second, kind)]), SECOND * second as u32);
            on_backend.extend(told.into_iter().filter(|told| matches!(told.subject, Subject::Backend(_))));
        }
        assert_eq!(on_backend.len(), 5 + 3);
        assert!(on_backend[5].stands_alone && !on_backend[4].stands_alone);
        assert!(on_backend[5].note.ends_with("(25 more events of this object were left out before)"));
    }

    #[test]
    fn a_cause_without_end_is_cut_to_what_a_note_may_have() {
        let mut long = switch(1, SwitchKind::Failover);
        long.cause = "ü".repeat(5000);
        let told = tell(&mut teller(), &reports(vec![long]), SECOND);
        assert!(told[0].note.len() <= MAX_NOTE && told[0].note.ends_with('…'));
    }

    proptest! {
        #[test]
        fn whatever_happens_the_rates_hold_for_each_object_and_for_all(
            steps in proptest::collection::vec((0..5_000_u64, 0..50_usize, 0..40_usize), 1..60)
        ) {
            let mut teller = teller();
            let (mut now, mut seq) = (Duration::ZERO, 0);
            let mut per_object: BTreeMap<Subject, u128> = BTreeMap::new();
            let mut all = 0_u128;
            for (millis, count, route) in steps {
                now += Duration::from_millis(millis);
                let switches = (0..count).map(|_| {
                    seq += 1;
                    let mut switch = switch(seq, SwitchKind::Ejection);
                    switch.pool = PoolName::new(format!("httproute/default/r{route}/rule/0")).unwrap();
                    switch.backends = vec![format!("backend/default/b{}", route % 3)];
                    switch
                });
                for told in tell(&mut teller, &reports(switches.collect()), now) {
                    all += 1;
                    *per_object.entry(told.subject).or_default() += 1;
                }
                let earned = |every: Duration| now.as_nanos() / every.as_nanos();
                prop_assert!(all <= u128::from(SIDECAR_BURST) + earned(SIDECAR_EVERY));
                let most = per_object.values().max().copied().unwrap_or(0);
                prop_assert!(most <= u128::from(OBJECT_BURST) + earned(OBJECT_EVERY));
            }
        }
    }
}
