//! A proxy in this process, on real sockets, over a real state directory.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use understudy_conf::store::{Writer, read_acknowledgement};
use understudy_conf::{
    Acknowledgement, Action, Attachment, Backend, BackendName, Endpoint, EndpointAddress, Gateway,
    GatewayDuration, GatewayName, HttpFilter, HttpMatch, Listener, ListenerName, PassiveHealthCheck,
    PathMatch, Percent, Policy, PolicyName, Pool, PoolName, PoolRef, Protocol, RefTarget, Retry,
    RetryTrigger, Route, RouteKind, RouteName, Rule, RuleTimeouts, State, UpstreamProtocol,
};
use understudy_proxy::{AccessLogOptions, ProxyOptions};
use understudy_testbed::{Backend as Upstream, Client, ClientError, Request, Response};

pub const HOST: &str = "www.example.com";
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The task's settings, with times short enough for a test.
pub fn passive() -> PassiveHealthCheck {
    PassiveHealthCheck {
        base_ejection_time: GatewayDuration::from_secs(60),
        interval: GatewayDuration::from_millis(200),
        max_ejection_percent: Percent::HUNDRED,
        consecutive_5xx_errors: 1,
        consecutive_gateway_errors: 0,
        consecutive_local_origin_failures: 1,
        split_external_local_origin_errors: false,
        failure_percentage_threshold: None,
    }
}

pub fn policy() -> Policy {
    Policy { passive: Some(passive()), ..Policy::unset(PolicyName::new("policy").unwrap()) }
}

pub fn retry(triggers: &[RetryTrigger]) -> Retry {
    Retry { triggers: triggers.iter().copied().collect(), ..Retry::default() }
}

pub fn no_retry() -> Retry {
    Retry { num_retries: 0, ..Retry::default() }
}

pub fn millis(millis: u64) -> GatewayDuration {
    GatewayDuration::from_millis(millis)
}

/// A world with one gateway, one route and one pool, to be changed before it is written.
#[derive(Clone)]
pub struct Setup {
    pub gateway: SocketAddr,
    pub policy: Option<Policy>,
    pub timeouts: Option<RuleTimeouts>,
    pub filters: Vec<HttpFilter>,
    pub refs: Vec<(u32, Vec<EndpointAddress>)>,
    pub ref_filters: Vec<HttpFilter>,
    /// The prefix that the route matches.
    pub path: String,
    /// Priorities whose endpoints speak HTTP/2.
    pub h2: Vec<u32>,
}

impl Setup {
    pub fn new(primary: &[SocketAddr], fallback: &[SocketAddr]) -> Self {
        let addresses =
            |addresses: &[SocketAddr]| addresses.iter().map(|address| (*address).into()).collect();
        Self {
            gateway: free_address(),
            policy: Some(policy()),
            timeouts: None,
            filters: Vec::new(),
            refs: vec![(0, addresses(primary)), (1, addresses(fallback))],
            ref_filters: Vec::new(),
            path: "/test".to_owned(),
            h2: Vec::new(),
        }
    }

    /// All endpoints speak HTTP/2.
    pub fn over_h2(mut self) -> Self {
        self.h2 = vec![0, 1];
        self
    }

    pub fn with_retry(mut self, retry: Retry) -> Self {
        if let Some(policy) = &mut self.policy {
            policy.retry = Some(retry);
        }
        self
    }

    pub fn with_request_timeout(mut self, timeout: GatewayDuration) -> Self {
        self.timeouts = Some(RuleTimeouts { request: Some(timeout), backend_request: None });
        self
    }

    pub fn change_policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(self.policy.as_mut().unwrap());
        self
    }

    pub fn state(&self) -> State {
        let mut state = State::default();
        add_gateway(&mut state, "gateway/default/eg", &[self.gateway]);
        let mut refs = Vec::new();
        for (index, (priority, addresses)) in self.refs.iter().enumerate() {
            let name = BackendName::new(format!("backend/default/{index}")).unwrap();
            let endpoints = addresses.iter().cloned().map(Endpoint::at).collect();
            let h2 = self.h2.contains(priority);
            let protocol = if h2 { UpstreamProtocol::H2c } else { UpstreamProtocol::Http1 };
            let backend = Backend { name: name.clone(), protocol, tls: None, endpoints };
            state.backends.insert(name.clone(), Arc::new(backend));
            refs.push(PoolRef {
                target: RefTarget::Backend(name),
                priority: *priority,
                weight: 1,
                filters: self.ref_filters.clone(),
            });
        }
        if let Some(policy) = &self.policy {
            state.policies.insert(policy.name.clone(), Arc::new(policy.clone()));
        }
        let policy = self.policy.as_ref().map(|policy| policy.name.clone());
        add_route(&mut state, "ha-example", "gateway/default/eg", refs, policy);
        let route = state.routes.values_mut().next().unwrap();
        let rule = &mut Arc::make_mut(route).rules[0];
        rule.matches[0].path = PathMatch::Prefix(self.path.clone());
        rule.timeouts = self.timeouts;
        rule.filters.clone_from(&self.filters);
        state
    }

    pub async fn start(&self) -> Proxy {
        Proxy::start(&self.state(), Vec::new(), None).await
    }
}

pub fn add_gateway(state: &mut State, name: &str, bind: &[SocketAddr]) {
    let name = GatewayName::new(name).unwrap();
    let listener = Listener {
        name: ListenerName::new("http").unwrap(),
        port: 80,
        bind: bind.to_vec(),
        protocol: Protocol::Http,
        hostname: None,
        tls: None,
    };
    state.gateways.insert(name.clone(), Arc::new(Gateway { name, listeners: vec![listener] }));
}

pub fn add_route(
    state: &mut State,
    name: &str,
    gateway: &str,
    refs: Vec<PoolRef>,
    policy: Option<PolicyName>,
) {
    let pool = PoolName::new(format!("httproute/default/{name}/rule/0")).unwrap();
    state.pools.insert(pool.clone(), Arc::new(Pool { name: pool.clone(), policy, refs }));
    let matches = HttpMatch {
        path: PathMatch::Prefix("/test".to_owned()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    };
    let rule = Rule {
        name: None,
        matches: vec![matches],
        filters: Vec::new(),
        timeouts: None,
        retry: None,
        action: Action::Forward(pool),
    };
    let route = Route {
        name: RouteName::new(format!("httproute/default/{name}")).unwrap(),
        kind: RouteKind::Http,
        created: 1,
        attachments: vec![Attachment {
            gateway: GatewayName::new(gateway).unwrap(),
            listener: ListenerName::new("http").unwrap(),
            hostnames: Vec::new(),
        }],
        rules: vec![rule],
    };
    state.routes.insert(route.name.clone(), Arc::new(route));
}

/// A loopback address that nobody listens on, and that the system gives to nobody else while the tests run.
pub fn free_address() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // Bound and not listening, it keeps the port until the process ends.
    std::mem::forget(socket);
    address
}

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub writer: Writer,
    folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(state: &State, resolve: Vec<(String, IpAddr)>, dns: Option<SocketAddr>) -> Self {
        Self::start_with(state, |options| {
            options.resolve = resolve;
            options.dns = dns;
        })
        .await
    }

    pub async fn start_with(state: &State, change: impl FnOnce(&mut ProxyOptions)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut writer = Writer::open(folder.path()).unwrap();
        let version = writer.publish(state).unwrap().version;
        let admin = free_address();
        let mut options = ProxyOptions {
            state: folder.path().to_owned(),
            admin: Some(admin),
            resolve: Vec::new(),
            dns: None,
            threads: 2,
            access_log: AccessLogOptions::off(),
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(5),
            reuse_port: false,
            h2_idle: understudy_proxy::H2_IDLE,
        };
        change(&mut options);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopped.await;
            };
            understudy_proxy::run(options, stopped).await.unwrap();
        });
        let address = state.gateways.values().next().unwrap().listeners[0].bind[0];
        let proxy = Self { address, admin, writer, folder, stop: Some(stop), task };
        proxy.wait_for(version).await;
        proxy
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn root_file(&self) -> PathBuf {
        self.folder().join(understudy_conf::store::ROOT_FILE)
    }

    /// Writes a state and waits until it is served.
    pub async fn publish(&mut self, state: &State) {
        let version = self.writer.publish(state).unwrap().version;
        self.wait_for(version).await;
    }

    pub async fn wait_for(&self, version: u64) {
        self.wait_for_acknowledgement(|ack| ack.serving == Some(version)).await;
    }

    pub async fn wait_for_acknowledgement(
        &self,
        condition: impl Fn(&Acknowledgement) -> bool,
    ) -> Acknowledgement {
        let start = Instant::now();
        loop {
            assert!(!self.task.is_finished(), "the proxy ended");
            if let Ok(Some(ack)) = read_acknowledgement(self.folder())
                && condition(&ack)
            {
                return ack;
            }
            assert!(start.elapsed() < PATIENCE, "no such acknowledgement");
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn get(&self) -> Response {
        self.send(&Request::get(HOST, "/test")).await.unwrap()
    }

    pub async fn send(&self, request: &Request) -> Result<Response, ClientError> {
        Client::connect(self.address).await?.send_request(request).await
    }

    /// The pods that answered so many requests, one connection each; failures as their status.
    pub async fn pods(&self, count: usize) -> Vec<String> {
        let mut pods = Vec::new();
        for _ in 0..count {
            let response = self.get().await;
            pods.push(
                response.pod().filter(|_| response.status == 200).unwrap_or(response.status.to_string()),
            );
        }
        pods
    }

    /// Requests under way at endpoints, over all pools.
    pub async fn active(&self) -> u64 {
        let reports = self.admin("/pools").await.json().unwrap();
        let pools = reports["pools"].as_array().unwrap();
        let endpoints = pools.iter().flat_map(|pool| pool["endpoints"].as_array().unwrap());
        endpoints.map(|endpoint| endpoint["active"].as_u64().unwrap()).sum()
    }

    /// Waits until no request is under way.
    pub async fn wait_until_idle(&self) {
        eventually("the end of all requests", || async { self.active().await == 0 }).await;
    }

    pub async fn admin(&self, path: &str) -> Response {
        understudy_testbed::get(self.admin, "admin", path).await.unwrap()
    }

    pub async fn stop(mut self) {
        self.begin_to_stop();
        (&mut self.task).await.unwrap();
    }

    /// Tells it to stop; [`Self::stop`] waits until it has.
    pub fn begin_to_stop(&mut self) {
        drop(self.stop.take());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn primary() -> Upstream {
    Upstream::start("active").await.unwrap()
}

pub async fn fallback() -> Upstream {
    Upstream::start("passive").await.unwrap()
}

pub fn all(pod: &str, count: usize) -> Vec<String> {
    vec![pod.to_owned(); count]
}

/// Waits until a condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        sleep(Duration::from_millis(10)).await;
    }
}

/// An endpoint that does with each connection what it is told, once it has read the head of a request.
pub async fn endpoint<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            if !head.is_empty() {
                tokio::spawn(serve(stream));
            }
        }
    });
    address
}
