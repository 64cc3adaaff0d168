//! One request as a line, JSON or readable. Whatever a client sent, it stays one line and well-formed.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use understudy_engine::Address;

use super::text;
use crate::decimal::push_number;

/// Longer texts of the client are cut, so that a line has a bound.
const LONGEST: usize = 2048;

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What went wrong with a request, in Envoy's short words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// `UF`: no connection to an endpoint.
    UpstreamConnectFailure,
    /// `UC`: the endpoint ended the connection.
    UpstreamConnectionEnded,
    /// `UO`: a limit of the pool was reached.
    UpstreamOverflow,
    /// `UH`: no endpoint could serve.
    NoHealthyUpstream,
    /// `UT`: the request's time was over.
    UpstreamTimeout,
    /// `URX`: the last retry failed, too.
    RetryLimitExceeded,
    /// `NR`: no route.
    NoRoute,
    /// `DC`: the client went away.
    DownstreamEnded,
    /// `UPE`: the endpoint did not speak HTTP.
    UpstreamProtocolError,
    /// `UR`: the endpoint reset the stream.
    UpstreamReset,
    /// `SI`: nothing moved for too long.
    StreamIdle,
    /// `DPE`: the client did not speak HTTP.
    DownstreamProtocolError,
    /// `UMSDR`: the stream took longer than any may.
    StreamDuration,
}

impl Flag {
    const ALL: [(Self, &'static str); 13] = [
        (Self::UpstreamConnectFailure, "UF"),
        (Self::UpstreamConnectionEnded, "UC"),
        (Self::UpstreamOverflow, "UO"),
        (Self::NoHealthyUpstream, "UH"),
        (Self::UpstreamTimeout, "UT"),
        (Self::RetryLimitExceeded, "URX"),
        (Self::NoRoute, "NR"),
        (Self::DownstreamEnded, "DC"),
        (Self::UpstreamProtocolError, "UPE"),
        (Self::UpstreamReset, "UR"),
        (Self::StreamIdle, "SI"),
        (Self::DownstreamProtocolError, "DPE"),
        (Self::StreamDuration, "UMSDR"),
    ];
}

/// The flags of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// Sets a flag.
    pub fn insert(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u8;
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn contains(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }

    fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Joined by commas, as Envoy does.
    fn text(self) -> String {
        let set = Flag::ALL.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, text)| *text);
        set.collect::<Vec<_>>().join(",")
    }
}

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

/// How a readable line names a route and the endpoint that served: put together once, at the first request.
#[derive(Debug, Default)]
pub struct PlaceText(OnceLock<Box<[u8]>>);

/// One request. What is `None` is left out.
#[derive(Debug, Clone, Serialize)]
pub struct Record<'a> {
    /// When it began.
    #[serde(serialize_with = "write_time")]
    pub time: SystemTime,
    /// Its method.
    pub method: &'a str,
    /// Its host, as the client named it.
    #[serde(serialize_with = "write_cut")]
    pub authority: &'a str,
    /// Its path with the query, as it came.
    #[serde(serialize_with = "write_cut")]
    pub path: &'a str,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    /// The answer's status; 0 if none was sent.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// Bytes of the answer's body.
    pub bytes_sent: u64,
    /// From the first byte of the request to the last of the answer, written in milliseconds.
    #[serde(rename = "duration_ms", serialize_with = "write_millis")]
    pub duration: Duration,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// The route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// The priority that served, written as `primary` or `fallback`.
    #[serde(rename = "pool", skip_serializing_if = "Option::is_none", serialize_with = "write_pool")]
    pub priority: Option<u32>,
    /// The backend that served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<&'a str>,
    /// The endpoint that served.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_address")]
    pub endpoint: Option<&'a Address>,
    /// Keeps the text of the four above, where they are the same for many requests.
    #[serde(skip)]
    pub place: Option<&'a PlaceText>,
    /// Attempts at endpoints.
    pub attempts: u32,
    /// Attempts after the first.
    pub retries: u32,
    /// What went wrong.
    #[serde(skip_serializing_if = "Flags::is_empty")]
    pub flags: Flags,
    /// What went wrong, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'a str>,
    /// `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_cut_option")]
    pub request_id: Option<&'a str>,
    /// `user-agent`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_cut_option")]
    pub user_agent: Option<&'a str>,
}

impl Record<'_> {
    /// Adds the line, with its end.
    pub(super) fn write(&self, format: LogFormat, line: &mut Vec<u8>) {
        match format {
            LogFormat::Text => self.write_text(line),
            LogFormat::Json => {
                // It cannot fail: every key is a string, and writing to memory does not fail.
                if let Err(error) = serde_json::to_writer(&mut *line, self) {
                    log::error!("a request could not be logged: {error}");
                }
            }
        }
        line.push(b'\n');
    }

    fn write_text(&self, line: &mut Vec<u8>) {
        text::timestamp(line, self.time);
        line.push(b' ');
        push_number(line, self.status.into());
        for value in [self.method, self.authority, self.path] {
            line.push(b' ');
            text::quoted(line, cut(value));
        }
        line.push(b' ');
        line.extend_from_slice(self.protocol.as_bytes());
        line.push(b' ');
        text::millis(line, self.duration);
        line.extend_from_slice(b"ms in=");
        push_number(line, self.bytes_received);
        line.extend_from_slice(b" out=");
        push_number(line, self.bytes_sent);
        if let Some(client) = &self.client {
            line.extend_from_slice(b" client=");
            text::socket(line, client);
        }
        match self.place {
            Some(PlaceText(kept)) => line.extend_from_slice(kept.get_or_init(|| {
                let mut place = Vec::new();
                self.write_place(&mut place);
                place.into()
            })),
            None => self.write_place(line),
        }
        line.extend_from_slice(b" attempts=");
        push_number(line, self.attempts.into());
        line.extend_from_slice(b" retries=");
        push_number(line, self.retries.into());
        if !self.flags.is_empty() {
            named(line, " flags=", Some(&self.flags.text()));
        }
        named(line, " cause=", self.cause);
        named(line, " id=", self.request_id);
        named(line, " agent=", self.user_agent);
    }

    fn write_place(&self, line: &mut Vec<u8>) {
        named(line, " route=", self.route);
        named(line, " pool=", self.priority.map(pool_name));
        named(line, " backend=", self.backend);
        match self.endpoint {
            Some(Address::Socket(address) | Address::Udp(address)) => {
                line.extend_from_slice(b" endpoint=");
                text::socket(line, address);
            }
            Some(unix) => named(line, " endpoint=", Some(&unix.to_string())),
            None => {}
        }
    }
}

/// A value under its name, where there is one.
fn named(line: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        line.extend_from_slice(name.as_bytes());
        text::quoted(line, cut(value));
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

fn millis(duration: Duration) -> f64 {
    // Microseconds are as fine as it gets, and f64 holds them exactly.
    duration.as_micros() as f64 / 1000.0
}

fn pool_name(priority: u32) -> &'static str {
    if priority == 0 { "primary" } else { "fallback" }
}

fn write_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = Vec::with_capacity(24);
    text::timestamp(&mut text, *time);
    serializer.serialize_str(&String::from_utf8_lossy(&text))
}

fn write_millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(millis(*duration))
}

fn write_cut<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cut(text))
}

fn write_cut_option<S: Serializer>(text: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    text.map(cut).serialize(serializer)
}

fn write_address<S: Serializer>(address: &Option<&Address>, serializer: S) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_none(),
    }
}

fn write_pool<S: Serializer>(priority: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    priority.map(pool_name).serialize(serializer)
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    static ENDPOINT: Address =
        Address::Socket(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 3000)));

    fn line(record: &Record<'_>, format: LogFormat) -> Vec<u8> {
        let mut line = Vec::new();
        record.write(format, &mut line);
        line
    }

    pub(in crate::access_log) fn record() -> Record<'static> {
        let mut flags = Flags::default();
        flags.insert(Flag::RetryLimitExceeded);
        flags.insert(Flag::UpstreamConnectFailure);
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_007),
            method: "GET",
            authority: "shop.example.com",
            path: "/cart?x=1",
            protocol: "HTTP/1.1",
            status: 503,
            bytes_received: 12,
            bytes_sent: 34,
            duration: Duration::from_micros(1_234_567),
            client: Some(([192, 0, 2, 7], 4711).into()),
            route: Some("httproute/default/shop"),
            priority: Some(1),
            backend: Some("backend/default/passive"),
            endpoint: Some(&ENDPOINT),
            place: None,
            attempts: 3,
            retries: 2,
            flags,
            cause: Some("connection refused"),
            request_id: Some("abc"),
            user_agent: Some("curl/8"),
        }
    }

    #[test]
    fn a_json_line_has_every_field_under_its_name() {
        let line = line(&record(), LogFormat::Json);
        assert_eq!(line.last(), Some(&b'\n'));
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let expected = serde_json::json!({
            "time": "2023-11-14T22:13:20.007Z", "method": "GET", "authority": "shop.example.com",
            "path": "/cart?x=1", "protocol": "HTTP/1.1", "status": 503, "bytes_received": 12,
            "bytes_sent": 34, "duration_ms": 1234.567, "client": "192.0.2.7:4711",
            "route": "httproute/default/shop", "pool": "fallback", "backend": "backend/default/passive",
            "endpoint": "10.0.0.1:3000", "attempts": 3, "retries": 2, "flags": "UF,URX",
            "cause": "connection refused", "request_id": "abc", "user_agent": "curl/8",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_readable_line_reads_from_left_to_right() {
        assert_eq!(
            String::from_utf8(line(&record(), LogFormat::Text)).unwrap(),
            "2023-11-14T22:13:20.007Z 503 GET shop.example.com /cart?x=1 HTTP/1.1 1234.567ms in=12 out=34 \
             client=192.0.2.7:4711 route=httproute/default/shop pool=fallback \
             backend=backend/default/passive endpoint=10.0.0.1:3000 attempts=3 retries=2 flags=UF,URX \
             cause=\"connection refused\" id=abc agent=curl/8\n"
        );
    }

    #[test]
    fn each_flag_has_its_own_bit_and_word() {
        for (flag, word) in Flag::ALL {
            let mut flags = Flags::default();
            flags.insert(flag);
            assert_eq!(flags.text(), word);
        }
    }

    #[test]
    fn what_is_missing_is_left_out() {
        let record = Record {
            client: None,
            route: None,
            priority: None,
            backend: None,
            endpoint: None,
            flags: Flags::default(),
            cause: None,
            request_id: None,
            user_agent: None,
            ..record()
        };
        let json = String::from_utf8(line(&record, LogFormat::Json)).unwrap();
        assert!(!json.contains("null") && !json.contains("flags") && !json.contains("pool"), "{json}");
        let text = String::from_utf8(line(&record, LogFormat::Text)).unwrap();
        assert!(text.ends_with("out=34 attempts=3 retries=2\n"), "{text}");
    }

    #[test]
    fn an_endpoint_on_a_unix_socket_is_named_by_its_path() {
        let address = Address::Unix(Path::new("/run/a b.sock").into());
        let record = Record { endpoint: Some(&address), ..record() };
        let text = String::from_utf8(line(&record, LogFormat::Text)).unwrap();
        assert!(text.contains(" endpoint=\"unix:/run/a b.sock\" "), "{text}");
        let json: serde_json::Value = serde_json::from_slice(&line(&record, LogFormat::Json)).unwrap();
        assert_eq!(json["endpoint"], "unix:/run/a b.sock");
    }

    #[test]
    fn a_place_that_is_kept_is_written_as_it_was_the_first_time() {
        let place = PlaceText::default();
        for _ in 0..2 {
            let kept = Record { place: Some(&place), ..record() };
            for format in [LogFormat::Text, LogFormat::Json] {
                assert_eq!(line(&kept, format), line(&record(), format));
            }
        }
    }

    #[test]
    fn endless_texts_are_cut() {
        let long = "ü".repeat(1_000_000);
        let record = Record { path: &long, authority: &long, user_agent: Some(&long), ..record() };
        assert!(line(&record, LogFormat::Json).len() < 4 * LONGEST);
        assert!(line(&record, LogFormat::Text).len() < 4 * LONGEST);
    }

    proptest! {
        #[test]
        fn hostile_texts_stay_in_one_well_formed_line(text in "(?s).{0,40}") {
            let record = Record {
                path: &text, authority: &text, user_agent: Some(&text), request_id: Some(&text), ..record()
            };
            let json = line(&record, LogFormat::Json);
            prop_assert_eq!(json.iter().filter(|byte| **byte == b'\n').count(), 1);
            let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(value["path"].as_str(), Some(text.as_str()));
            let line = String::from_utf8(line(&record, LogFormat::Text)).unwrap();
            prop_assert!(!line[..line.len() - 1].chars().any(char::is_control), "{:?}", line);
        }
    }
}
