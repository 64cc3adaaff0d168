//! Opens listening sockets, and says what to do when that fails.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
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
    /// Something else has the port of UDP.
    #[error(
        "UDP port {port} of {ip} is taken: another process, or a listener on the wildcard address, has it; stop it \
         (`ss -lunp 'sport = :{port}'` names it) or choose another with --bind or --port-offset; tried again every \
         second", port = .0.port(), ip = .0.ip()
    )]
    TakenUdp(SocketAddr),
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
            Self::Taken(address)
            | Self::TakenUdp(address)
            | Self::Denied(address)
            | Self::NotLocal(address) => *address,
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

/// Binds a socket for datagrams. Bound to every address, it says to which one each datagram came.
///
/// # Errors
/// [`BindError`], with the way out.
pub(crate) fn bind_datagrams(address: SocketAddr, shared: bool) -> Result<UdpSocket, BindError> {
    open_datagrams(address, shared).map_err(|error| match BindError::new(address, &error) {
        BindError::Taken(address) => BindError::TakenUdp(address),
        error => error,
    })
}

/// Bytes of datagrams that may wait in the system; it gives what its own limit allows.
const WAITING_DATAGRAMS: usize = 1024 * 1024;

fn open_datagrams(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    // Without SO_REUSEADDR, by which another socket could take the port away.
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(WAITING_DATAGRAMS)?;
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
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

/// Leads what asks for a new connection to the socket that was the second to be bound to this address: a successor's, as
/// long as this is the first. Handshakes that are under way here come to their end here. Where there is one socket alone,
/// it goes on as before. Only for sockets that share their address; what is set here stays when this one is closed.
pub(crate) fn lead_to_successor(listener: &impl AsFd) -> io::Result<()> {
    // A program for the group of sockets: the result is the index of the one to take; an index that none has counts as
    // no result.
    let mut program = [libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: SUCCESSOR }];
    // One instruction, so the length is 1.
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    Ok(setsockopt(listener, sockopt::AttachReusePortCbpf, &program)?)
}

/// The index of the socket that was bound second.
const SUCCESSOR: u32 = 1;
/// The instruction of classic packet filters that ends with a constant (`linux/bpf_common.h`).
const RETURN: u16 = 0x06;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_connections_are_led_to_the_successor_and_old_ones_stay() {
        let bind = |address| bind_listener(address, None, true).unwrap();
        let old = bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = old.local_addr().unwrap();
        let connect = || std::net::TcpStream::connect(address).unwrap();
        let is_empty = |socket: &TcpListener| {
            socket.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        // Without a successor nothing changes.
        lead_to_successor(&old).unwrap();
        let before: Vec<_> = (0..32).map(|_| connect()).collect();
        let new = bind(address);
        lead_to_successor(&old).unwrap();
        let after: Vec<_> = (0..32).map(|_| connect()).collect();
        let accepted = |socket: &TcpListener, clients: &[std::net::TcpStream]| {
            for client in clients {
                assert_eq!(socket.accept().unwrap().1, client.local_addr().unwrap());
            }
            assert!(is_empty(socket));
        };
        accepted(&old, &before);
        accepted(&new, &after);
        drop(old);
        // The successor is alone now, and the next one in turn is led to.
        accepted(&new, &[connect()]);
        let next = bind(address);
        lead_to_successor(&new).unwrap();
        accepted(&next, &[connect()]);
        assert!(is_empty(&new));
    }

    #[test]
    fn a_socket_that_does_not_share_its_address_leads_nobody_elsewhere() {
        let alone = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0)), None, false).unwrap();
        assert!(lead_to_successor(&alone).is_err());
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
