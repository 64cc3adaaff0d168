//! Runs one plan against one proxy, on real sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use understudy_testbed::{Answer, Backend, Blackhole, Content, DnsAnswer, DnsServer};

use super::case::{Action, Load, LoadKind, Plan, Step, Who};
use super::clients::{BETWEEN, Clients, FALLBACK};
use super::gateway::{Binaries, Gateway, Proxy};
use super::record::{Record, Turn};
use crate::manifests::{FALLBACK_NAME, PrimaryKind, render};

/// Between requests while a switch is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// How long connections have for the answer that says that they close.
const DRAIN: Duration = Duration::from_secs(1);
/// How long an answer of the drill's DNS server may be kept, in seconds.
const TTL: u32 = 30;

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
                LoadKind::Sessions(count) => clients.sessions(count, end).await,
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
        Answer::status(200).delay(self.delay).content(Content::RequestBody).upgrade()
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
