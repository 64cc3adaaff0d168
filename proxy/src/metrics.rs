//! What is counted, for Prometheus.
//!
//! Purpose: a bounded number of series, at the price of a few atomic additions a request. Inputs: events of the
//! data plane. Outputs: the text of `/metrics`. Labels are resolved once, when a world is built
//! ([`Metrics::rule`], [`Metrics::pool`]); a request adds to handles only. What there is once per route or pool has
//! counters of its own (see `named`): a registry's would take twenty times the memory.

mod named;

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use named::{Counter, Level};
use named::{Named, Series, write_family};

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Upper bounds of the duration's buckets, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0];

/// How an attempt at an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// An answer below 500.
    Success,
    /// An answer of 500 or above.
    ServerError,
    /// No connection: refused, timed out.
    ConnectFailed,
    /// A pooled connection was dead before a byte was sent.
    StalePooled,
    /// The endpoint refused the HTTP/2 stream.
    Refused,
    /// The connection ended, or the answer was no HTTP, before its headers were complete.
    Reset,
    /// A timeout fired.
    Timeout,
    /// The answer was cut in its body.
    Body,
    /// The client went away first.
    Cancelled,
    /// TLS could not be agreed on.
    TlsFailed,
    /// The endpoint's certificate was not accepted.
    CertificateRefused,
}

impl AttemptOutcome {
    const ALL: [(Self, &'static str); 11] = [
        (Self::Success, "success"),
        (Self::ServerError, "server_error"),
        (Self::ConnectFailed, "connect_failed"),
        (Self::StalePooled, "stale_pooled"),
        (Self::Refused, "refused"),
        (Self::Reset, "reset"),
        (Self::Timeout, "timeout"),
        (Self::Body, "body"),
        (Self::Cancelled, "cancelled"),
        (Self::TlsFailed, "tls_failed"),
        (Self::CertificateRefused, "certificate_refused"),
    ];
}

/// What a request of the proxy's own was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// To see whether an endpoint on trial answers.
    Trial,
    /// An active health check.
    Check,
}

/// Why metrics cannot be set up or written.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    routes: Named<RuleCounters>,
    pools: Named<PoolCounters>,
    duration: Histogram,
    /// By kind, failed and passed.
    probes: [[IntCounter; 2]; 2],
    /// Attempts after the first.
    pub retries: IntCounter,
    mirrors: [IntCounter; MirrorOutcome::ALL.len()],
    lost_datagrams: [IntCounter; DatagramLoss::ALL.len()],
    /// Sessions of UDP that are open.
    pub udp_sessions: IntGauge,
    /// Lines of the access log that were dropped, because its writer could not keep up.
    pub log_dropped: IntCounter,
    /// Look-ups of names that failed.
    pub dns_failures: IntGauge,
    /// Clients' connections that are open.
    pub connections: IntGauge,
    /// The version of the state that is served; 0 before the first.
    pub state_version: IntGauge,
    /// 1 while the newest state on disk is not served.
    pub state_refused: IntGauge,
    /// Seconds from finding the state that is served to serving it.
    pub state_taken: Gauge,
}

/// How the copy of a request for a mirror ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorOutcome {
    /// The mirror answered, whatever it said.
    Answered,
    /// The connection failed, or ended too early.
    Failed,
    /// A time limit was reached.
    Timeout,
    /// There were too many copies under way, or the mirror was too slow for the body.
    Dropped,
    /// The mirror has no endpoint, or no room.
    NoEndpoint,
    /// The request itself ended before its body did.
    Incomplete,
}

impl MirrorOutcome {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Answered, "answered"),
        (Self::Failed, "failed"),
        (Self::Timeout, "timeout"),
        (Self::Dropped, "dropped"),
        (Self::NoEndpoint, "no_endpoint"),
        (Self::Incomplete, "incomplete"),
    ];
}

/// Counters of one route.
#[derive(Clone)]
pub struct RuleMetrics {
    counters: Arc<RuleCounters>,
    duration: Histogram,
}

#[derive(Default)]
struct RuleCounters {
    classes: [Counter; CLASSES.len()],
    /// Of routes that carry no HTTP.
    streams: OnceLock<Box<StreamCounters>>,
}

/// How a connection, or a session of UDP, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamOutcome {
    /// By its client or its endpoint.
    Ended,
    /// Nothing moved for too long.
    Idle,
    /// The connection to the endpoint broke.
    EndpointFailed,
    /// The connection to the client broke.
    ClientFailed,
    /// No endpoint could be connected to.
    ConnectFailed,
    /// There was no endpoint.
    NoEndpoint,
    /// A limit of the pool was reached.
    Overflow,
}

impl StreamOutcome {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Ended, "ended"),
        (Self::Idle, "idle"),
        (Self::EndpointFailed, "endpoint_failed"),
        (Self::ClientFailed, "client_failed"),
        (Self::ConnectFailed, "connect_failed"),
        (Self::NoEndpoint, "no_endpoint"),
        (Self::Overflow, "overflow"),
    ];
}

/// What is counted of a route that carries no HTTP.
#[derive(Default)]
pub struct StreamCounters {
    outcomes: [Counter; StreamOutcome::ALL.len()],
    /// Bytes from clients to endpoints.
    pub received: Counter,
    /// Bytes from endpoints to clients.
    pub sent: Counter,
}

impl StreamCounters {
    /// Counts a connection, or a session of UDP, at its end.
    pub fn count_end(&self, outcome: StreamOutcome) {
        self.outcomes[outcome as usize].inc();
    }
}

/// Why a datagram went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramLoss {
    /// Its listener has no route, or one that cannot act.
    NoRoute,
    /// Its listener has as many sessions as it may have.
    Sessions,
    /// No endpoint could take it.
    NoEndpoint,
    /// It came faster than it could be sent on.
    Busy,
}

impl DatagramLoss {
    const ALL: [(Self, &'static str); 4] = [
        (Self::NoRoute, "no_route"),
        (Self::Sessions, "sessions"),
        (Self::NoEndpoint, "no_endpoint"),
        (Self::Busy, "busy"),
    ];
}

impl RuleMetrics {
    /// The counters of a route that carries no HTTP.
    pub fn streams(&self) -> &StreamCounters {
        self.counters.streams.get_or_init(Box::default)
    }

    /// Counts a request that was answered with `status` after `duration`.
    pub fn count_request(&self, status: u16, duration: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.counters.classes[class].inc();
        self.duration.observe(duration.as_secs_f64());
    }
}

/// Counters of one pool.
#[derive(Clone)]
pub struct PoolMetrics(Arc<PoolCounters>);

impl Deref for PoolMetrics {
    type Target = PoolCounters;

    fn deref(&self) -> &PoolCounters {
        &self.0
    }
}

/// What is counted of one pool.
#[derive(Default)]
pub struct PoolCounters {
    attempts: [Counter; AttemptOutcome::ALL.len()],
    /// Switches from the primary pool to a fallback.
    pub failovers: Counter,
    /// Switches back.
    pub failbacks: Counter,
    /// Endpoints that were ejected.
    pub ejections: Counter,
    /// The priority that serves: 0 the primary pool, 1 the fallback; -1: nothing can serve.
    pub serving: Level,
}

impl PoolCounters {
    /// Counts an attempt.
    pub fn count_attempt(&self, outcome: AttemptOutcome) {
        self.attempts[outcome as usize].inc();
    }
}

impl Metrics {
    /// All metrics, at zero. `version` is the program's.
    ///
    /// # Errors
    /// [`MetricsError`] if a name is registered twice, which no input can cause.
    pub fn new(version: &str) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, MetricsError> {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, MetricsError> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, MetricsError> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let duration = Histogram::with_opts(
            HistogramOpts::new("understudy_request_duration_seconds", "Time to the end of the answer.")
                .buckets(BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(duration.clone()))?;
        let state_taken = Gauge::new(
            "understudy_state_taken_seconds",
            "Time from finding the state that is served to serving it.",
        )?;
        registry.register(Box::new(state_taken.clone()))?;
        let probes = counters("understudy_probes_total", "Probes of endpoints.", &["kind", "result"])?;
        let mirrors = counters("understudy_mirrors_total", "Copies of requests for mirrors.", &["outcome"])?;
        let lost =
            counters("understudy_udp_datagrams_lost_total", "Datagrams that went nowhere.", &["reason"])?;
        let build = IntGaugeVec::new(Opts::new("understudy_build_info", "Always 1."), &["version"])?;
        registry.register(Box::new(build.clone()))?;
        build.with_label_values(&[version]).set(1);
        Ok(Self {
            routes: Named::default(),
            pools: Named::default(),
            duration,
            probes: ["trial", "check"]
                .map(|kind| ["failed", "passed"].map(|result| probes.with_label_values(&[kind, result]))),
            mirrors: MirrorOutcome::ALL.map(|(_, outcome)| mirrors.with_label_values(&[outcome])),
            lost_datagrams: DatagramLoss::ALL.map(|(_, reason)| lost.with_label_values(&[reason])),
            udp_sessions: gauge("understudy_udp_sessions", "Open sessions of UDP.")?,
            retries: counter("understudy_retries_total", "Attempts after the first.")?,
            log_dropped: counter("understudy_access_log_dropped_total", "Lines that were not written.")?,
            dns_failures: gauge("understudy_dns_failures", "Look-ups of names that failed so far.")?,
            connections: gauge("understudy_connections", "Open connections of clients.")?,
            state_version: gauge("understudy_state_version", "The version that is served; 0: none yet.")?,
            state_refused: gauge("understudy_state_refused", "1 while the newest state is not served.")?,
            state_taken,
            registry,
        })
    }

    /// Counts the copy of a request.
    pub fn count_mirror(&self, outcome: MirrorOutcome) {
        self.mirrors[outcome as usize].inc();
    }

    /// Counts a datagram that went nowhere.
    pub fn count_loss(&self, reason: DatagramLoss) {
        self.lost_datagrams[reason as usize].inc();
    }

    /// Counts a probe.
    pub fn count_probe(&self, kind: ProbeKind, passed: bool) {
        self.probes[kind as usize][usize::from(passed)].inc();
    }

    /// The handles of a route. Asked for again, it gives the same counters.
    #[must_use]
    pub fn rule(&self, route: &str) -> RuleMetrics {
        RuleMetrics { counters: self.routes.of(route), duration: self.duration.clone() }
    }

    /// The handles of a pool. Asked for again, it gives the same counters.
    #[must_use]
    pub fn pool(&self, pool: &str) -> PoolMetrics {
        PoolMetrics(self.pools.of(pool))
    }

    /// Drops the series of all routes and pools whose handles nobody has. Called with a new world, once the one before
    /// is gone.
    pub fn forget_unused(&self) {
        self.routes.forget_unused();
        self.pools.forget_unused();
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// [`MetricsError`] if they cannot be written down.
    pub fn encode(&self) -> Result<String, MetricsError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        let mut text = String::from_utf8_lossy(&text).into_owned();
        self.write_routes(&mut text);
        self.write_streams(&mut text);
        self.write_pools(&mut text);
        Ok(text)
    }

    fn write_routes(&self, text: &mut String) {
        let routes = self.routes.all();
        write_family(text, &Series::counter("understudy_requests_total", "Requests answered."), |sample| {
            for (route, counters) in &routes {
                for (class, counter) in CLASSES.iter().zip(&counters.classes) {
                    sample(&[("code_class", *class), ("route", &**route)], counter.value());
                }
            }
        });
    }

    fn write_streams(&self, text: &mut String) {
        let routes = self.routes.all();
        let streams: Vec<_> =
            routes.iter().filter_map(|(route, counters)| Some((route, counters.streams.get()?))).collect();
        if streams.is_empty() {
            return;
        }
        let ended =
            Series::counter("understudy_streams_total", "Connections and sessions without HTTP that ended.");
        write_family(text, &ended, |sample| {
            for (route, counters) in &streams {
                for ((_, outcome), counter) in StreamOutcome::ALL.iter().zip(&counters.outcomes) {
                    sample(&[("outcome", *outcome), ("route", &***route)], counter.value());
                }
            }
        });
        let bytes = Series::counter("understudy_stream_bytes_total", "Bytes that were carried without HTTP.");
        write_family(text, &bytes, |sample| {
            for (route, counters) in &streams {
                for (direction, counter) in [("received", &counters.received), ("sent", &counters.sent)] {
                    sample(&[("direction", direction), ("route", &***route)], counter.value());
                }
            }
        });
    }

    fn write_pools(&self, text: &mut String) {
        let pools = self.pools.all();
        let attempts = Series::counter("understudy_upstream_attempts_total", "Attempts at endpoints.");
        write_family(text, &attempts, |sample| {
            for (pool, counters) in &pools {
                for ((_, outcome), counter) in AttemptOutcome::ALL.iter().zip(&counters.attempts) {
                    sample(&[("outcome", *outcome), ("pool", &**pool)], counter.value());
                }
            }
        });
        let mut of_pool = |name, help, counter: fn(&PoolCounters) -> &Counter| {
            write_family(text, &Series::counter(name, help), |sample| {
                for (pool, counters) in &pools {
                    sample(&[("pool", &**pool)], counter(counters).value());
                }
            });
        };
        of_pool("understudy_failovers_total", "Switches to a fallback pool.", |pool| &pool.failovers);
        of_pool("understudy_failbacks_total", "Switches to the primary pool.", |pool| &pool.failbacks);
        of_pool("understudy_ejections_total", "Endpoints ejected.", |pool| &pool.ejections);
        let help = "The priority that serves: 0 primary, 1 fallback, -1 none.";
        write_family(text, &Series::gauge("understudy_pool_serving", help), |sample| {
            for (pool, counters) in &pools {
                sample(&[("pool", &**pool)], counters.serving.value());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::named::MAX_NAMES;
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("1.2.3").unwrap()
    }

    #[test]
    fn requests_are_counted_by_route_and_class() {
        let metrics = metrics();
        let rule = metrics.rule("httproute/default/shop");
        for status in [200, 204, 404, 503, 999, 0] {
            rule.count_request(status, Duration::from_millis(3));
        }
        metrics.rule("httproute/default/shop").count_request(200, Duration::from_secs(60));
        let text = metrics.encode().unwrap();
        for (class, count) in [("1xx", 1), ("2xx", 3), ("3xx", 0), ("4xx", 1), ("5xx", 2)] {
            let line = format!(
                "understudy_requests_total{{code_class=\"{class}\",route=\"httproute/default/shop\"}} {count}\n"
            );
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains("understudy_request_duration_seconds_bucket{le=\"0.005\"} 6\n"), "{text}");
        assert!(text.contains("understudy_request_duration_seconds_count 7\n"));
        assert!(text.contains("understudy_build_info{version=\"1.2.3\"} 1\n"));
    }

    #[test]
    fn each_outcome_is_counted_under_its_own_name() {
        let metrics = metrics();
        let pool = metrics.pool("p");
        for (times, (outcome, _)) in AttemptOutcome::ALL.into_iter().enumerate() {
            for _ in 0..=times {
                pool.count_attempt(outcome);
            }
        }
        let text = metrics.encode().unwrap();
        for (times, (_, name)) in AttemptOutcome::ALL.into_iter().enumerate() {
            let line = format!(
                "understudy_upstream_attempts_total{{outcome=\"{name}\",pool=\"p\"}} {}\n",
                times + 1
            );
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn copies_for_mirrors_are_counted_by_how_they_ended() {
        let metrics = metrics();
        for (times, (outcome, _)) in MirrorOutcome::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| metrics.count_mirror(outcome));
        }
        let text = metrics.encode().unwrap();
        for (times, (_, name)) in MirrorOutcome::ALL.into_iter().enumerate() {
            let line = format!("understudy_mirrors_total{{outcome=\"{name}\"}} {}\n", times + 1);
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn probes_are_counted_by_kind_and_result() {
        let metrics = metrics();
        metrics.count_probe(ProbeKind::Trial, true);
        metrics.count_probe(ProbeKind::Check, false);
        metrics.count_probe(ProbeKind::Check, false);
        let text = metrics.encode().unwrap();
        for (kind, result, count) in
            [("trial", "passed", 1), ("trial", "failed", 0), ("check", "passed", 0), ("check", "failed", 2)]
        {
            let line = format!("understudy_probes_total{{kind=\"{kind}\",result=\"{result}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }

    #[test]
    fn series_of_removed_routes_and_pools_are_dropped() {
        let metrics = metrics();
        metrics.pool("gone").failovers.inc();
        metrics.rule("gone").count_request(200, Duration::ZERO);
        let stays = (metrics.rule("stays"), metrics.pool("stays"));
        stays.1.failovers.inc();
        metrics.forget_unused();
        let text = metrics.encode().unwrap();
        assert!(!text.contains("gone"), "{text}");
        assert!(text.contains("understudy_failovers_total{pool=\"stays\"} 1\n"), "{text}");
        assert!(text.contains("route=\"stays\""), "{text}");
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let metrics = metrics();
        let handles: Vec<_> = (0..MAX_NAMES + 500).map(|n| metrics.rule(&format!("route-{n}"))).collect();
        handles.iter().for_each(|handle| handle.count_request(200, Duration::ZERO));
        let text = metrics.encode().unwrap();
        let series = text.lines().filter(|line| line.starts_with("understudy_requests_total{")).count();
        assert_eq!(series, (MAX_NAMES + 1) * CLASSES.len());
        assert!(
            text.contains("understudy_requests_total{code_class=\"2xx\",route=\"other\"} 500\n"),
            "the rest is counted together"
        );
    }

    #[test]
    fn a_name_cannot_break_the_text() {
        let metrics = metrics();
        let rule = metrics.rule("a\"b\\c\nd");
        rule.count_request(200, Duration::ZERO);
        let line = "understudy_requests_total{code_class=\"2xx\",route=\"a\\\"b\\\\c\\nd\"} 1\n";
        let text = metrics.encode().unwrap();
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_level_of_a_pool_may_be_negative() {
        let metrics = metrics();
        let pool = metrics.pool("p");
        pool.serving.set(-1);
        let text = metrics.encode().unwrap();
        assert!(
            text.contains("# TYPE understudy_pool_serving gauge\nunderstudy_pool_serving{pool=\"p\"} -1\n")
        );
    }
}
