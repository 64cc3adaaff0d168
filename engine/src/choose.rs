//! Picking an endpoint out of a view.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use understudy_conf::{LoadBalancer, Priority};

use crate::exchange::NoEndpoint;
use crate::hash::{self, Draw};
use crate::phase::Phase;
use crate::pool::Pool;
use crate::view::{GroupView, RefView, View, rank};
use crate::{Instant, RequestTraits, TlsStrength};

/// Where the draws of a choice come from.
pub(crate) struct Draws<'a> {
    /// The request's hash, where the pool balances by it; then equal requests draw equally.
    pub(crate) hash: Option<u64>,
    pub(crate) rng: &'a mut Rng,
}

impl<'a> Draws<'a> {
    pub(crate) fn new(pool: &Pool, request: RequestTraits, rng: &'a mut Rng) -> Self {
        let hash = match pool.spec().load_balancer {
            // A request that has nothing to hash goes anywhere.
            LoadBalancer::ConsistentHash(_) => Some(request.hash.unwrap_or_else(|| rng.u64(..))),
            _ => None,
        };
        Self { hash, rng }
    }

    /// A number from 0 to 99.
    fn percent(&mut self, draw: Draw) -> u8 {
        match self.hash {
            Some(hash) => u8::try_from(hash::below(hash, draw, 100)).unwrap_or(0),
            None => self.rng.u8(0..100),
        }
    }
}

/// A member on trial that takes this request, if it suits: one at a time, preferably one that can be replayed.
pub(crate) fn trial(
    pool: &Pool,
    view: &View,
    request: RequestTraits,
    hash: Option<u64>,
    now: Instant,
) -> Option<usize> {
    let interval = pool.spec().scope.passive.as_ref().map(|passive| passive.interval)?;
    view.trials.iter().copied().find(|&index| {
        let Phase::Trial { since, .. } = view.members[index].phase else { return false };
        // Where only other requests come, they have to do after a while.
        let suits = (request.replayable && is_home(pool, index, hash)) || now.since(since) >= interval.into();
        suits && pool.members()[index].record.begin_trial()
    })
}

/// The endpoint of a first attempt.
pub(crate) fn first(pool: &Pool, view: &View, draws: &mut Draws<'_>) -> Result<usize, NoEndpoint> {
    let Some(group) = draw_group(view, draws).and_then(|index| view.groups.get(index)) else {
        return Err(nothing(pool, view, draws));
    };
    let Some(reference) = draw_ref(pool, group, draws) else { return Err(NoEndpoint::Unhealthy) };
    if reference.candidates.is_empty() {
        return Err(stands_for(pool, reference));
    }
    let picked = balance(pool, reference, draws);
    let share = view.members[picked].share;
    if view.ramping && share < 100 && draws.percent(Draw::Share) >= share {
        return Ok(instead_of_ramping(pool, view, group, draws).unwrap_or(picked));
    }
    Ok(picked)
}

/// Whether a member is the one that a hash belongs to while all of its reference are healthy.
fn is_home(pool: &Pool, index: usize, hash: Option<u64>) -> bool {
    let Some(hash) = hash else { return true };
    let reference = &pool.refs()[pool.members()[index].reference];
    reference.table.as_ref().is_none_or(|table| reference.members.start + table.home(hash) == index)
}

/// An endpoint of one priority that passes a test.
pub(crate) fn among(
    pool: &Pool,
    group: &GroupView,
    test: &dyn Fn(usize) -> bool,
    draws: &mut Draws<'_>,
) -> Option<usize> {
    let candidates: Vec<usize> = group
        .refs
        .iter()
        .flat_map(|reference| reference.candidates.iter().copied())
        .filter(|&index| test(index))
        .collect();
    (!candidates.is_empty()).then(|| spare(pool, &candidates, draws))
}

/// Nothing carries load. A rule without a fallback may still stand for an error of its own.
fn nothing(pool: &Pool, view: &View, draws: &mut Draws<'_>) -> NoEndpoint {
    match view.groups.iter().find_map(|group| draw_ref(pool, group, draws)) {
        Some(reference) if reference.candidates.is_empty() => stands_for(pool, reference),
        _ => NoEndpoint::Unhealthy,
    }
}

fn stands_for(pool: &Pool, reference: &RefView) -> NoEndpoint {
    if pool.spec().refs[reference.index].invalid { NoEndpoint::Invalid } else { NoEndpoint::Empty }
}

/// Rule P4: the hash, where there is one, picks the priority too.
fn draw_group(view: &View, draws: &mut Draws<'_>) -> Option<usize> {
    match view.load.first()? {
        100 => Some(0),
        _ => {
            let mut point = draws.percent(Draw::Priority);
            view.load.iter().position(|&share| {
                let hit = point < share;
                point = point.saturating_sub(share);
                hit
            })
        }
    }
}

/// Weights choose among the references of one priority.
fn draw_ref<'a>(pool: &Pool, group: &'a GroupView, draws: &mut Draws<'_>) -> Option<&'a RefView> {
    if let [only] = group.refs.as_slice() {
        return Some(only);
    }
    if group.weight == 0 {
        return None;
    }
    if let Some(hash) = draws.hash {
        let score =
            |reference: &RefView| hash::score(hash, pool.refs()[reference.index].key, reference.weight);
        return group.refs.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
    }
    let mut point = draws.rng.u64(0..group.weight);
    group.refs.iter().find(|reference| {
        let hit = point < reference.weight;
        point = point.saturating_sub(reference.weight);
        hit
    })
}

fn balance(pool: &Pool, reference: &RefView, draws: &mut Draws<'_>) -> usize {
    match pool.spec().load_balancer {
        LoadBalancer::LeastRequest => least_request(pool, &reference.candidates, draws.rng),
        LoadBalancer::Random => reference.candidates[draws.rng.usize(0..reference.candidates.len())], // L3
        LoadBalancer::ConsistentHash(_) => by_hash(pool, reference, draws),
        LoadBalancer::RoundRobin => {
            let turn = pool.refs()[reference.index].turn.fetch_add(1, Ordering::Relaxed);
            reference.candidates[turn % reference.candidates.len()]
        }
    }
}

/// Rule L5: the table knows the endpoint. The hashes of one that cannot serve are spread over the others; all other
/// hashes stay where they are.
fn by_hash(pool: &Pool, reference: &RefView, draws: &mut Draws<'_>) -> usize {
    let known = &pool.refs()[reference.index];
    let home =
        draws.hash.zip(known.table.as_ref()).map(|(hash, table)| known.members.start + table.home(hash));
    home.filter(|home| reference.candidates.binary_search(home).is_ok())
        .unwrap_or_else(|| spare(pool, &reference.candidates, draws))
}

/// One of several, none of which is the first choice.
fn spare(pool: &Pool, candidates: &[usize], draws: &mut Draws<'_>) -> usize {
    if let Some(hash) = draws.hash {
        let score = |index: &usize| hash::mix(hash, pool.members()[*index].key);
        return candidates.iter().copied().max_by_key(score).unwrap_or(candidates[0]);
    }
    match pool.spec().load_balancer {
        LoadBalancer::Random => candidates[draws.rng.usize(0..candidates.len())],
        _ => least_request(pool, candidates, draws.rng),
    }
}

/// Rule L2: two at random, the one with fewer requests under way.
fn least_request(pool: &Pool, candidates: &[usize], rng: &mut Rng) -> usize {
    if let [only] = candidates {
        return *only;
    }
    let one = rng.usize(0..candidates.len());
    let mut other = rng.usize(0..candidates.len() - 1);
    other += usize::from(other >= one);
    let active = |index: usize| pool.members()[candidates[index]].record.endpoint().active();
    candidates[if active(other) < active(one) { other } else { one }]
}

/// A full member of the same priority, since a ramping one got its share already.
fn instead_of_ramping(pool: &Pool, view: &View, group: &GroupView, draws: &mut Draws<'_>) -> Option<usize> {
    let is_full = |index: usize| view.members[index].usable && view.members[index].share == 100;
    among(pool, group, &is_full, draws)
}

/// What a further attempt knows of the ones before.
pub(crate) struct Further<'a> {
    /// Members tried, in order.
    pub(crate) tried: &'a [usize],
    /// Priorities that had as many attempts as `numAttemptsPerPriority` allows.
    pub(crate) exhausted: &'a [Priority],
    /// Whether a member may be tried twice: not for a request that is moved because nothing was sent.
    pub(crate) again: bool,
    /// What the way to the endpoint must protect at least.
    pub(crate) floor: TlsStrength,
}

/// Whether the way to a member protects a request as much as is asked for.
pub(crate) fn protects(pool: &Pool, index: usize, floor: TlsStrength) -> bool {
    pool.members()[index].spec.identity.strength() >= floor
}

/// An endpoint may be several members, of one pool or of both.
pub(crate) fn was_tried(pool: &Pool, tried: &[usize], index: usize) -> bool {
    let record = |index: usize| &pool.members()[index].record;
    tried.iter().any(|&before| Arc::ptr_eq(record(before), record(index)))
}

/// The endpoint of a further attempt: never one already tried while another can serve, in either pool.
pub(crate) fn further(
    pool: &Pool,
    view: &View,
    further: &Further<'_>,
    draws: &mut Draws<'_>,
) -> Option<usize> {
    let allowed = |index: usize, untried: bool, exhausted: bool| {
        let member = &pool.members()[index];
        pool.spec().refs[member.reference].weight > 0
            && protects(pool, index, further.floor)
            // H7: who asked for no traffic gets none, not even in panic.
            && !view.members[index].is_excluded()
            && !(untried && was_tried(pool, further.tried, index))
            && !(exhausted && further.exhausted.contains(&member.priority))
    };
    let mut pick = |test: &dyn Fn(usize) -> bool| {
        pool.priorities().iter().find_map(|&priority| {
            let candidates: Vec<usize> = (0..pool.members().len())
                .filter(|&index| pool.members()[index].priority == priority && test(index))
                .collect();
            (!candidates.is_empty()).then(|| spare(pool, &candidates, draws))
        })
    };
    let usable = |index: usize| view.members[index].usable;
    let ranked =
        |index: usize, wanted: u8| !view.members[index].usable && rank(&view.members[index]) == wanted;
    if let Some(found) = pick(&|index| usable(index) && allowed(index, true, true)) {
        return Some(found);
    }
    if let Some(found) = pick(&|index| usable(index) && allowed(index, true, false)) {
        return Some(found);
    }
    if view.desperate || !view.any_usable {
        // On trial first, then, in panic, the ejected ones.
        let worst = if view.desperate { 3 } else { 1 };
        for wanted in 1..=worst {
            if let Some(found) = pick(&|index| ranked(index, wanted) && allowed(index, true, false)) {
                return Some(found);
            }
        }
    }
    if !further.again {
        return None;
    }
    pick(&|index| usable(index) && allowed(index, false, true))
        .or_else(|| pick(&|index| usable(index) && allowed(index, false, false)))
        .or_else(|| if view.desperate { pick(&|index| allowed(index, false, false)) } else { None })
}
