//! Runs one plan against one proxy, on real sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use understudy_testbed::{
    Answer, Backend, Blackhole, Client, ClientError, Content, DnsAnswer, DnsServer, Request, Response,
};

use super::case::{Action, Load, LoadKind, Plan, Step, Who};
use super::gateway::{Binaries, Gateway, Proxy};
use super::record::{Mark, Record, Reply, Sample, Side, Turn};
use crate::manifests::{FALLBACK_NAME, PrimaryKind, render};
use crate::wrk::HOST;

/// Between requests that are made one after the other, as a shell takes it to start the next curl.
const BETWEEN: Duration = Duration::from_millis(10);
/// Between requests while a switch is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long connections have for the answer that says that they close.
const DRAIN: Duration = Duration::from_secs(1);
/// How long an answer of the drill's DNS server may be kept, in seconds.
const TTL: u32 = 30;
const PATH: &str = "/test";
const FALLBACK: &str = "passive";

/// Runs a plan and gives what the clients saw.
///
/// # Errors
/// When the proxy does not serve or ends, a backend cannot do as told, or the time is over.
pub(crate) async fn run(plan: &Plan, proxy: Proxy, binaries: &Binaries) -> Result<Record> {
    match timeout(plan.limit, run_unlimited(plan, proxy, binaries)).await {
        Ok(record) => record,
        Err(_) => bail!("not done after {} s", plan.limit.as_secs()),
    }
}

async fn run_unlimited(plan: &Plan, proxy: Proxy, binaries: &Binaries) -> Result<Record> {
    let mut primaries = Vec::new();
    for index in 0..plan.setup.primaries {
        primaries.push(Backend::start(format!("active-{index}")).await?);
    }
    let fallback = Backend::start(FALLBACK).await?;
    let dns = DnsServer::start().await?;
    dns.set(FALLBACK_NAME, DnsAnswer::addresses(&[IpAddr::V4(Ipv4Addr::LOCALHOST)], TTL));

    let addresses: Vec<SocketAddr> = primaries.iter().map(Backend::address).collect();
    let passive = fallback.address();
    let gateway =
        Gateway::start(proxy, binaries, dns.address(), |port| render(&plan.setup, port, &addresses, passive))
            .await?;
    let mut stage = Stage {
        gateway,
        stand_ins: primaries.iter().map(|_| None).collect(),
        primaries,
        fallback,
        fallback_stand_in: None,
        delay: plan.setup.delay,
        clients: Clients::default(),
    };
    if plan.setup.primary == PrimaryKind::Backend {
        for index in 0..stage.primaries.len() {
            stage.calm(Who::Primary(index))?;
        }
    }
    stage.calm(Who::Fallback)?;
    stage.clients = Clients::new(stage.gateway.address);
    for step in &plan.steps {
        stage.step(step).await?;
    }
    stage.gateway.require_alive()?;
    let mut record = stage.clients.finish();
    let cut = stage.primaries.iter().chain([&stage.fallback]).map(|backend| backend.observed().cut);
    record.on_the_wire = usize::try_from(cut.sum::<u64>())?;
    stage.gateway.stop().await;
    Ok(record)
}

/// The proxy with everything around it.
struct Stage {
    gateway: Gateway,
    primaries: Vec<Backend>,
    fallback: Backend,
    /// What swallows connections in a primary's place.
    stand_ins: Vec<Option<Blackhole>>,
    fallback_stand_in: Option<Blackhole>,
    delay: Duration,
    clients: Clients,
}

impl Stage {
    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Act(action) => self.act(action).await?,
            Step::Requests(count) => {
                for _ in 0..*count {
                    self.clients.get().await;
                    sleep(BETWEEN).await;
                }
            }
            Step::Burst(count) => {
                for _ in 0..*count {
                    self.clients.get().await;
                }
            }
            Step::Post(size) => self.clients.post(*size).await,
            Step::Load(load) => self.load(load).await?,
            Step::Until(side, at_most) => {
                let deadline = Instant::now() + *at_most;
                while self.clients.get().await != Some(*side) && Instant::now() < deadline {
                    sleep(LOOK).await;
                }
            }
            Step::Wait(time) => sleep(*time).await,
            Step::CountShares => self.clients.count_shares(),
        }
        self.gateway.require_alive()
    }

    async fn load(&mut self, load: &Load) -> Result<()> {
        let start = Instant::now();
        let end = start + load.lasting;
        let clients = self.clients.clone();
        let kind = load.kind;
        // Dropped with the stage when something fails, and its clients with it.
        let mut loading = JoinSet::new();
        loading.spawn(async move {
            match kind {
                LoadKind::Rate(rate) => clients.rate(rate, end).await,
                LoadKind::Connections(count) => clients.connections(count, end).await,
            }
        });
        for (after, action) in &load.actions {
            sleep_until(start + *after).await;
            self.act(action).await?;
        }
        while let Some(done) = loading.join_next().await {
            done.context("the load ended early")?;
        }
        Ok(())
    }

    fn backend(&self, who: Who) -> Result<&Backend> {
        match who {
            Who::Primary(index) => {
                self.primaries.get(index).with_context(|| format!("the script names primary {index}"))
            }
            Who::Fallback => Ok(&self.fallback),
        }
    }

    fn stand_in(&mut self, who: Who) -> &mut Option<Blackhole> {
        match who {
            // The script was checked by `backend` before.
            Who::Primary(index) => &mut self.stand_ins[index],
            Who::Fallback => &mut self.fallback_stand_in,
        }
    }

    /// Lets a backend answer as it should.
    fn calm(&self, who: Who) -> Result<()> {
        let backend = self.backend(who)?;
        backend.heal();
        backend.set(self.good_answer());
        Ok(())
    }

    fn good_answer(&self) -> Answer {
        Answer::status(200).delay(self.delay).content(Content::RequestBody)
    }

    async fn act(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::Kill(who) => {
                self.mark(Turn::Break, "killed", *who);
                self.backend(*who)?.kill().await;
            }
            Action::Close(who) => {
                self.mark(Turn::Break, "closed", *who);
                self.backend(*who)?.close_gracefully().await;
            }
            Action::Drain(who) => {
                self.mark(Turn::Break, "drained", *who);
                let backend = self.backend(*who)?;
                backend.set(self.good_answer().close());
                backend.refuse().await;
                // Those left after that are idle, and nobody's answer.
                backend.wait_until(DRAIN, |seen| seen.open == 0).await;
                backend.close_gracefully().await;
            }
            Action::Blackhole(who) => {
                self.mark(Turn::Break, "black hole", *who);
                let backend = self.backend(*who)?;
                backend.kill().await;
                let hole = Blackhole::start_on(backend.address()).await?;
                *self.stand_in(*who) = Some(hole);
            }
            Action::Heal(who) => {
                *self.stand_in(*who) = None;
                self.calm(*who)?;
                let backend = self.backend(*who)?;
                if !backend.is_listening() {
                    backend.restart().await?;
                }
                self.mark(Turn::Heal, "healed", *who);
            }
            Action::Next(who, behaviours) => {
                self.mark(Turn::Break, "breaks", *who);
                self.backend(*who)?.script(behaviours.iter().cloned());
            }
            Action::Always(who, behaviour) => {
                self.mark(Turn::Break, "broken", *who);
                self.backend(*who)?.set(behaviour.clone());
            }
        }
        Ok(())
    }

    fn mark(&self, turn: Turn, word: &str, who: Who) {
        let name = match who {
            Who::Primary(index) if self.primaries.len() > 1 => format!("primary {index}"),
            Who::Primary(_) => "primary".to_owned(),
            Who::Fallback => "fallback".to_owned(),
        };
        self.clients.mark(turn, format!("{name} {word}"));
    }
}

/// The clients, who write down what they see.
#[derive(Clone)]
struct Clients {
    gateway: SocketAddr,
    start: Instant,
    record: Arc<Mutex<Record>>,
}

impl Default for Clients {
    fn default() -> Self {
        Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }
}

impl Clients {
    fn new(gateway: SocketAddr) -> Self {
        Self { gateway, start: Instant::now(), record: Arc::default() }
    }

    fn mark(&self, turn: Turn, label: String) {
        self.record.lock().marks.push(Mark { at: self.start.elapsed(), turn, label });
    }

    fn count_shares(&self) {
        self.record.lock().shares_from = self.start.elapsed();
    }

    /// Everything that was written down, in the order of sending.
    fn finish(&self) -> Record {
        let mut record = std::mem::take(&mut *self.record.lock());
        record.samples.sort_by_key(|sample| sample.at);
        record.length = self.start.elapsed();
        record
    }

    /// One GET on a connection of its own; gives the pool that served it.
    async fn get(&self) -> Option<Side> {
        let request = Request::get(HOST, PATH).header("Connection", "close");
        self.alone(&request, &[]).await
    }

    async fn post(&self, size: usize) {
        let body: Vec<u8> = (0..size).map(|index| b'a' + (index % 23) as u8).collect();
        let request = Request::new("POST", HOST, PATH).header("Connection", "close").body(body.clone());
        self.alone(&request, &body).await;
    }

    async fn alone(&self, request: &Request, expected: &[u8]) -> Option<Side> {
        let sent = Instant::now();
        let answer = match Client::connect_within(self.gateway, PATIENCE).await {
            Ok(mut client) => client.send_request(request).await,
            Err(error) => Err(error),
        };
        let sample = self.note(sent, &answer, expected);
        sample.side().filter(|_| !sample.is_lost())
    }

    fn note(&self, sent: Instant, answer: &Result<Response, ClientError>, expected: &[u8]) -> Sample {
        let sample = Sample { at: sent - self.start, took: sent.elapsed(), reply: reply(answer, expected) };
        self.record.lock().samples.push(sample.clone());
        sample
    }

    async fn rate(&self, rate: u32, end: Instant) {
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        // At most as many as are sent while a client waits.
        let mut requests = JoinSet::new();
        loop {
            ticks.tick().await;
            if Instant::now() >= end {
                break;
            }
            let clients = self.clone();
            requests.spawn(async move { clients.get().await });
            while requests.try_join_next().is_some() {}
        }
        while requests.join_next().await.is_some() {}
    }

    async fn connections(&self, count: usize, end: Instant) {
        let mut connections = JoinSet::new();
        for _ in 0..count {
            let clients = self.clone();
            connections.spawn(async move { clients.keep_alive(end).await });
        }
        while connections.join_next().await.is_some() {}
    }

    async fn keep_alive(&self, end: Instant) {
        let mut open: Option<Client> = None;
        while Instant::now() < end {
            let sent = Instant::now();
            let answer = match open.take() {
                Some(client) => Ok(client),
                None => Client::connect_within(self.gateway, PATIENCE).await,
            };
            let answer = match answer {
                Ok(mut client) => {
                    let answer = client.get(HOST, PATH).await;
                    if answer.as_ref().is_ok_and(Response::keeps_alive) {
                        open = Some(client);
                    }
                    answer
                }
                Err(error) => Err(error),
            };
            if self.note(sent, &answer, &[]).is_lost() {
                // A proxy that is gone, or has no room, is not asked in a busy loop.
                sleep(BETWEEN).await;
            }
        }
    }
}

/// What an answer means.
fn reply(answer: &Result<Response, ClientError>, expected: &[u8]) -> Reply {
    match answer {
        Ok(response) => {
            let side = side(response);
            if response.status == 200 && side.is_some() && response.body != expected {
                return Reply::Wrong { side };
            }
            Reply::Whole { status: response.status, side }
        }
        Err(ClientError::BodyCut { response, .. }) => Reply::Cut { side: side(response) },
        Err(error) => Reply::Nothing(error.to_string()),
    }
}

fn side(response: &Response) -> Option<Side> {
    let name = response.header("x-backend")?;
    Some(if name == FALLBACK { Side::Fallback } else { Side::Primary })
}
