//! The DNS server's answers, seen over UDP.

#![allow(clippy::unwrap_used)] // Helpers of tests are not recognised as tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use understudy_testbed::{DnsAnswer, DnsServer};

const A: u16 = 1;
const AAAA: u16 = 28;
const SOON: Duration = Duration::from_secs(10);

/// The parts of a reply that tests look at: code, data of the answer records, and their TTLs.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    code: u8,
    data: Vec<Vec<u8>>,
    ttls: Vec<u32>,
}

async fn ask(server: &DnsServer, name: &str, record_type: u16) -> Option<Reply> {
    let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&record_type.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query, server.address()).await.unwrap();
    let mut buffer = [0; 1500];
    let length = timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await.ok()?.unwrap();
    let packet = &buffer[..length];
    assert_eq!(packet[..2], [7, 9], "the reply has the query's id");
    assert_eq!(packet[12..query.len()], query[12..], "the reply repeats the question");
    let (mut data, mut ttls) = (Vec::new(), Vec::new());
    let mut at = query.len();
    for _ in 0..u16::from_be_bytes([packet[6], packet[7]]) {
        ttls.push(u32::from_be_bytes(packet[at + 6..at + 10].try_into().unwrap()));
        let length = usize::from(u16::from_be_bytes([packet[at + 10], packet[at + 11]]));
        data.push(packet[at + 12..at + 12 + length].to_vec());
        at += 12 + length;
    }
    Some(Reply { code: packet[3] & 0xf, data, ttls })
}

fn empty(code: u8) -> Option<Reply> {
    Some(Reply { code, data: Vec::new(), ttls: Vec::new() })
}

#[tokio::test]
async fn addresses_of_both_families_are_given_with_their_ttl() {
    let server = DnsServer::start().await.unwrap();
    let v6 = Ipv6Addr::LOCALHOST;
    let addresses = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)), [127, 0, 0, 2].into(), v6.into()];
    server.set("Active.Default.svc.", DnsAnswer::addresses(&addresses, 3));
    let reply = ask(&server, "active.default.svc", A).await.unwrap();
    assert_eq!(
        reply,
        Reply { code: 0, data: vec![vec![127, 0, 0, 1], vec![127, 0, 0, 2]], ttls: vec![3, 3] }
    );
    let reply = ask(&server, "ACTIVE.default.svc", AAAA).await.unwrap();
    assert_eq!(reply.data, [v6.octets().to_vec()]);
    assert_eq!(ask(&server, "active.default.svc", 16).await, empty(0));
}

#[tokio::test]
async fn every_kind_of_failure_can_be_asked_for_and_changes_at_run_time() {
    let server = DnsServer::start().await.unwrap();
    assert_eq!(ask(&server, "unknown", A).await, empty(3));
    for (answer, expected) in [
        (DnsAnswer::NxDomain, empty(3)),
        (DnsAnswer::Empty, empty(0)),
        (DnsAnswer::ServFail, empty(2)),
        (DnsAnswer::Refused, empty(5)),
        (DnsAnswer::Silent, None),
    ] {
        server.set("a", answer.clone());
        assert_eq!(ask(&server, "a", A).await, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn queries_are_counted_by_name() {
    let server = DnsServer::start().await.unwrap();
    server.set("a", DnsAnswer::Silent);
    assert!(!server.wait_for_queries("a", 1, Duration::from_millis(20)).await);
    let (_, _, seen) =
        tokio::join!(ask(&server, "a", A), ask(&server, "a", AAAA), server.wait_for_queries("A.", 2, SOON));
    assert!(seen);
    assert_eq!((server.queries("a"), server.queries("b")), (2, 0));
}
