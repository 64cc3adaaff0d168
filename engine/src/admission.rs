//! Limits of a pool (rules B1–B3): how many requests are under way, how many wait, and who is next.
//!
//! A [`Lane`] counts for one priority of a rule: the primary pool has its own room, and so has the fallback pool.
//! A request in use stands for a connection in use; where connections carry several requests at once (HTTP/2), as
//! many requests are let in as the allowed connections carry.
//! Nothing here blocks: a request without room gets a [`Place`] in the queue, and waits for it with [`Room`].

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use understudy_conf::{CircuitBreaker, Overflow};

use crate::TlsStrength;
use crate::choose::{self, Draws};
use crate::exchange::NoEndpoint;
use crate::pool::{MemberState, Pool};
use crate::view::View;

/// Requests that the connections of a priority can carry at once, where each connection carries so many.
fn room_on(limits: &CircuitBreaker, carries: usize) -> usize {
    (limits.max_connections as usize).saturating_mul(carries)
}

/// The count of one priority. It outlives rebuilds of its pool.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    under_way: AtomicUsize,
    /// Length of the queue, to be read without its lock.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// In the order of arrival, so sorted by ticket.
    tickets: VecDeque<Ticket>,
}

#[derive(Debug)]
struct Ticket {
    number: u64,
    /// It is its turn to try.
    called: bool,
    waker: Option<Waker>,
}

/// What a lane says to a request.
enum Entry {
    In,
    /// All connections are in use.
    Busy,
    /// No more requests are allowed.
    Full,
}

impl Lane {
    fn enter(&self, limits: &CircuitBreaker, carries: usize, queued: bool) -> Entry {
        let connections = room_on(limits, carries);
        let parallel = limits.max_parallel_requests as usize;
        if connections == 0 {
            return Entry::Full;
        }
        // Those that wait come first.
        if !queued && self.waiting.load(Ordering::SeqCst) > 0 {
            return Entry::Busy;
        }
        let one_more = |count| (count < connections.min(parallel)).then_some(count + 1);
        match self.under_way.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more) {
            Ok(_) => Entry::In,
            Err(count) if count >= connections => Entry::Busy,
            Err(_) => Entry::Full,
        }
    }

    /// Undoes an entrance that led nowhere: nobody else could do better.
    fn turn_back(&self) {
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn leave(&self) {
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.queue.lock().call_next();
        }
    }

    fn join(self: &Arc<Self>, limits: &CircuitBreaker, carries: usize) -> Option<Place> {
        let mut queue = self.queue.lock();
        if queue.tickets.len() >= limits.max_pending_requests as usize {
            return None;
        }
        let number = queue.next;
        queue.next += 1;
        queue.tickets.push_back(Ticket { number, called: false, waker: None });
        self.waiting.store(queue.tickets.len(), Ordering::SeqCst);
        // Who left meanwhile saw nobody waiting.
        if self.under_way.load(Ordering::SeqCst) < room_on(limits, carries) {
            queue.call_next();
        }
        Some(Place { lane: self.clone(), number })
    }
}

impl Queue {
    fn find(&self, number: u64) -> Option<usize> {
        self.tickets.binary_search_by_key(&number, |ticket| ticket.number).ok()
    }

    fn call_next(&mut self) {
        if let Some(ticket) = self.tickets.iter_mut().find(|ticket| !ticket.called) {
            ticket.called = true;
            if let Some(waker) = ticket.waker.take() {
                waker.wake();
            }
        }
    }
}

/// A place in a lane's queue. Dropped, it is given up, and a call that it had goes to the next.
#[derive(Debug)]
pub(crate) struct Place {
    lane: Arc<Lane>,
    number: u64,
}

impl Place {
    fn is_in(&self, lane: &Arc<Lane>) -> bool {
        Arc::ptr_eq(&self.lane, lane)
    }

    pub(crate) fn room(&self) -> Room {
        Room { lane: self.lane.clone(), number: self.number }
    }

    /// The next call is for a new try.
    fn try_again(&self) {
        let mut queue = self.lane.queue.lock();
        if let Some(index) = queue.find(self.number) {
            queue.tickets[index].called = false;
        }
    }

    /// It has served; with more room the next one is called too.
    fn admitted(self, limits: &CircuitBreaker, carries: usize) {
        self.try_again();
        let more = self.lane.under_way.load(Ordering::SeqCst) < room_on(limits, carries);
        let lane = self.lane.clone();
        drop(self);
        if more {
            lane.queue.lock().call_next();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.lane.queue.lock();
        let Some(index) = queue.find(self.number) else { return };
        let called = queue.tickets.remove(index).is_some_and(|ticket| ticket.called);
        self.lane.waiting.store(queue.tickets.len(), Ordering::SeqCst);
        if called {
            queue.call_next();
        }
    }
}

/// Resolves when a request that waits may choose again. It may find no room then, and wait again.
#[derive(Debug)]
pub struct Room {
    lane: Arc<Lane>,
    number: u64,
}

impl Future for Room {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.lane.queue.lock();
        let Some(index) = queue.find(self.number) else { return Poll::Ready(()) };
        let ticket = &mut queue.tickets[index];
        if ticket.called {
            return Poll::Ready(());
        }
        ticket.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Where a request was let in.
pub(crate) struct Admitted {
    pub(crate) member: usize,
    /// Index of its lane, to be left with [`leave`].
    pub(crate) lane: usize,
}

/// What is known of a request that is let in.
#[derive(Clone, Copy)]
pub(crate) struct Entrant<'a> {
    /// The member that was chosen for it.
    pub(crate) chosen: usize,
    /// Members tried before.
    pub(crate) tried: &'a [usize],
    /// What the way to its endpoint must protect at least.
    pub(crate) floor: TlsStrength,
}

/// Lets a request in to the endpoint that was chosen for it, to another one of the same pool, or to the next pool
/// that has room, and keeps its place in the queue where it has to wait.
pub(crate) fn admit(
    pool: &Pool,
    view: &View,
    entrant: Entrant<'_>,
    place: &mut Option<Place>,
    draws: &mut Draws<'_>,
) -> Result<Admitted, NoEndpoint> {
    let limits = &pool.spec().circuit_breaker;
    let priority = pool.members()[entrant.chosen].priority;
    let Some(index) = pool.priorities().iter().position(|known| *known == priority) else {
        return Err(NoEndpoint::Unhealthy);
    };
    let lane = &pool.lanes()[index];
    let own = place.take_if(|place| place.is_in(lane));
    // A place elsewhere is of no use any longer.
    *place = None;
    if let Some(own) = &own {
        own.try_again();
    }
    let carries = pool.carries()[index];
    match lane.enter(limits, carries, own.is_some()) {
        Entry::In => {
            if let Some(member) = begin(pool, view, index, true, entrant, draws) {
                if let Some(own) = own {
                    own.admitted(limits, carries);
                }
                return Ok(Admitted { member, lane: index });
            }
            lane.turn_back();
            *place = own.or_else(|| lane.join(limits, carries));
        }
        Entry::Busy => *place = own.or_else(|| lane.join(limits, carries)),
        Entry::Full => {}
    }
    if place.is_some() {
        return Err(NoEndpoint::Wait);
    }
    if limits.overflow == Overflow::Fallback {
        for (index, lane) in pool.lanes().iter().enumerate().skip(index + 1) {
            if !matches!(lane.enter(limits, pool.carries()[index], false), Entry::In) {
                continue;
            }
            if let Some(member) = begin(pool, view, index, false, entrant, draws) {
                return Ok(Admitted { member, lane: index });
            }
            lane.turn_back();
        }
    }
    Err(NoEndpoint::Overflow)
}

/// Takes a connection of the member that was chosen, or of another one of the same priority that has one left.
fn begin(
    pool: &Pool,
    view: &View,
    group: usize,
    own: bool,
    entrant: Entrant<'_>,
    draws: &mut Draws<'_>,
) -> Option<usize> {
    let connections = pool.spec().circuit_breaker.max_connections_per_endpoint.map(|limit| limit as usize);
    let limit = |member: usize| {
        connections.map(|connections| connections.saturating_mul(pool.members()[member].carries))
    };
    let chosen = own.then_some(entrant.chosen);
    let state = |member: usize| &pool.members()[member].state;
    if let Some(member) = chosen.filter(|member| state(*member).begin(limit(*member))) {
        return Some(member);
    }
    // Another thread may be faster, so the try may have to be repeated; each round leaves out the one that failed.
    let mut full: Vec<usize> = chosen.into_iter().collect();
    loop {
        let has_room = |member: usize| {
            !choose::was_tried(pool, entrant.tried, member)
                && choose::protects(pool, member, entrant.floor)
                && !full.contains(&member)
                && state(member).has_room(limit(member))
        };
        let member = choose::among(pool, view.groups.get(group)?, &has_room, draws)?;
        if state(member).begin(limit(member)) {
            return Some(member);
        }
        full.push(member);
    }
}

/// The request that was let in is gone.
pub(crate) fn leave(pool: &Pool, member: usize, lane: usize) {
    pool.members()[member].state.end();
    pool.lanes()[lane].leave();
}

impl MemberState {
    fn begin(&self, limit: Option<usize>) -> bool {
        let Some(limit) = limit else {
            self.in_use.fetch_add(1, Ordering::SeqCst);
            return true;
        };
        let one_more = |count| (count < limit).then_some(count + 1);
        self.in_use.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    fn has_room(&self, limit: Option<usize>) -> bool {
        limit.is_none_or(|limit| self.in_use.load(Ordering::SeqCst) < limit)
    }

    fn end(&self) {
        self.in_use.fetch_sub(1, Ordering::SeqCst);
    }
}
