//! A listening socket of UDP that answers from the address that it was asked at.
//!
//! A socket that is bound to every address would answer from the one that the system's routes prefer, which need not be
//! the one that the client sent to; the client would not know the answer. So such a socket is told where each datagram
//! came to, and says with each answer where it is to come from.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A client, as a socket sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    /// What it sent to, where the socket is bound to every address: an address, and for IPv6 the interface.
    at: Option<(IpAddr, u32)>,
}

#[cfg(test)]
impl Client {
    /// A client of a socket that is bound to one address.
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { address, at: None }
    }
}

/// A listening socket of UDP.
#[derive(Debug)]
pub(super) struct ListenSocket {
    socket: UdpSocket,
    /// It is bound to every address.
    anywhere: bool,
}

impl ListenSocket {
    pub(super) fn new(socket: UdpSocket, bound: SocketAddr) -> Self {
        Self { socket, anywhere: bound.ip().is_unspecified() }
    }

    /// Waits until there may be a datagram.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes a datagram, if there is one.
    pub(super) fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
        if !self.anywhere {
            let (length, address) = self.socket.try_recv_from(buffer)?;
            return Ok((length, Client { address, at: None }));
        }
        self.socket.try_io(Interest::READABLE, || receive(&self.socket, buffer))
    }

    /// Sends an answer, if there is room for it now.
    pub(super) fn try_answer(&self, client: &Client, datagram: &[u8]) -> io::Result<()> {
        match client.at {
            None => self.socket.try_send_to(datagram, client.address).map(drop),
            Some(at) => {
                self.socket.try_io(Interest::WRITABLE, || answer(&self.socket, client.address, at, datagram))
            }
        }
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut pieces = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut control), MsgFlags::empty())?;
    let at = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some((IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr))), 0))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some((IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)), info.ipi6_ifindex))
        }
        _ => None,
    });
    let address = received.address.as_ref().and_then(address_of);
    let address = address.ok_or_else(|| io::Error::other("a datagram from no address"))?;
    Ok((received.bytes, Client { address, at }))
}

fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    let v6 = || address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into()));
    v4().or_else(v6)
}

fn answer(socket: &UdpSocket, to: SocketAddr, at: (IpAddr, u32), datagram: &[u8]) -> io::Result<()> {
    match (to, at) {
        (SocketAddr::V4(to), (IpAddr::V4(from), _)) => {
            let source = libc::in_addr { s_addr: u32::from(from).to_be() };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: source,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            send(socket, &[ControlMessage::Ipv4PacketInfo(&info)], &SockaddrIn::from(to), datagram)
        }
        (SocketAddr::V6(to), (IpAddr::V6(from), interface)) => {
            let source = libc::in6_addr { s6_addr: from.octets() };
            // Only an address of a link needs it, and another one may be answered over another interface.
            let is_of_link = from.is_unicast_link_local();
            let info =
                libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: if is_of_link { interface } else { 0 } };
            send(socket, &[ControlMessage::Ipv6PacketInfo(&info)], &SockaddrIn6::from(to), datagram)
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn send(
    socket: &UdpSocket,
    control: &[ControlMessage<'_>],
    to: &impl SockaddrLike,
    datagram: &[u8],
) -> io::Result<()> {
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(datagram)], control, MsgFlags::empty(), Some(to))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::listeners::bind_datagrams;

    async fn answers_from_where_it_was_asked(bound: &str, asked: &str) {
        let bound: SocketAddr = bound.parse().unwrap();
        let socket = UdpSocket::from_std(bind_datagrams(bound, false).unwrap()).unwrap();
        let asked = SocketAddr::new(asked.parse().unwrap(), socket.local_addr().unwrap().port());
        let listening = ListenSocket::new(socket, bound);
        let client = UdpSocket::bind((bound.ip(), 0)).await.unwrap();
        client.send_to(b"ask", asked).await.unwrap();
        let mut buffer = [0; 16];
        let (length, from) = loop {
            timeout(Duration::from_secs(20), listening.readable()).await.unwrap().unwrap();
            if let Ok(received) = listening.try_receive(&mut buffer) {
                break received;
            }
        };
        assert_eq!(&buffer[..length], b"ask");
        assert_eq!(from.address.port(), client.local_addr().unwrap().port());
        listening.try_answer(&from, b"answer").unwrap();
        let (length, answerer) =
            timeout(Duration::from_secs(20), client.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..length], answerer), (&b"answer"[..], asked));
    }

    #[tokio::test]
    async fn a_socket_that_is_bound_to_every_address_answers_from_the_one_that_was_asked() {
        answers_from_where_it_was_asked("0.0.0.0:0", "127.0.0.3").await;
    }

    #[tokio::test]
    async fn the_same_holds_for_ipv6() {
        answers_from_where_it_was_asked("[::]:0", "::1").await;
    }

    #[tokio::test]
    async fn a_socket_that_is_bound_to_one_address_answers_from_it() {
        answers_from_where_it_was_asked("127.0.0.4:0", "127.0.0.4").await;
    }
}
