//! Properties of the translation, whatever the manifests.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests end there")]

mod common;

use std::fmt::Write as _;
use std::fs;

use proptest::prelude::*;
use understudy_controller::{Options, Source, check};

/// Something small that is put together from parts that may or may not fit.
#[derive(Debug, Clone)]
struct World {
    objects: Vec<String>,
}

fn backend() -> impl Strategy<Value = String> {
    (0..4u8, any::<bool>(), 0..4u8).prop_map(|(name, fallback, kind)| {
        let endpoint = match kind {
            0 => "ip: {address: 127.0.0.1, port: 3000}",
            1 => "fqdn: {hostname: s1.default.svc.cluster.local, port: 80}",
            2 => "unix: {path: /run/a.sock}",
            _ => "ip: {address: nowhere, port: 3000}",
        };
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {{name: b{name}}}\n\
             spec: {{fallback: {fallback}, endpoints: [{{{endpoint}}}]}}\n"
        )
    })
}

fn service() -> impl Strategy<Value = String> {
    (0..3u8, 0..3u8, any::<bool>()).prop_map(|(name, endpoints, ready)| {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: s{name}-1, labels: {{kubernetes.io/service-name: s{name}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 3000}}]\nendpoints:\n"
        );
        for endpoint in 0..=endpoints {
            let _ = writeln!(text, "- {{addresses: [10.0.0.{endpoint}], conditions: {{ready: {ready}}}}}");
        }
        text
    })
}

fn gateway() -> impl Strategy<Value = String> {
    (0..3u8, 80..82u16, any::<bool>()).prop_map(|(name, port, own_class)| {
        let class = if own_class { "understudy" } else { "other" };
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g{name}}}\n\
             spec: {{gatewayClassName: {class}, listeners: [{{name: a, protocol: HTTP, port: {port}}}, \
             {{name: b, protocol: HTTP, port: 8080, hostname: \"*.example.com\"}}]}}\n"
        )
    })
}

fn route() -> impl Strategy<Value = String> {
    let reference = (0..2u8, 0..5u8, 0..3u8);
    let parents = prop::collection::vec(0..4u8, 1..3);
    (0..4u8, parents, prop::collection::vec(reference, 0..4)).prop_map(|(name, parents, refs)| {
        let parents: Vec<_> = parents.iter().map(|parent| format!("{{name: g{parent}}}")).collect();
        let refs: Vec<_> = refs
            .iter()
            .map(|(kind, name, weight)| match kind {
                0 => format!(
                    "{{group: gateway.envoyproxy.io, kind: Backend, name: b{name}, weight: {weight}}}"
                ),
                _ => format!("{{name: s{name}, port: 80, weight: {weight}}}"),
            })
            .collect();
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{name}}}\n\
             spec: {{parentRefs: [{}], rules: [{{name: one, backendRefs: [{}]}}]}}\n",
            parents.join(", "),
            refs.join(", ")
        )
    })
}

fn policy() -> impl Strategy<Value = String> {
    (0..5u8, 0..4u8, 0..4u8, 0..130u8).prop_map(|(name, kind, target, percent)| {
        let target = match kind {
            0 => format!("kind: HTTPRoute, name: r{target}, sectionName: one"),
            1 => format!("kind: HTTPRoute, name: r{target}"),
            2 => format!("kind: Gateway, name: g{target}, sectionName: b"),
            _ => format!("kind: Gateway, name: g{target}"),
        };
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: p{name}}}\n\
             spec: {{targetRefs: [{{group: gateway.networking.k8s.io, {target}}}], \
             healthCheck: {{passive: {{maxEjectionPercent: {percent}}}}}}}\n"
        )
    })
}

fn world() -> impl Strategy<Value = World> {
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: understudy}\n\
                 spec: {controllerName: understudy.dev/gateway-controller}\n";
    let object = prop_oneof![backend(), service(), gateway(), route(), route(), policy()];
    prop::collection::vec(object, 0..24).prop_map(move |mut objects| {
        // An object that stands twice depends on the order, and is an error.
        let mut names = std::collections::BTreeSet::new();
        let name = |text: &String| text.lines().skip(1).take(2).collect::<String>();
        objects.retain(|object| names.insert(name(object)));
        objects.push(class.to_owned());
        World { objects }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn translation_ignores_the_order_of_objects_and_files(world in world(), seed in any::<u64>(), cut in any::<prop::sample::Index>()) {
        let straight = common::check_text(&world.objects.join("---\n"));
        let mut objects = world.objects.clone();
        // Fisher and Yates, with a generator that needs no more than a seed.
        let mut random = seed | 1;
        for index in (1..objects.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            objects.swap(index, usize::try_from(random >> 33).unwrap() % (index + 1));
        }
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = objects.split_at(cut.index(objects.len()));
        fs::write(folder.path().join("a.yaml"), first.join("---\n")).unwrap();
        fs::write(folder.path().join("b.yaml"), second.join("---\n")).unwrap();
        let shuffled = check(&[Source::Path(folder.path().to_owned())], &Options::default());
        prop_assert_eq!(&straight.state, &shuffled.state);
        prop_assert_eq!(straight.diagnostics.len(), shuffled.diagnostics.len());
    }

    #[test]
    fn every_reference_of_the_state_resolves_and_nothing_superfluous_is_written(world in world()) {
        let state = common::check_text(&world.objects.join("---\n")).state;
        prop_assert_eq!(state.validate_references(), Ok(()));
        let used: std::collections::BTreeSet<_> = state.routes.values().flat_map(|route| &route.rules).collect::<Vec<_>>()
            .into_iter().filter_map(|rule| match &rule.action {
                understudy_conf::Action::Forward(pool) => Some(pool.clone()),
                _ => None,
            }).collect();
        prop_assert!(state.pools.keys().eq(used.iter()));
        for backend in state.backends.keys() {
            let target = understudy_conf::RefTarget::Backend(backend.clone());
            prop_assert!(state.pools.values().any(|pool| pool.refs.iter().any(|reference| reference.target == target)));
        }
        for policy in state.policies.keys() {
            prop_assert!(state.pools.values().any(|pool| pool.policy.as_ref() == Some(policy)));
        }
    }

    #[test]
    fn a_fallback_never_becomes_a_primary(world in world()) {
        let text = world.objects.join("---\n");
        let state = common::check_text(&text).state;
        for reference in state.pools.values().flat_map(|pool| &pool.refs) {
            if let understudy_conf::RefTarget::Backend(name) = &reference.target
                && let Some(name) = name.as_str().strip_prefix("backend/default/")
            {
                let fallback = text.contains(&format!("metadata: {{name: {name}}}\nspec: {{fallback: true"));
                prop_assert_eq!(reference.priority, u32::from(fallback));
            }
        }
    }

    #[test]
    fn no_mutilated_manifest_makes_it_panic(
        choice in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..40usize, 0..HOSTILE.len()), 1..6),
    ) {
        let mut files = common::files("tests/golden", ".in.yaml");
        files.extend(common::files("../conf/examples", ".yaml"));
        let mut bytes = fs::read(choice.get(&files)).unwrap();
        for (place, removed, inserted) in edits {
            let start = place.index(bytes.len().max(1)).min(bytes.len());
            let end = (start + removed).min(bytes.len());
            bytes.splice(start..end, HOSTILE[inserted].iter().copied());
        }
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let report = check(&[Source::Path(file.path().to_owned())], &Options::default());
        prop_assert_eq!(report.state.validate_references(), Ok(()));
    }

    #[test]
    fn no_strange_value_makes_it_panic(
        choice in any::<prop::sample::Index>(),
        line in any::<prop::sample::Index>(),
        value in prop::sample::select(&VALUES[..]),
    ) {
        let mut files = common::files("tests/golden", ".in.yaml");
        files.extend(common::files("../conf/examples", ".yaml"));
        let text = fs::read_to_string(choice.get(&files)).unwrap();
        // Every value, in block or flow style, stands behind a colon.
        let colons: Vec<_> = text.match_indices(": ").map(|(at, _)| at + 2).collect();
        let start = *line.get(&colons);
        let end = text[start..].find(['\n', ',', '}', ']']).map_or(text.len(), |length| start + length);
        let text = format!("{}{value}{}", &text[..start], &text[end..]);
        let report = common::check_text(&text);
        prop_assert_eq!(report.state.validate_references(), Ok(()));
    }
}

const HOSTILE: [&[u8]; 16] = [
    b"",
    b"\n",
    b"\t",
    b": ",
    b"- ",
    b"{",
    b"]",
    b"\"",
    b"&a ",
    b"*a",
    b"<<: ",
    b"\0",
    b"\xff\xfe",
    b"---\n",
    "\u{feff}é\u{2028}".as_bytes(),
    b"!!binary |\n",
];

const VALUES: [&str; 20] = [
    "",
    "~",
    "[]",
    "{}",
    "-1",
    "0",
    "99999999999999999999",
    "1e400",
    "0.5",
    "true",
    "\"\"",
    "\"\\u0000\"",
    "\"*\"",
    "\"/\"",
    "((((((((((a{1000}){1000}){1000}){1000}){1000})))))",
    "2026-13-45T99:99:99Z",
    "9999999h99999m99999s",
    "256.256.256.256",
    "[[[[]]]]",
    "🦀",
];
