//! A lean backend that answers each request with what belongs to it, and breaks on command.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::content::{ID, PATH, POOL, Pool, body, number};

/// The longest unfinished head that is kept.
const HEAD_LIMIT: usize = 16 * 1024;

/// What a backend does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It answers.
    Serves,
    /// Its port is closed, and its connections are reset.
    Refuses,
    /// It answers 503.
    Fails,
    /// It resets each connection instead of an answer.
    Resets,
    /// It ends.
    Ended,
}

/// A backend on its thread. It ends when this is dropped.
pub(crate) struct Backend {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    thread: Option<JoinHandle<()>>,
    /// Keeps the port while nobody listens.
    _reserved: Socket,
}

impl Backend {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When the system gives no port or thread.
    pub(crate) fn start(pool: Pool) -> Result<Self> {
        let reserved = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = reserved.local_addr()?.as_socket().context("a port of 127.0.0.1")?;
        let (mode, orders) = watch::channel(Mode::Serves);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let first = listen(address)?;
        let thread = std::thread::Builder::new().name(format!("{pool}")).spawn(move || {
            if let Err(error) = runtime.block_on(serve(address, pool, first, orders)) {
                eprintln!("the {pool} backend ended: {error:#}");
            }
        })?;
        Ok(Self { address, mode, thread: Some(thread), _reserved: reserved })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.set(Mode::Ended);
        if let Some(thread) = self.thread.take() {
            // It said itself why it ended, if it was not asked to.
            let _ = thread.join();
        }
    }
}

fn socket(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).with_context(|| format!("binding {address}"))?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> Result<Socket> {
    let socket = socket(address)?;
    socket.listen(1024)?;
    Ok(socket)
}

async fn serve(
    address: SocketAddr,
    pool: Pool,
    first: Socket,
    mut orders: watch::Receiver<Mode>,
) -> Result<()> {
    let mut socket = Some(first);
    loop {
        let mode = *orders.wait_for(|mode| *mode != Mode::Refuses).await?;
        if mode == Mode::Ended {
            return Ok(());
        }
        let bound = match socket.take() {
            Some(socket) => socket,
            None => listen(address)?,
        };
        let listener = TcpListener::from_std(bound.into())?;
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(connection(stream, pool, orders.clone()))),
                    // Such as too many open files, which another moment may cure.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                () = goes_down(&mut orders) => break,
            }
        }
    }
}

/// Waits until nobody shall listen any longer, or who gives the orders is gone.
async fn goes_down(orders: &mut watch::Receiver<Mode>) {
    let _ = orders.wait_for(|mode| matches!(mode, Mode::Refuses | Mode::Ended)).await;
}

async fn connection(mut stream: TcpStream, pool: Pool, mut orders: watch::Receiver<Mode>) {
    let reset = requests(&mut stream, pool, &mut orders).await.unwrap_or(false);
    if reset {
        // Without lingering a close is a reset; it fails only where the connection is gone already.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

/// Serves one request after the other; true when the connection must end with a reset.
async fn requests(
    stream: &mut TcpStream,
    pool: Pool,
    orders: &mut watch::Receiver<Mode>,
) -> std::io::Result<bool> {
    stream.set_nodelay(true)?;
    let (mut read, mut out, mut content) = (Vec::with_capacity(4096), Vec::with_capacity(2048), Vec::new());
    loop {
        let count = tokio::select! {
            biased;
            count = stream.read_buf(&mut read) => count?,
            () = goes_down(orders) => return Ok(true),
        };
        if count == 0 || read.len() > HEAD_LIMIT {
            return Ok(false);
        }
        out.clear();
        let mut used = 0;
        while let Some((length, id)) = head(&read[used..])? {
            used += length;
            match *orders.borrow() {
                Mode::Resets | Mode::Refuses | Mode::Ended => return Ok(true),
                Mode::Serves => answer("200 OK", id, pool, &mut content, &mut out)?,
                Mode::Fails => answer("503 Service Unavailable", id, pool, &mut content, &mut out)?,
            }
        }
        read.drain(..used);
        stream.write_all(&out).await?;
    }
}

/// Length of the head at the start of these bytes, and its request's number; `None` until it is complete.
fn head(bytes: &[u8]) -> std::io::Result<Option<(usize, u64)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let invalid = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let length = match request.parse(bytes).map_err(|error| invalid(error.to_string()))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(ID));
    let in_header = header.and_then(|header| number(header.value));
    let in_path = request.path.and_then(|path| number(path.strip_prefix(PATH)?.as_bytes()));
    if in_header != in_path {
        // The proxy mixed up two requests: the client sees an answer with a number that is not its own.
        return Ok(Some((length, u64::MAX)));
    }
    // The question whether it serves has no number.
    Ok(Some((length, in_path.unwrap_or(0))))
}

fn answer(
    status: &str,
    id: u64,
    pool: Pool,
    content: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> std::io::Result<()> {
    body(id, pool, content);
    let length = content.len();
    write!(out, "HTTP/1.1 {status}\r\n{ID}: {id}\r\n{POOL}: {pool}\r\ncontent-length: {length}\r\n\r\n")?;
    out.extend_from_slice(content);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_whose_numbers_differ_has_none_of_them() {
        let request =
            |path: u64, header: u64| format!("GET /test/{path} HTTP/1.1\r\nX-Soak-Id: {header}\r\n\r\n");
        let of = |text: &str| head(text.as_bytes()).unwrap();
        let text = request(7, 7);
        assert_eq!(of(&text), Some((text.len(), 7)));
        assert_eq!(of(&request(7, 8)).unwrap().1, u64::MAX);
        assert_eq!(of("GET /test HTTP/1.1\r\n\r\n").unwrap().1, 0);
        assert_eq!(of(&text[..20]), None);
        assert!(head(b"\0\r\n\r\n").is_err());
    }
}
