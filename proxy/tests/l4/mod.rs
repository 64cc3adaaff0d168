//! States with listeners and routes that carry no HTTP, and clients of them.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use understudy_conf::{
    Action, Attachment, Backend, BackendName, Endpoint, EndpointAddress, Gateway, GatewayName, Hostname,
    Listener, ListenerName, ListenerTls, Policy, Pool, PoolName, PoolRef, Protocol, RefTarget, Route,
    RouteKind, RouteName, Rule, State, UpstreamProtocol,
};

use crate::common::{PATIENCE, policy};

pub const GATEWAY: &str = "gateway/default/eg";

/// A state with one gateway, and the policy of the failover task.
pub fn state() -> State {
    let mut state = State::default();
    let name = GatewayName::new(GATEWAY).unwrap();
    state.gateways.insert(name.clone(), Arc::new(Gateway { name, listeners: Vec::new() }));
    let policy = policy();
    state.policies.insert(policy.name.clone(), Arc::new(policy));
    state
}

/// Changes the policy that governs every pool.
pub fn change_policy(state: &mut State, change: impl FnOnce(&mut Policy)) {
    change(Arc::make_mut(state.policies.values_mut().next().unwrap()));
}

pub fn listen(
    state: &mut State,
    name: &str,
    protocol: Protocol,
    bind: SocketAddr,
    tls: Option<(Option<&str>, ListenerTls)>,
) {
    let (hostname, tls) = tls.map_or((None, None), |(hostname, tls)| (hostname, Some(tls)));
    let listener = Listener {
        name: ListenerName::new(name).unwrap(),
        port: bind.port(),
        bind: vec![bind],
        protocol,
        hostname: hostname.map(|hostname| Hostname::new(hostname).unwrap()),
        tls,
    };
    Arc::make_mut(state.gateways.values_mut().next().unwrap()).listeners.push(listener);
}

/// References with one endpoint each: priority, weight, address.
pub fn refs(state: &mut State, refs: &[(u32, u32, EndpointAddress)]) -> Vec<PoolRef> {
    refs.iter()
        .map(|(priority, weight, address)| {
            let text = address.to_string().replace('/', "_");
            let name = BackendName::new(format!("backend/default/{text}")).unwrap();
            let backend = Backend {
                name: name.clone(),
                protocol: UpstreamProtocol::Http1,
                tls: None,
                endpoints: vec![Endpoint::at(address.clone())],
            };
            state.backends.insert(name.clone(), Arc::new(backend));
            PoolRef {
                target: RefTarget::Backend(name),
                priority: *priority,
                weight: *weight,
                filters: Vec::new(),
            }
        })
        .collect()
}

/// A primary and a fallback.
pub fn pair(state: &mut State, primary: SocketAddr, fallback: SocketAddr) -> Vec<PoolRef> {
    refs(state, &[(0, 1, primary.into()), (1, 1, fallback.into())])
}

/// A route on a listener; the policy governs its pool.
pub fn route(
    state: &mut State,
    (kind, name): (RouteKind, &str),
    listener: &str,
    hostnames: &[&str],
    refs: Vec<PoolRef>,
) {
    let what = format!("{kind:?}route").to_lowercase();
    let pool = PoolName::new(format!("{what}/default/{name}/rule/0")).unwrap();
    let policy = state.policies.keys().next().cloned();
    state.pools.insert(pool.clone(), Arc::new(Pool { name: pool.clone(), policy, refs }));
    let rule = Rule {
        name: None,
        matches: Vec::new(),
        filters: Vec::new(),
        timeouts: None,
        retry: None,
        action: Action::Forward(pool),
    };
    let route = Route {
        name: RouteName::new(format!("{what}/default/{name}")).unwrap(),
        kind,
        created: 1,
        attachments: vec![Attachment {
            gateway: GatewayName::new(GATEWAY).unwrap(),
            listener: ListenerName::new(listener).unwrap(),
            hostnames: hostnames.iter().map(|name| Hostname::new(name).unwrap()).collect(),
        }],
        rules: vec![rule],
    };
    state.routes.insert(route.name.clone(), Arc::new(route));
}

/// A listener of TCP with one route to a primary and a fallback.
pub fn tcp(bind: SocketAddr, primary: SocketAddr, fallback: SocketAddr) -> State {
    let mut state = state();
    listen(&mut state, "tcp", Protocol::Tcp, bind, None);
    let refs = pair(&mut state, primary, fallback);
    route(&mut state, (RouteKind::Tcp, "db"), "tcp", &[], refs);
    state
}

/// The same for UDP.
pub fn udp(bind: SocketAddr, primary: SocketAddr, fallback: SocketAddr) -> State {
    let mut state = state();
    listen(&mut state, "udp", Protocol::Udp, bind, None);
    let refs = pair(&mut state, primary, fallback);
    route(&mut state, (RouteKind::Udp, "dns"), "udp", &[], refs);
    state
}

/// A connection to an endpoint that echoes, with the name that it said.
pub struct Conversation<S> {
    pub name: String,
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    /// Reads the name. A connection that is closed before has none.
    pub async fn begin(stream: S) -> io::Result<Self> {
        let mut stream = BufReader::new(stream);
        let mut name = String::new();
        timeout(PATIENCE, stream.read_line(&mut name)).await.unwrap()?;
        if !name.ends_with('\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { name: name.trim_end().to_owned(), stream })
    }

    /// Sends bytes and gets them back.
    pub async fn echo(&mut self, text: &[u8]) -> io::Result<()> {
        self.stream.write_all(text).await?;
        self.stream.flush().await?;
        let mut back = vec![0; text.len()];
        timeout(PATIENCE, self.stream.read_exact(&mut back)).await.unwrap()?;
        assert_eq!(back, text);
        Ok(())
    }

    /// Ends its own direction; what comes after that.
    pub async fn leave(mut self) -> io::Result<String> {
        self.stream.shutdown().await?;
        let mut rest = String::new();
        timeout(PATIENCE, self.stream.read_to_string(&mut rest)).await.unwrap()?;
        Ok(rest)
    }

    /// Waits until the other side closes.
    pub async fn ends(&mut self) {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("it stays open");
    }
}

pub async fn converse(address: SocketAddr) -> io::Result<Conversation<TcpStream>> {
    Conversation::begin(timeout(PATIENCE, TcpStream::connect(address)).await.unwrap()?).await
}

/// The names that so many connections get; `-` for one that was closed.
pub async fn names(address: SocketAddr, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(match converse(address).await {
            Ok(conversation) => {
                let name = conversation.name.clone();
                assert_eq!(conversation.leave().await.unwrap(), "bye\n");
                name
            }
            Err(_) => "-".to_owned(),
        });
    }
    names
}

/// A client of UDP.
pub struct Asker {
    socket: UdpSocket,
}

impl Asker {
    pub async fn new(gateway: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(gateway).await.unwrap();
        Self { socket }
    }

    pub async fn send(&self, text: &str) {
        self.socket.send(text.as_bytes()).await.unwrap();
    }

    pub async fn receive(&self) -> String {
        let mut buffer = vec![0; 65_536];
        let length = timeout(PATIENCE, self.socket.recv(&mut buffer)).await.expect("no answer").unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    pub async fn ask(&self, text: &str) -> String {
        self.send(text).await;
        self.receive().await
    }
}
