//! Opens listening sockets, and says what to do when that fails.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

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
) -> Result<TcpListener, BindError> {
    open(address, keepalive).map_err(|error| BindError::new(address, &error))
}

fn open(address: SocketAddr, keepalive: Option<Duration>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let listener = bind_listener("127.0.0.1:0".parse().unwrap(), Some(Duration::from_secs(77))).unwrap();
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
        assert_eq!(bind_listener(address, None).unwrap_err(), BindError::NotLocal(address));
    }
}
