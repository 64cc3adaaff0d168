//! Opens listening sockets, and says what to do when that fails.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Why an address could not be bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Something else listens there.
    #[error(
        "{0} is taken: another process, or a listener on the wildcard address, has the port; stop it \
         (`ss -ltnp 'sport = :{port}'` names it) or choose another with --bind or --port-offset; tried \
         again every second", port = .0.port()
    )]
    Taken(SocketAddr),
    /// The system forbids it.
    #[error(
        "{0} may not be bound by this user: ports below 1024 are privileged; use --port-offset 8000 (then \
         port 80 is bound as 8080) or `setcap cap_net_bind_service=+ep` on the binary; tried again every \
         second"
    )]
    Denied(SocketAddr),
    /// The machine does not have the address.
    #[error(
        "{0} is not an address of this machine (`ip address` lists them); use --bind with one that is; \
         tried again every second"
    )]
    NotLocal(SocketAddr),
    /// Anything else.
    #[error("{address} cannot be bound: {reason}; tried again every second")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
}

impl BindError {
    /// The address that could not be bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Taken(address) | Self::Denied(address) | Self::NotLocal(address) => *address,
            Self::Other { address, .. } => *address,
        }
    }

    fn new(address: SocketAddr, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::Taken(address),
            io::ErrorKind::PermissionDenied => Self::Denied(address),
            io::ErrorKind::AddrNotAvailable => Self::NotLocal(address),
            _ => Self::Other { address, reason: error.to_string() },
        }
    }
}

/// Binds and listens.
///
/// # Errors
/// [`BindError`], with the way out.
pub(super) fn bind_listener(
    address: SocketAddr,
    keepalive: Option<Duration>,
    shared: bool,
) -> Result<TcpListener, BindError> {
    open(address, keepalive, shared).map_err(|error| BindError::new(address, &error))
}

/// Opens a listening socket; a `shared` one leaves room for others of the same user on its address.
fn open(address: SocketAddr, keepalive: Option<Duration>, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // [::] and 0.0.0.0 are two sockets, which may belong to two gateways.
        socket.set_only_v6(true)?;
    }
    // Accepted connections inherit both options on Linux, which saves two system calls for each.
    socket.set_tcp_nodelay(true)?;
    if let Some(idle) = keepalive {
        SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes the system drop what asks a listening socket for a new connection. Handshakes that are under way come to their
/// end. Whoever is dropped asks again after a second, and is then heard by another socket that has the address.
pub(super) fn hush(listener: &TcpListener) -> io::Result<()> {
    // The filter sees segments from the header of TCP on: SYN without ACK in the flags goes, all else passes.
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&filter)
}

/// Instructions of classic packet filters (`linux/bpf_common.h`).
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Flags of TCP.
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hushed_socket_leaves_new_connections_to_another_one() {
        let bind = |address| bind_listener(address, None, true).unwrap();
        let old = bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = old.local_addr().unwrap();
        let before = std::net::TcpStream::connect(address).unwrap();
        hush(&old).unwrap();
        let quick = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert_eq!(quick.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // A connection whose first segment was dropped, and which comes to the new socket when it asks again.
        let waiting = std::thread::spawn(move || {
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(20)).map(drop)
        });
        let new = bind(address);
        std::thread::sleep(Duration::from_millis(100));
        // What had connected before is still there to be accepted.
        assert_eq!(old.accept().unwrap().1, before.local_addr().unwrap());
        drop(old);
        waiting.join().unwrap().unwrap();
        drop(new);
    }

    #[test]
    fn only_shared_sockets_share() {
        let first = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0)), None, false).unwrap();
        let address = first.local_addr().unwrap();
        assert_eq!(bind_listener(address, None, false).unwrap_err(), BindError::Taken(address));
        assert_eq!(bind_listener(address, None, true).unwrap_err(), BindError::Taken(address));
    }

    #[test]
    fn each_failure_names_the_address_and_a_way_out() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        for (kind, words) in [
            (io::ErrorKind::AddrInUse, "sport = :80"),
            (io::ErrorKind::PermissionDenied, "--port-offset"),
            (io::ErrorKind::AddrNotAvailable, "--bind"),
            (io::ErrorKind::Interrupted, "cannot be bound"),
        ] {
            let error = BindError::new(address, &io::Error::from(kind));
            assert_eq!(error.address(), address);
            let text = error.to_string();
            assert!(text.starts_with("127.0.0.1:80 ") && text.contains(words), "{text}");
        }
    }

    #[test]
    fn accepted_connections_inherit_nodelay_and_keepalive() {
        let listener =
            bind_listener("127.0.0.1:0".parse().unwrap(), Some(Duration::from_secs(77)), false).unwrap();
        listener.set_nonblocking(false).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        drop(client);
    }

    #[test]
    fn an_address_of_another_machine_is_reported() {
        // TEST-NET-1 belongs to nobody.
        let address = "192.0.2.1:1".parse().unwrap();
        assert_eq!(bind_listener(address, None, false).unwrap_err(), BindError::NotLocal(address));
    }
}
