//! One request on its way through the attempts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use understudy_conf::{GatewayDuration, Priority};

use crate::admission::{self, Admitted, Entrant, Place, Room};
use crate::choose::{self, Draws, Further};
use crate::phase::Phase;
use crate::pool::{Member, Pool};
use crate::retry::{self, Facts, Failure, GiveUp, Ground, Next, Used};
use crate::{Cause, ConnectFailure, Instant, Outcome, TlsStrength};

/// What matters of a request for the choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestTraits {
    /// Idempotent and without a body: it can be replayed elsewhere whatever happens.
    pub replayable: bool,
    /// Hash of what the pool's balancer hashes, if it does and the request has it.
    pub hash: Option<u64>,
}

/// Why there is no endpoint for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// The reference that was drawn is invalid, and the rule has no fallback: 500 (Gateway API).
    #[error("the backend reference is invalid")]
    Invalid,
    /// The reference that was drawn has no endpoint, and the rule has no fallback: 503.
    #[error("the backend has no endpoint")]
    Empty,
    /// No endpoint can serve: 503 (rule P9).
    #[error("no healthy upstream")]
    Unhealthy,
    /// A limit of the pool was reached: 503 (rule B2).
    #[error("overflow")]
    Overflow,
    /// All connections of the pool are in use: choose again after [`Exchange::room`] (rule B3).
    #[error("all connections are in use")]
    Wait,
}

/// The endpoint of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Index into [`Pool::members`].
    pub member: usize,
    /// The attempt is a trial of a returning endpoint.
    pub trial: bool,
}

#[derive(Clone, Copy)]
struct Attempt {
    choice: Choice,
    /// Index of the lane that counts it.
    lane: usize,
    /// The request may be sent again though it reached the endpoint.
    replayable: bool,
    /// Its outcome, once it was told.
    settled: Option<Outcome>,
    /// It counts as a retry under way.
    retry: bool,
}

/// One request: choose → attempt → outcome → next. Dropping it in the middle charges nobody.
pub struct Exchange {
    pool: Arc<Pool>,
    attempt: Option<Attempt>,
    attempts: u32,
    /// Members tried before the current attempt, and how the next one may be chosen.
    tried: Vec<usize>,
    per_priority: Vec<(Priority, u32)>,
    used: Used,
    /// What the way to a further endpoint must protect at least.
    floor: TlsStrength,
    pending: Option<Ground>,
    /// Chosen again, since only its pooled connection was dead.
    same_again: Option<Choice>,
    /// Its place in a queue, while it waits.
    place: Option<Place>,
    last_seen: Instant,
}

impl Exchange {
    /// Begins a request.
    #[must_use]
    pub fn begin(pool: Arc<Pool>, now: Instant) -> Self {
        pool.shared().active.fetch_add(1, Ordering::Relaxed);
        Self {
            pool,
            attempt: None,
            attempts: 0,
            tried: Vec::new(),
            per_priority: Vec::new(),
            used: Used::default(),
            floor: TlsStrength::Plain,
            pending: None,
            same_again: None,
            place: None,
            last_seen: now,
        }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Attempts so far.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Attempts after the first one, whatever their ground.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.attempts.saturating_sub(1)
    }

    /// The current attempt's endpoint.
    #[must_use]
    pub fn current(&self) -> Option<(&Member, Choice)> {
        let attempt = self.attempt.as_ref()?;
        Some((&self.pool.members()[attempt.choice.member], attempt.choice))
    }

    /// Chooses the endpoint of the next attempt.
    ///
    /// # Errors
    /// [`NoEndpoint`] if nothing can serve now. After [`NoEndpoint::Wait`] it is to be called again.
    pub fn choose(
        &mut self,
        request: RequestTraits,
        now: Instant,
        rng: &mut Rng,
    ) -> Result<Choice, NoEndpoint> {
        let held = self.end_attempt(now);
        let same_again = self.same_again.take();
        let (choice, lane) = match (same_again, held) {
            // The connection is replaced by a new one: it is the same request to the same endpoint. What was a
            // trial stays one, so that it is replayed elsewhere if it fails.
            (Some(Choice { member, trial }), Some((_, lane))) => {
                let trial = trial && self.pool.members()[member].record.begin_trial();
                (Choice { member, trial }, lane)
            }
            (_, held) => {
                self.release(held);
                self.choose_anew(request, now, rng)?
            }
        };
        self.pending = None;
        let retry = self.attempts > 0;
        if retry {
            self.pool.shared().retries.fetch_add(1, Ordering::Relaxed);
        }
        self.pool.members()[choice.member].record.begin();
        self.attempts += 1;
        self.attempt = Some(Attempt { choice, lane, replayable: request.replayable, settled: None, retry });
        Ok(choice)
    }

    fn choose_anew(
        &mut self,
        request: RequestTraits,
        now: Instant,
        rng: &mut Rng,
    ) -> Result<(Choice, usize), NoEndpoint> {
        let pool = &self.pool;
        let view = pool.current(now);
        let mut draws = Draws::new(pool, request, rng);
        let mut wanted = Choice { member: 0, trial: false };
        if self.tried.is_empty() {
            match choose::trial(pool, &view, request, draws.hash, now) {
                Some(member) => wanted = Choice { member, trial: true },
                None => wanted.member = choose::first(pool, &view, &mut draws)?,
            }
        } else {
            let exhausted = self.exhausted_priorities();
            let again = self.pending == Some(Ground::Policy);
            let further = Further { tried: &self.tried, exhausted: &exhausted, again, floor: self.floor };
            wanted.member =
                choose::further(pool, &view, &further, &mut draws).ok_or(NoEndpoint::Unhealthy)?;
        }
        let entrant = Entrant { chosen: wanted.member, tried: &self.tried, floor: self.floor };
        let admitted = admission::admit(pool, &view, entrant, &mut self.place, &mut draws);
        let stays = admitted.as_ref().is_ok_and(|admitted| admitted.member == wanted.member);
        if wanted.trial && !stays {
            pool.members()[wanted.member].record.end_trial(None, now);
        }
        let Admitted { member, lane } = admitted?;
        Ok((Choice { member, trial: wanted.trial && stays }, lane))
    }

    /// Resolves when a request that was told to wait may choose again.
    #[must_use]
    pub fn room(&self) -> Option<Room> {
        self.place.as_ref().map(Place::room)
    }

    /// Whether some endpoint could take a further attempt.
    fn can_choose(&self, again: bool, now: Instant, rng: &mut Rng) -> bool {
        let exhausted = self.exhausted_priorities();
        let further = Further { tried: &self.tried, exhausted: &exhausted, again, floor: self.floor };
        let mut draws = Draws::new(&self.pool, RequestTraits::default(), rng);
        choose::further(&self.pool, &self.pool.current(now), &further, &mut draws).is_some()
    }

    fn exhausted_priorities(&self) -> Vec<Priority> {
        let limit = self.pool.spec().retry.as_ref().and_then(|retry| retry.num_attempts_per_priority);
        let Some(limit) = limit.filter(|limit| *limit > 0) else { return Vec::new() };
        let reached: Vec<Priority> = self
            .per_priority
            .iter()
            .filter(|(_, count)| *count >= limit)
            .map(|(priority, _)| *priority)
            .collect();
        // R11: none left starts over.
        if reached.len() >= self.pool.priorities().len() { Vec::new() } else { reached }
    }

    /// A connection came about (rule O4).
    pub fn connected(&self) {
        if let Some((member, _)) = self.current() {
            member.record.record_connected();
        }
    }

    /// Whether the current attempt's endpoint would still be chosen: it has not left its pool, and if it takes no
    /// traffic now, no other does either. For whoever sends to it for long.
    #[must_use]
    pub fn still_serves(&self, now: Instant) -> bool {
        let Some(Attempt { choice, .. }) = self.attempt else { return false };
        let view = self.pool.current(now);
        let seen = &view.members[choice.member];
        let on_trial = choice.trial && matches!(seen.phase, Phase::Trial { .. });
        !self.pool.members()[choice.member].departure().has_left()
            && (seen.usable || on_trial || !view.any_usable)
    }

    /// Rule H7: the answer says that its endpoint wants no traffic. Without an active check that says nothing.
    pub fn fails_check(&self, now: Instant) {
        if let Some(check) = self.current().and_then(|(member, _)| member.check.as_ref()) {
            check.fail_on_request(now);
        }
    }

    /// The answer's headers arrived. A failing status counts at once; success is counted by [`Self::finished`].
    /// Returns the failure where the status is one.
    pub fn headers(&mut self, status: u16, now: Instant) -> Option<Cause> {
        let cause = Failure::Status(status).cause()?;
        self.settle(Some(Outcome::Failure(cause)), now);
        Some(cause)
    }

    /// The whole answer arrived, or flowed healthily for an interval: success, unless a failure was counted.
    pub fn finished(&mut self, now: Instant) {
        self.settle(Some(Outcome::Success), now);
    }

    /// Length of healthy flow after which a stream counts as success.
    #[must_use]
    pub fn flow_interval(&self) -> Option<GatewayDuration> {
        self.pool.spec().scope.passive.as_ref().map(|passive| passive.interval)
    }

    /// The attempt failed: counts it and decides what is next.
    pub fn failed(&mut self, failure: Failure, facts: Facts, now: Instant, rng: &mut Rng) -> Next {
        let Some(&Attempt { choice, replayable, .. }) = self.attempt.as_ref() else {
            return Next::GiveUp(GiveUp::NotRetriable);
        };
        if failure == Failure::Connect(ConnectFailure::Certificate) {
            // Who answered was not who was meant, so the request goes nowhere that would notice less.
            self.floor = self.floor.max(self.pool.members()[choice.member].spec.identity.strength());
        }
        // The trial was ours, but what must not be done twice is not done twice for it.
        let trial = choice.trial && (replayable || failure.nothing_sent());
        if let Some(cause) = failure.cause() {
            self.settle(Some(Outcome::Failure(cause)), now);
        }
        let grounds = retry::grounds(failure, facts, trial, self.pool.spec().retry.as_ref(), self.used);
        let grounds = match grounds {
            Ok(grounds) => grounds,
            Err(give_up) => return Next::GiveUp(give_up),
        };
        if self.retries_overflow() {
            return Next::GiveUp(GiveUp::Overflow);
        }
        if failure == Failure::StalePooled && grounds.contains(&Ground::Safe) {
            self.used.safe += 1;
            self.same_again = Some(choice);
            self.pending = Some(Ground::Safe);
            return Next::Retry { after: Duration::ZERO };
        }
        self.note_tried(choice.member);
        for ground in grounds {
            if !self.can_choose(ground == Ground::Policy, now, rng) {
                continue;
            }
            self.pending = Some(ground);
            match ground {
                Ground::Safe => self.used.safe += 1,
                Ground::Trial => {}
                Ground::Policy => {
                    self.used.policy += 1;
                    let back_off =
                        self.pool.spec().retry.as_ref().map(|retry| retry.back_off).unwrap_or_default();
                    return Next::Retry { after: retry::back_off(back_off, self.used.policy, rng) };
                }
            }
            return Next::Retry { after: Duration::ZERO };
        }
        Next::GiveUp(GiveUp::Exhausted)
    }

    fn note_tried(&mut self, member: usize) {
        if !self.tried.contains(&member) {
            self.tried.push(member);
        }
        let priority = self.pool.members()[member].priority;
        match self.per_priority.iter_mut().find(|(known, _)| *known == priority) {
            Some((_, count)) => *count += 1,
            None => self.per_priority.push((priority, 1)),
        }
    }

    /// Rule R8.
    fn retries_overflow(&self) -> bool {
        let breaker = &self.pool.spec().circuit_breaker;
        let shared = self.pool.shared();
        let limit = breaker.retry_budget.map_or(breaker.max_parallel_retries as usize, |budget| {
            let active = shared.active.load(Ordering::Relaxed);
            let share = active * budget.numerator as usize / budget.denominator.max(1) as usize;
            share.max(budget.min_retry_concurrency as usize)
        });
        // This request's own retry, if it is one, makes room for the next.
        let own = usize::from(self.attempt.as_ref().is_some_and(|attempt| attempt.retry));
        shared.retries.load(Ordering::Relaxed).saturating_sub(own) >= limit
    }

    /// Records the outcome of the current attempt once, and ends it.
    fn settle(&mut self, outcome: Option<Outcome>, now: Instant) {
        self.last_seen = now;
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.settled.is_none()) else {
            return self.settle_late(outcome, now);
        };
        attempt.settled = outcome;
        let choice = attempt.choice;
        let record = &self.pool.members()[choice.member].record;
        if let Some(outcome) = outcome {
            record.record(outcome, now);
            if let Outcome::Failure(Cause::Connect(failure)) = outcome {
                // Connect and TLS failures are shared by everything that reaches the endpoint.
                for other in record.endpoint().records() {
                    if !Arc::ptr_eq(&other, record)
                        && other.shares_connect_failure(failure, record.connect_timeout())
                    {
                        other.observe(Cause::Connect(failure), now);
                    }
                }
            }
        }
        if choice.trial {
            record.end_trial(outcome, now);
        }
    }

    /// An answer that dies after it counted as success (a stream that had flowed) still counts as a failure.
    fn settle_late(&mut self, outcome: Option<Outcome>, now: Instant) {
        if let (Some(attempt), Some(failure @ Outcome::Failure(Cause::Body))) =
            (self.attempt.as_mut(), outcome)
            && attempt.settled.replace(failure) == Some(Outcome::Success)
        {
            self.pool.members()[attempt.choice.member].record.record(failure, now);
        }
    }

    /// The attempt is over. Gives back what it holds still: a member's connection, and a place in a lane.
    fn end_attempt(&mut self, now: Instant) -> Option<(usize, usize)> {
        let attempt = self.attempt.take()?;
        let record = &self.pool.members()[attempt.choice.member].record;
        if attempt.choice.trial && attempt.settled.is_none() {
            record.end_trial(None, now);
        }
        record.endpoint().end();
        if attempt.retry {
            self.pool.shared().retries.fetch_sub(1, Ordering::Relaxed);
        }
        Some((attempt.choice.member, attempt.lane))
    }

    /// The endpoint is free of this request.
    fn release(&self, held: Option<(usize, usize)>) {
        if let Some((member, lane)) = held {
            admission::leave(&self.pool, member, lane);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let held = self.end_attempt(self.last_seen);
        self.release(held);
        self.pool.shared().active.fetch_sub(1, Ordering::Relaxed);
    }
}
