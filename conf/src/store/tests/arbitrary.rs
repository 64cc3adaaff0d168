//! Arbitrary states, with names and values that are hard to write, and references that all resolve.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z]{0,8}",
        2 => any::<String>(),
        2 => "[-:?#&*!|>'\"%@`\\[\\]{},~ \n\ta1.e]{0,8}",
        1 => proptest::sample::select(vec!["true", "1.0", "", "null", "~", "0x1", "- a", "a\n\nb\n", "<<"])
            .prop_map(str::to_owned),
    ]
}

fn raw_name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{1,5}/[a-z]{1,5}/[a-z0-9-]{1,8}",
        1 => "[^\\p{Cc}]{1,20}",
        1 => proptest::sample::select(vec!["true", "1", "~", "..", ".", "a/b:c", "é", " ", "# a", "CON", "x+y"])
            .prop_map(str::to_owned),
        1 => Just("n".repeat(1024)),
        1 => Just("\u{feff}".repeat(341)),
    ]
}

fn names<N: std::fmt::Debug>(make: fn(String) -> N) -> impl Strategy<Value = Vec<N>> {
    btree_set(raw_name(), 0..6).prop_map(move |names| names.into_iter().map(make).collect())
}

fn duration() -> impl Strategy<Value = GatewayDuration> {
    (0u64..359_996_400_000).prop_map(GatewayDuration::from_millis)
}

fn hostname() -> impl Strategy<Value = Hostname> {
    "(\\*\\.)?[a-z0-9]{1,5}(\\.[a-z]{1,5}){0,2}x".prop_map(|name| Hostname::new(name).unwrap())
}

fn address() -> impl Strategy<Value = EndpointAddress> {
    prop_oneof![
        (any::<IpAddr>(), any::<u16>()).prop_map(|(address, port)| EndpointAddress::Ip { address, port }),
        (text(), any::<u16>()).prop_map(|(hostname, port)| EndpointAddress::Fqdn { hostname, port }),
        text().prop_map(|path| EndpointAddress::Unix { path: path.into() }),
    ]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (address(), option::of(text()), option::of(text()), option::of(text()), any::<bool>()).prop_map(
        |(address, uid, node, hostname, terminating)| Endpoint {
            uid,
            node: node.clone(),
            zone: node,
            hostname,
            condition: if terminating { EndpointCondition::Terminating } else { EndpointCondition::Ready },
            ..Endpoint::at(address)
        },
    )
}

fn guard(name: GuardName) -> impl Strategy<Value = Guard> {
    let network =
        (any::<IpAddr>(), 0..=32_u8).prop_map(|(address, bits)| Network::new(address, bits).unwrap());
    let denied = (text(), vec(network, 0..3), vec(any::<u16>(), 0..3))
        .prop_map(|(what, networks, ports)| DeniedTargets { what, networks, ports });
    (vec(denied, 0..3), vec(any::<IpAddr>(), 0..2), option::of(text())).prop_map(
        move |(deny, allow, folder)| Guard {
            name: name.clone(),
            deny,
            allow: allow.into_iter().map(Into::into).collect(),
            unix_folder: folder.map(Into::into),
        },
    )
}

fn header() -> impl Strategy<Value = HeaderValue> {
    (text(), text()).prop_map(|(name, value)| HeaderValue { name, value })
}

fn filter() -> impl Strategy<Value = HttpFilter> {
    let headers = || (vec(header(), 0..3), vec(header(), 0..3), vec(text(), 0..3));
    let path = prop_oneof![text().prop_map(PathRewrite::Full), text().prop_map(PathRewrite::Prefix)];
    prop_oneof![
        headers().prop_map(|(set, add, remove)| HttpFilter::RequestHeaders { set, add, remove }),
        headers().prop_map(|(set, add, remove)| HttpFilter::ResponseHeaders { set, add, remove }),
        (option::of(text()), option::of(path))
            .prop_map(|(hostname, path)| HttpFilter::UrlRewrite(UrlRewrite { hostname, path })),
        cors().prop_map(HttpFilter::Cors),
    ]
}

fn cors() -> impl Strategy<Value = Cors> {
    let list = || vec(text(), 0..3);
    (list(), list(), list(), list(), any::<u32>(), any::<bool>()).prop_map(
        |(allow_origins, allow_methods, allow_headers, expose_headers, max_age, allow_credentials)| Cors {
            allow_origins,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
        },
    )
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![text().prop_map(StringMatch::Exact), text().prop_map(StringMatch::Regex)]
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        text().prop_map(PathMatch::Prefix),
        text().prop_map(PathMatch::Regex)
    ];
    let pairs = || vec((text(), string_match()), 0..3);
    (path, option::of("[A-Z]{1,5}"), pairs(), pairs()).prop_map(|(path, method, headers, query)| HttpMatch {
        path,
        method: method.map(HttpMethod),
        headers: headers.into_iter().map(|(name, value)| HeaderMatch { name, value }).collect(),
        query: query.into_iter().map(|(name, value)| QueryMatch { name, value }).collect(),
    })
}

fn retry() -> impl Strategy<Value = Retry> {
    let triggers = [RetryTrigger::Status5xx, RetryTrigger::Reset, RetryTrigger::Retriable4xx];
    (
        any::<u32>(),
        option::of(any::<u32>()),
        btree_set(proptest::sample::select(triggers.to_vec()), 0..3),
        btree_set(any::<u16>(), 0..3),
        option::of(duration()),
    )
        .prop_map(|(num_retries, num_attempts_per_priority, triggers, status_codes, per_try_timeout)| {
            Retry {
                num_retries,
                num_attempts_per_priority,
                triggers,
                status_codes,
                per_try_timeout,
                back_off: BackOff::default(),
            }
        })
}

fn payload() -> impl Strategy<Value = Payload> {
    vec(any::<u8>(), 0..4).prop_map(Payload::from)
}

fn active() -> impl Strategy<Value = ActiveHealthCheck> {
    let http = (option::of(payload()), option::of(text())).prop_map(|(body, hostname)| {
        ActiveProbe::Http(HttpProbe { request_body: body, hostname, ..HttpProbe::get("/healthz") })
    });
    let tcp = (option::of(payload()), option::of(payload()))
        .prop_map(|(send, receive)| ActiveProbe::Tcp(TcpProbe { send, receive }));
    let grpc = text().prop_map(|service| ActiveProbe::Grpc(GrpcProbe { service }));
    (prop_oneof![http, tcp, grpc], option::of(any::<u16>()), duration()).prop_map(
        |(probe, port, interval)| ActiveHealthCheck { port, interval, ..ActiveHealthCheck::new(probe) },
    )
}

fn policy(name: PolicyName) -> impl Strategy<Value = Policy> {
    let checks = (any::<bool>(), option::of(active()));
    (any::<u64>(), 0..=100i64, option::of(retry()), option::of(duration()), checks).prop_map(
        move |(limit, percent, retry, request, (passive, active))| Policy {
            buffer_limit: limit,
            panic_threshold: Percent::new(percent).unwrap(),
            retry,
            timeouts: Timeouts { request, ..Timeouts::default() },
            passive: passive.then(PassiveHealthCheck::default),
            active: active.map(Arc::new),
            ..Policy::unset(name.clone())
        },
    )
}

fn certificate(name: CertificateName) -> impl Strategy<Value = Certificate> {
    (text(), text()).prop_map(move |(chain, key)| Certificate {
        name: name.clone(),
        chain,
        key: PrivateKey::from_pem(&key),
    })
}

fn ca_bundle(name: CaBundleName) -> impl Strategy<Value = CaBundle> {
    text().prop_map(move |certificates| CaBundle { name: name.clone(), certificates })
}

/// TLS to a backend, with the bundles and the certificate that it is to choose from those of the state.
fn backend_tls() -> impl Strategy<Value = (BackendTls, Vec<Index>, Option<Index>)> {
    let version = prop_oneof![Just(TlsVersion::Tls12), Just(TlsVersion::Tls13)];
    let trust = prop_oneof![Just(Trust::System), Just(Trust::Nothing), Just(Trust::Bundles(Vec::new()))];
    let tls = (trust, option::of(text()), version).prop_map(|(trust, server_name, min_version)| BackendTls {
        server_name,
        min_version,
        ..BackendTls::new(trust)
    });
    (tls, vec(any::<Index>(), 0..3), option::of(any::<Index>()))
}

/// A listener, with the certificates that it is to choose from those of the state.
fn listener(number: usize) -> impl Strategy<Value = (Listener, Vec<Index>)> {
    let tls = any::<bool>().prop_map(|terminate| ListenerTls {
        mode: if terminate { TlsMode::Terminate } else { TlsMode::Passthrough },
        certificates: Vec::new(),
        client_validation: None,
    });
    let chosen = vec(any::<Index>(), 0..3);
    (any::<u16>(), vec(any::<SocketAddr>(), 0..3), option::of(hostname()), option::of(tls), chosen).prop_map(
        move |(port, bind, hostname, tls, chosen)| {
            let listener = Listener {
                name: ListenerName::new(format!("l{number}")).unwrap(),
                port,
                // Scope and flow of an IPv6 address are no part of its text.
                bind: bind.into_iter().map(|at| SocketAddr::new(at.ip(), at.port())).collect(),
                protocol: if tls.is_some() { Protocol::Https } else { Protocol::Http },
                hostname,
                tls,
            };
            (listener, chosen)
        },
    )
}

fn action() -> impl Strategy<Value = (Action, Index)> {
    let redirect =
        (option::of(text()), option::of(any::<u16>()), any::<u16>()).prop_map(|(hostname, port, status)| {
            Action::Redirect(Redirect { scheme: hostname.clone(), hostname, port, path: None, status })
        });
    (prop_oneof![redirect, any::<u16>().prop_map(Action::Respond)], any::<Index>())
}

fn rule() -> impl Strategy<Value = (Rule, Index, bool)> {
    (
        option::of(text()),
        vec(http_match(), 1..3),
        vec(filter(), 0..3),
        option::of(retry()),
        action(),
        any::<bool>(),
    )
        .prop_map(|(name, matches, filters, retry, (action, pool), forward)| {
            let timeouts = name.as_ref().map(|_| RuleTimeouts {
                request: None,
                backend_request: Some(GatewayDuration::from_millis(1)),
            });
            (Rule { name, matches, filters, timeouts, retry, action }, pool, forward)
        })
}

fn pool_ref() -> impl Strategy<Value = (PoolRef, Index, bool)> {
    (text(), any::<u32>(), any::<u32>(), vec(filter(), 0..2), any::<Index>(), any::<bool>()).prop_map(
        |(reason, priority, weight, filters, backend, valid)| {
            (PoolRef { target: RefTarget::Invalid(reason), priority, weight, filters }, backend, valid)
        },
    )
}

/// A state whose references resolve. Its version is 0.
pub(super) fn state() -> impl Strategy<Value = State> {
    let gateways = btree_map(raw_name(), vec(option::of(Just(())), 1..3), 0..3).prop_flat_map(|gateways| {
        gateways
            .into_iter()
            .map(|(name, listeners)| {
                let listeners: Vec<_> = (0..listeners.len()).map(listener).collect();
                listeners.prop_map(move |listeners| (GatewayName::new(&name).unwrap(), listeners))
            })
            .collect::<Vec<_>>()
    });
    let policies = names(|name| PolicyName::new(name).unwrap())
        .prop_flat_map(|names| names.into_iter().map(policy).collect::<Vec<_>>());
    let certificates = names(|name| CertificateName::new(name).unwrap())
        .prop_flat_map(|names| names.into_iter().map(certificate).collect::<Vec<_>>());
    let bundles = names(|name| CaBundleName::new(name).unwrap())
        .prop_flat_map(|names| names.into_iter().map(ca_bundle).collect::<Vec<_>>());
    let guards = names(|name| GuardName::new(name).unwrap())
        .prop_flat_map(|names| names.into_iter().map(guard).collect::<Vec<_>>());
    let backends = btree_map(raw_name(), (vec(endpoint(), 0..3), option::of(backend_tls())), 0..6);
    let pools = btree_map(raw_name(), (any::<Index>(), vec(pool_ref(), 0..3)), 0..6);
    let attachment = (any::<Index>(), any::<Index>(), vec(hostname(), 0..3));
    let routes = btree_map(raw_name(), (any::<i64>(), vec(attachment, 0..3), vec(rule(), 0..3)), 0..6);
    let objects = (gateways, policies, (certificates, bundles, guards), backends, pools, routes);
    objects.prop_map(|(gateways, policies, (certificates, bundles, guards), backends, pools, routes)| {
        let mut state = State::default();
        for guard in guards {
            state.guards.insert(guard.name.clone(), Arc::new(guard));
        }
        let gateways: Vec<_> = gateways
            .into_iter()
            .map(|(name, listeners)| {
                let listeners = listeners.into_iter().map(|(mut listener, chosen)| {
                    if let Some(tls) = listener.tls.as_mut().filter(|_| !certificates.is_empty()) {
                        tls.certificates =
                            chosen.iter().map(|index| index.get(&certificates).name.clone()).collect();
                    }
                    listener
                });
                Gateway { name, listeners: listeners.collect() }
            })
            .collect();
        for (name, (endpoints, tls)) in backends {
            let name = BackendName::new(name).unwrap();
            let tls = tls.map(|(mut tls, chosen, certificate)| {
                if let Trust::Bundles(names) = &mut tls.trust
                    && !bundles.is_empty()
                {
                    *names = chosen.iter().map(|index| index.get(&bundles).name.clone()).collect();
                }
                tls.client_certificate = certificate
                    .filter(|_| !certificates.is_empty())
                    .map(|index| index.get(&certificates).name.clone());
                tls
            });
            let backend = Backend { name: name.clone(), protocol: UpstreamProtocol::H2c, tls, endpoints };
            state.backends.insert(name, Arc::new(backend));
        }
        for (name, (policy, refs)) in pools {
            let name = PoolName::new(name).unwrap();
            let backends: Vec<_> = state.backends.keys().collect();
            let refs = refs
                .into_iter()
                .map(|(mut reference, backend, valid)| {
                    if valid && !backends.is_empty() {
                        reference.target = RefTarget::Backend((*backend.get(&backends)).clone());
                    }
                    reference
                })
                .collect();
            let policy = (!policies.is_empty()).then(|| policy.get(&policies).name.clone());
            state.pools.insert(name.clone(), Arc::new(Pool { name, policy, refs }));
        }
        for (name, (created, attachments, rules)) in routes {
            let name = RouteName::new(name).unwrap();
            let attachments = attachments
                .into_iter()
                .filter(|_| !gateways.is_empty())
                .map(|(gateway, listener, hostnames)| {
                    let gateway = gateway.get(&gateways);
                    let listener = listener.get(&gateway.listeners).name.clone();
                    Attachment { gateway: gateway.name.clone(), listener, hostnames }
                })
                .collect();
            let pools: Vec<_> = state.pools.keys().collect();
            let rules = rules
                .into_iter()
                .map(|(mut rule, pool, forward)| {
                    if forward && !pools.is_empty() {
                        let pool = (*pool.get(&pools)).clone();
                        let (numerator, denominator) = (created.unsigned_abs() as u32, 1000);
                        let mirror = RequestMirror { pool: pool.clone(), numerator, denominator };
                        rule.filters.push(HttpFilter::RequestMirror(mirror));
                        rule.action = Action::Forward(pool);
                    }
                    rule
                })
                .collect();
            let route = Route { name: name.clone(), kind: RouteKind::Http, created, attachments, rules };
            state.routes.insert(name, Arc::new(route));
        }
        state.policies = policies.into_iter().map(|policy| (policy.name.clone(), Arc::new(policy))).collect();
        state.ca_bundles =
            bundles.into_iter().map(|bundle| (bundle.name.clone(), Arc::new(bundle))).collect();
        state.certificates = certificates
            .into_iter()
            .map(|certificate| (certificate.name.clone(), Arc::new(certificate)))
            .collect();
        state.gateways =
            gateways.into_iter().map(|gateway| (gateway.name.clone(), Arc::new(gateway))).collect();
        state
    })
}
