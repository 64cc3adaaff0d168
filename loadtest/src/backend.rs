//! A very cheap HTTP/1.1 backend, so that a benchmark measures the proxy in front of it.
//!
//! It knows requests without bodies, and answers every one alike. Each thread has its own listeners and runtime.

use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The longest unfinished head that is kept.
const HEAD_LIMIT: usize = 64 * 1024;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Arguments of the backend.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where it listens; may be given several times.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Length of each answer's body in bytes.
    #[arg(long, default_value_t = 256)]
    body: usize,
}

/// Serves until the process is killed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let answer = answer(args.body);
    let mut threads = Vec::new();
    for _ in 0..args.threads.max(1) {
        // Bound here, so that a taken address ends the program.
        let sockets = args.listen.iter().map(|address| bind(*address)).collect::<Result<Vec<_>>>()?;
        let answer: &'static [u8] = answer.clone().leak();
        threads.push(thread::spawn(move || serve(sockets, answer)));
    }
    for thread in threads {
        match thread.join() {
            Ok(ended) => ended?,
            Err(_) => bail!("a thread of the backend panicked"),
        }
    }
    Ok(())
}

fn bind(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).with_context(|| format!("binding {address}"))?;
    socket.listen(1024)?;
    Ok(socket)
}

fn serve(sockets: Vec<Socket>, answer: &'static [u8]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut listeners = JoinSet::new();
        for socket in sockets {
            let listener = TcpListener::from_std(socket.into())?;
            listeners.spawn(async move {
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(connection(stream, answer));
                    }
                }
            });
        }
        while listeners.join_next().await.is_some() {}
        Ok(())
    })
}

async fn connection(mut stream: TcpStream, answer: &'static [u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    while stream.read_buf(&mut buffer).await? > 0 && buffer.len() <= HEAD_LIMIT {
        let mut rest = buffer.as_slice();
        let mut out = Vec::new();
        while let Some(at) = rest.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD) {
            rest = &rest[at + END_OF_HEAD.len()..];
            out.extend_from_slice(answer);
        }
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
        stream.write_all(&out).await?;
    }
    Ok(())
}

fn answer(body: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {body}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + body, b'x');
    answer
}
