//! `understudy demo`: the failover task from its own manifests, with nothing to prepare.
//!
//! Two small backends run inside, on loopback addresses that the demo's name resolution gives to the task's
//! service names. The gateway is the real one, over the same code and the same state on disk as `understudy run`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use understudy_testbed::{Backend, Client};

use crate::args::DemoArgs;
use crate::{serve, signals};

/// The task's objects.
const MANIFEST: &str = include_str!("../../conf/examples/failover-task.yaml");
const HOST: &str = "www.example.com";
const PORT: u16 = 3000;
const ACTIVE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const PASSIVE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// Base ejection time and an interval, with room for a busy machine.
const RETURN_WITHIN: Duration = Duration::from_secs(40);

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    // The walk is what is to be read; the gateway's own log only if something is wrong.
    if std::env::var_os("RUST_LOG").is_none() {
        log::set_max_level(log::LevelFilter::Error);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(demo(args))
}

async fn demo(args: &DemoArgs) -> Result<ExitCode> {
    let folder = serve::TemporaryFolder::new("demo")?;
    let manifest = folder.path().join("failover-task.yaml");
    std::fs::write(&manifest, MANIFEST)?;
    let backend = |address, name: &'static str| async move {
        Backend::start_on(SocketAddr::new(address, PORT), name).await.with_context(|| {
            format!("the demo's backend cannot listen on {address}:{PORT}: stop what uses port {PORT}, and try again")
        })
    };
    let active = backend(ACTIVE, "active-5bb896774f-demo1").await?;
    let _passive = backend(PASSIVE, "passive-7ddbf945c9-demo2").await?;

    let (gateway, admin) = (free_port()?, free_port()?);
    let options = serve::DemoGateway {
        manifest,
        state: folder.path().join("state"),
        gateway_port: gateway.port(),
        admin,
        resolve: vec![
            ("active.default.svc.cluster.local".to_owned(), ACTIVE),
            ("passive.default.svc.cluster.local".to_owned(), PASSIVE),
        ],
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve::demo_gateway(options, async move {
        let _ = stopped.await;
    }));
    wait_until_ready(gateway).await?;

    let mut walk = Walk { gateway, kept: true };
    say(&format!(
        "The failover task: HTTPRoute ha-example sends {HOST}/test to Backend `active`,\n\
         and to Backend `passive` (fallback: true) when `active` fails.\n"
    ))?;
    walk.ten_requests("1. Ten requests, both backends up", "active").await?;
    active.kill().await;
    say("2. The primary is killed: its port is closed, its connections are reset.\n")?;
    walk.ten_requests("3. Ten requests again", "passive").await?;
    active.restart().await.context("the primary cannot listen again")?;
    say(
        "4. The primary is started again. Its ejection lasts 10 s (baseEjectionTime); then the gateway\n   connects to it, and one real request proves it.\n",
    )?;
    walk.wait_for_return().await?;
    let kept = walk.kept;
    say(if kept {
        "Done: no request failed.\n"
    } else {
        "The walk did not go as promised; run it again with RUST_LOG=info to see why.\n"
    })?;
    if !args.once {
        keep_running(&active, gateway, admin).await?;
    }
    drop(stop);
    let _ = timeout(Duration::from_secs(10), server).await;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Walk {
    gateway: SocketAddr,
    kept: bool,
}

impl Walk {
    async fn request(&self) -> Result<String, String> {
        let mut client = Client::connect(self.gateway).await.map_err(|error| error.to_string())?;
        let response = client.get(HOST, "/test").await.map_err(|error| error.to_string())?;
        match response.pod() {
            Some(pod) if response.status == 200 => Ok(pod),
            _ => Err(format!("status {}", response.status)),
        }
    }

    async fn ten_requests(&mut self, title: &str, expected: &str) -> Result<()> {
        let mut text = format!(
            "{title}:\n   for i in {{1..10}}; do curl -H \"Host: {HOST}\" http://{}/test | jq .pod; done\n\n",
            self.gateway
        );
        let mut failed = 0;
        for _ in 0..10 {
            match self.request().await {
                Ok(pod) => {
                    self.kept &= pod.starts_with(expected);
                    let _ = writeln!(text, "   \"{pod}\"");
                }
                Err(error) => {
                    failed += 1;
                    self.kept = false;
                    let _ = writeln!(text, "   FAILED: {error}");
                }
            }
        }
        let _ = writeln!(text, "\n   {} of 10 answered, {failed} failed.", 10 - failed);
        say(&text)
    }

    async fn wait_for_return(&mut self) -> Result<()> {
        let start = Instant::now();
        let (mut requests, mut failed) = (0, 0);
        let back = loop {
            if start.elapsed() > RETURN_WITHIN {
                break false;
            }
            requests += 1;
            match self.request().await {
                Ok(pod) if pod.starts_with("active") => break true,
                Ok(_) => {}
                Err(_) => failed += 1,
            }
            sleep(Duration::from_millis(100)).await;
        };
        self.kept &= back && failed == 0;
        if back {
            say(&format!(
                "   The primary is back after {:.1} s: {requests} requests meanwhile, {failed} failed.\n",
                start.elapsed().as_secs_f64()
            ))?;
            self.ten_requests("5. Ten requests to the end", "active").await
        } else {
            say(&format!("   The primary did not come back within {} s.\n", RETURN_WITHIN.as_secs()))
        }
    }
}

async fn wait_until_ready(gateway: SocketAddr) -> Result<()> {
    let connected = async {
        while tokio::net::TcpStream::connect(gateway).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), connected)
        .await
        .context("the gateway did not start within 20 s; run it with RUST_LOG=info to see why")
}

async fn keep_running(active: &Backend, gateway: SocketAddr, admin: SocketAddr) -> Result<()> {
    say(&format!(
        "The gateway keeps running. In another terminal:\n\
         \x20  curl -s -H \"Host: {HOST}\" http://{gateway}/test | jq .pod\n\
         \x20  understudy pools --watch --admin {admin}     (or: cargo run --release -- pools …)\n\
         Enter kills the primary or starts it again; Ctrl-C ends the demo.\n"
    ))?;
    let mut stop = Box::pin(signals::stop()?);
    let mut lines = enters();
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            Some(()) = lines.recv() => {
                if active.is_listening() {
                    active.kill().await;
                    say("The primary is dead.")?;
                } else {
                    active.restart().await.context("the primary cannot listen again")?;
                    say("The primary is up again.")?;
                }
            }
        }
    }
}

/// One message for each line on standard input; none after its end.
fn enters() -> tokio::sync::mpsc::Receiver<()> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A port that nobody uses now.
fn free_port() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn say(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
