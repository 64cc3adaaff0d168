use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use understudy_conf::{DeniedTargets, GuardName};

use super::*;

fn guard(deny: &[(&str, &[&str], &[u16])], unix_folder: Option<&str>) -> Guard {
    let deny = deny.iter().map(|(what, networks, ports)| DeniedTargets {
        what: (*what).to_owned(),
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        ports: ports.to_vec(),
    });
    Guard {
        name: GuardName::new("guard/cluster").unwrap(),
        deny: deny.collect(),
        allow: Vec::new(),
        unix_folder: unix_folder.map(Into::into),
    }
}

/// A cluster with an API server, a node, and the admin address 0.0.0.0:19000 of a pod that is 10.244.0.5.
fn cluster() -> TargetGuard {
    let guard = guard(
        &[
            ("the API server", &["10.96.0.1", "192.168.1.10"], &[443, 6443]),
            ("a kubelet", &["192.168.1.10", "fd01::10"], &[10250, 10255]),
            ("the operator's", &["172.20.0.0/16"], &[]),
        ],
        Some("/var/run/backends"),
    );
    let is_own = |address: IpAddr| address == IpAddr::from([10, 244, 0, 5]);
    TargetGuard::build_with([&guard].into_iter(), Some(([0, 0, 0, 0], 19000).into()), is_own)
}

fn socket(text: &str) -> Address {
    Address::Socket(text.parse().unwrap())
}

#[test]
fn every_reserved_row_is_a_network() {
    assert_eq!(reserved().len(), reserved::RESERVED.len());
}

#[test]
fn in_a_cluster_what_is_no_backend_is_refused_by_its_name() {
    let guard = cluster();
    for (target, why) in [
        ("127.0.0.1:80", "loopback"),
        ("127.8.9.10:65535", "loopback"),
        ("[::1]:80", "loopback"),
        ("0.0.0.0:80", "unspecified"),
        ("0.1.2.3:80", "unspecified"),
        ("[::]:80", "unspecified"),
        ("169.254.169.254:80", "metadata"),
        ("169.254.170.2:80", "metadata"),
        ("[fd00:ec2::254]:80", "metadata"),
        ("[fd00:ec2::23]:80", "metadata"),
        ("[fd20:ce::254]:80", "metadata"),
        ("168.63.129.16:80", "Azure"),
        ("100.100.100.200:80", "metadata"),
        ("192.0.0.192:80", "metadata"),
        ("[fe80::1%3]:80", "link-local"),
        ("224.0.0.1:80", "multicast"),
        ("239.255.255.255:80", "multicast"),
        ("[ff02::1]:80", "multicast"),
        ("255.255.255.255:80", "broadcast"),
        ("10.96.0.1:443", "the API server"),
        ("192.168.1.10:6443", "the API server"),
        ("192.168.1.10:10250", "a kubelet"),
        ("192.168.1.10:10255", "a kubelet"),
        ("[fd01::10]:10250", "a kubelet"),
        ("172.20.3.4:1", "the operator's"),
        ("10.244.0.5:19000", "own admin address"),
        // Forms of IPv6 that stand for one of them.
        ("[::ffff:127.0.0.1]:80", "loopback"),
        ("[::ffff:169.254.169.254]:80", "metadata"),
        ("[::ffff:192.168.1.10]:10250", "a kubelet"),
        ("[::ffff:10.244.0.5]:19000", "own admin address"),
        ("[::127.0.0.1]:80", "loopback"),
        ("[::ffff:0:127.0.0.1]:80", "loopback"),
        ("[64:ff9b::169.254.169.254]:80", "metadata"),
        ("[64:ff9b::a60:1]:443", "the API server"),
        ("[64:ff9b:1::169.254.169.254]:80", "metadata"),
        ("[64:ff9b:1:a9fe:a9:fe00::]:80", "metadata"),
        ("[2002:a9fe:a9fe::1]:80", "metadata"),
        ("[2001:0:808:808:3:4:5601:5601]:80", "metadata"),
        ("[2001:db8::5efe:169.254.169.254]:80", "metadata"),
    ] {
        let refusal = guard.refusal(&socket(target)).unwrap_or_else(|| panic!("{target} is not refused"));
        assert!(refusal.contains(why), "{target}: {refusal}");
    }
}

#[test]
fn in_a_cluster_everything_else_may_be_a_backend() {
    let guard = cluster();
    for target in [
        "10.244.0.7:3000",
        "192.168.1.10:8080",
        "192.168.1.11:10250",
        "10.96.0.1:80",
        "10.96.0.2:443",
        "10.244.0.5:19001",
        "10.244.0.6:19000",
        "172.21.0.1:80",
        "8.8.8.8:443",
        "100.64.0.1:80",
        "240.0.0.1:80",
        "[2001:db8::1]:443",
        "[fd01::10]:443",
        "[64:ff9b::808:808]:443",
        "[64:ff9b:1::8.8.8.8]:443",
        "[64:ff9b:1:808:8:800::]:443",
        "[::ffff:10.244.0.7]:3000",
    ] {
        assert_eq!(guard.refusal(&socket(target)), None, "{target}");
    }
}

#[test]
fn what_an_operator_allows_is_no_longer_reserved_but_stays_denied() {
    let mut allowing = guard(&[("the operator's", &["127.0.0.3"], &[])], None);
    allowing.allow = vec!["127.0.0.0/29".parse().unwrap(), "169.254.20.10".parse().unwrap()];
    let guard = TargetGuard::build([&allowing].into_iter(), Some(([127, 0, 0, 1], 19000).into()));
    for target in ["127.0.0.1:80", "127.0.0.7:80", "169.254.20.10:53", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(guard.refusal(&socket(target)), None, "{target}");
    }
    for target in
        ["127.0.0.8:80", "127.0.0.3:80", "127.0.0.1:19000", "[::ffff:127.0.0.3]:80", "169.254.20.11:53"]
    {
        assert!(guard.refusal(&socket(target)).is_some(), "{target}");
    }
}

#[test]
fn unix_sockets_are_refused_outside_of_the_one_folder() {
    let unix = |path: &str| Address::Unix(Path::new(path).into());
    let guarded = cluster();
    assert_eq!(guarded.refusal(&unix("/var/run/backends/a.sock")), None);
    assert_eq!(guarded.refusal(&unix("/var/run/backends/x/a.sock")), None);
    for path in [
        "/var/run/backends",
        "/var/run/backends/../containerd.sock",
        "/var/run/backends-of-others/a",
        "/run/containerd/containerd.sock",
        "var/run/backends/a.sock",
        "a.sock",
    ] {
        let refusal = guarded.refusal(&unix(path)).unwrap();
        assert_eq!(refusal, "a Unix socket outside of /var/run/backends", "{path}");
    }
    let none = guard(&[], None);
    let none = TargetGuard::build([&none].into_iter(), None);
    assert!(none.refusal(&unix("/var/run/backends/a.sock")).unwrap().contains("no folder"));
}

#[test]
fn without_a_guard_in_the_state_nothing_is_refused() {
    let off = TargetGuard::build([].into_iter(), Some(([127, 0, 0, 1], 19000).into()));
    for target in ["127.0.0.1:19000", "169.254.169.254:80", "[::1]:80", "0.0.0.0:1"] {
        assert_eq!(off.refusal(&socket(target)), None);
    }
    assert_eq!(off.refusal(&Address::Unix(Path::new("/a").into())), None);
}

#[test]
fn only_an_address_of_this_machine_is_its_own() {
    assert!(is_own_address([127, 0, 0, 1].into()));
    // TEST-NET-1 is nobody's.
    assert!(!is_own_address([192, 0, 2, 1].into()));
}

/// Each form in which an address of IPv6 stands for one of IPv4.
fn forms(inner: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = inner.octets();
    let last = u128::from(u32::from(inner));
    let v6 = |high: u128| Ipv6Addr::from(high | last);
    let bytes = |pairs: &[(usize, u8)]| {
        let mut octets = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0).octets();
        pairs.iter().for_each(|(at, byte)| octets[*at] = *byte);
        Ipv6Addr::from(octets)
    };
    let mut forms = vec![
        inner.to_ipv6_mapped(),
        v6(0),
        v6(0xffff_0000 << 32),
        v6(0x0064_ff9b << 96),
        v6(0x0064_ff9b_0001 << 80),
        bytes(&[(6, a), (7, b), (9, c), (10, d)]),
        bytes(&[(7, a), (9, b), (10, c), (11, d)]),
        bytes(&[(9, a), (10, b), (11, c), (12, d)]),
        Ipv6Addr::from((0x2002 << 112) | (last << 80)),
        Ipv6Addr::from((0x2001_0000_0808_0808 << 64) | u128::from(!u32::from(inner))),
        v6((0x2001_0db8 << 96) | (0x5efe << 32)),
    ];
    if a == 0 {
        // Under a local prefix of NAT64 such a reading is taken for none.
        forms.drain(4..8);
    }
    forms
}

proptest! {
    #[test]
    fn whatever_is_refused_in_ipv4_is_refused_in_every_form_of_ipv6(inner: u32, port: u16) {
        let guard = cluster();
        let inner = Ipv4Addr::from(inner);
        if guard.refusal(&Address::Socket((inner, port).into())).is_some() {
            for form in forms(inner) {
                let refusal = guard.refusal(&Address::Socket((form, port).into()));
                prop_assert!(refusal.is_some(), "{form} stands for {inner}");
            }
        }
    }

    #[test]
    fn no_address_of_the_reserved_networks_passes_in_any_form(row in 0..reserved::RESERVED.len(), bits: u128, port: u16) {
        let guard = cluster();
        let network: Network = reserved::RESERVED[row].0.parse().unwrap();
        let text = network.to_string();
        let (base, prefix) = text.split_once('/').map_or((text.as_str(), 128), |(a, p)| (a, p.parse().unwrap()));
        let address: IpAddr = match base.parse().unwrap() {
            IpAddr::V4(base) => {
                let free = u32::MAX.checked_shr(prefix).unwrap_or(0);
                Ipv4Addr::from(u32::from(base) | (bits as u32 & free)).into()
            }
            IpAddr::V6(base) => {
                let free = u128::MAX.checked_shr(prefix).unwrap_or(0);
                Ipv6Addr::from(u128::from(base) | (bits & free)).into()
            }
        };
        prop_assert!(network.contains(address));
        prop_assert!(guard.refusal(&Address::Socket((address, port).into())).is_some(), "{address}");
        if let IpAddr::V4(inner) = address {
            for form in forms(inner) {
                prop_assert!(guard.refusal(&Address::Socket((form, port).into())).is_some(), "{form}");
            }
        }
    }

    #[test]
    fn no_address_makes_the_guard_panic(address: IpAddr, port: u16) {
        let _ = cluster().refusal(&Address::Socket((address, port).into()));
    }
}
