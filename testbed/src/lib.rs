//! Things to test a gateway against, on real loopback sockets.
//!
//! Purpose: backends that die, hang and lie on command; a port that swallows connections; an HTTP/1.1 client
//! that sends exactly the bytes it is told; backends and a client of HTTP/2 and gRPC; endpoints of TCP and UDP without HTTP; a DNS server whose answers change at run time. Inputs: commands of a
//! test, the demo or a drill. Outputs: traffic, and counts of what was seen. Everything runs as tokio tasks of
//! the current runtime, binds loopback addresses only when asked for none, and ends when its handle is dropped.

mod backend;
mod behaviour;
mod blackhole;
mod client;
mod connection;
mod dns;
mod dns_wire;
mod echo;
mod h2_backend;
mod h2_behaviour;
mod h2_client;
mod message;
mod observed;
mod shared;
mod stream;
mod tcp_echo;
mod udp_echo;
mod wire;

pub use backend::Backend;
pub use behaviour::{Answer, Behaviour, Content, Ending};
pub use blackhole::Blackhole;
pub use client::{Client, ClientError, End, get};
pub use dns::{DnsAnswer, DnsServer};
pub use h2_backend::{H2Backend, H2Request};
pub use h2_behaviour::H2Behaviour;
pub use h2_client::{H2Call, H2Client, H2Error, H2Response, grpc_message};
pub use message::{Interim, Request, Response};
pub use observed::{Observed, RequestRecord};
pub use shared::OnAccept;
pub use tcp_echo::TcpEcho;
pub use udp_echo::UdpEcho;
