//! Picking an endpoint out of a view.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use understudy_conf::{LoadBalancer, Priority};

use crate::exchange::NoEndpoint;
use crate::pool::Pool;
use crate::record::Phase;
use crate::view::{GroupView, RefView, View, rank};
use crate::{Instant, RequestTraits};

/// A member on trial that takes this request, if it suits: one at a time, preferably one that can be replayed.
pub(crate) fn trial(pool: &Pool, view: &View, request: RequestTraits, now: Instant) -> Option<usize> {
    let interval = pool.spec().scope.passive.as_ref().map(|passive| passive.interval)?;
    view.trials.iter().copied().find(|&index| {
        let Phase::Trial { since, .. } = view.members[index].phase else { return false };
        // Where only other requests come, they have to do after a while.
        let suits = request.replayable || now.since(since) >= interval.into();
        suits && pool.members()[index].record.begin_trial()
    })
}

/// The endpoint of a first attempt.
pub(crate) fn first(pool: &Pool, view: &View, rng: &mut Rng) -> Result<usize, NoEndpoint> {
    let Some(group) = draw_group(view, rng).and_then(|index| view.groups.get(index)) else {
        return Err(nothing(pool, view, rng));
    };
    let Some(reference) = draw_ref(group, rng) else { return Err(NoEndpoint::Unhealthy) };
    if reference.candidates.is_empty() {
        return Err(stands_for(pool, reference));
    }
    let picked = balance(pool, reference, rng);
    if view.ramping && view.members[picked].share < 100 && rng.u8(0..100) >= view.members[picked].share {
        return Ok(instead_of_ramping(pool, view, group, rng).unwrap_or(picked));
    }
    Ok(picked)
}

/// Nothing carries load. A rule without a fallback may still stand for an error of its own.
fn nothing(pool: &Pool, view: &View, rng: &mut Rng) -> NoEndpoint {
    match view.groups.iter().find_map(|group| draw_ref(group, rng)) {
        Some(reference) if reference.candidates.is_empty() => stands_for(pool, reference),
        _ => NoEndpoint::Unhealthy,
    }
}

fn stands_for(pool: &Pool, reference: &RefView) -> NoEndpoint {
    if pool.spec().refs[reference.index].invalid { NoEndpoint::Invalid } else { NoEndpoint::Empty }
}

/// Rule P4.
fn draw_group(view: &View, rng: &mut Rng) -> Option<usize> {
    match view.load.first()? {
        100 => Some(0),
        _ => {
            let mut point = rng.u8(0..100);
            view.load.iter().position(|&share| {
                let hit = point < share;
                point = point.saturating_sub(share);
                hit
            })
        }
    }
}

/// Weights choose among the references of one priority.
fn draw_ref<'a>(group: &'a GroupView, rng: &mut Rng) -> Option<&'a RefView> {
    if let [only] = group.refs.as_slice() {
        return Some(only);
    }
    if group.weight == 0 {
        return None;
    }
    let mut point = rng.u64(0..group.weight);
    group.refs.iter().find(|reference| {
        let hit = point < reference.weight;
        point = point.saturating_sub(reference.weight);
        hit
    })
}

fn balance(pool: &Pool, reference: &RefView, rng: &mut Rng) -> usize {
    match pool.spec().load_balancer {
        LoadBalancer::LeastRequest => least_request(pool, &reference.candidates, rng),
        LoadBalancer::RoundRobin => {
            let turn = pool.refs()[reference.index].turn.fetch_add(1, Ordering::Relaxed);
            reference.candidates[turn % reference.candidates.len()]
        }
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
fn instead_of_ramping(pool: &Pool, view: &View, group: &GroupView, rng: &mut Rng) -> Option<usize> {
    let full: Vec<usize> = group
        .refs
        .iter()
        .flat_map(|reference| reference.candidates.iter().copied())
        .filter(|&index| view.members[index].usable && view.members[index].share == 100)
        .collect();
    (!full.is_empty()).then(|| least_request(pool, &full, rng))
}

/// What a further attempt knows of the ones before.
pub(crate) struct Further<'a> {
    /// Members tried, in order.
    pub(crate) tried: &'a [usize],
    /// Priorities that had as many attempts as `numAttemptsPerPriority` allows.
    pub(crate) exhausted: &'a [Priority],
    /// Whether a member may be tried twice: not for a request that is moved because nothing was sent.
    pub(crate) again: bool,
}

/// An endpoint may be several members, of one pool or of both.
fn was_tried(pool: &Pool, tried: &[usize], index: usize) -> bool {
    let record = |index: usize| &pool.members()[index].record;
    tried.iter().any(|&before| Arc::ptr_eq(record(before), record(index)))
}

/// The endpoint of a further attempt: never one already tried while another can serve, in either pool.
pub(crate) fn further(pool: &Pool, view: &View, further: &Further<'_>, rng: &mut Rng) -> Option<usize> {
    let allowed = |index: usize, untried: bool, exhausted: bool| {
        let member = &pool.members()[index];
        pool.spec().refs[member.reference].weight > 0
            && !(untried && was_tried(pool, further.tried, index))
            && !(exhausted && further.exhausted.contains(&member.priority))
    };
    let pick = |test: &dyn Fn(usize) -> bool, rng: &mut Rng| {
        pool.priorities().iter().find_map(|&priority| {
            let candidates: Vec<usize> = (0..pool.members().len())
                .filter(|&index| pool.members()[index].priority == priority && test(index))
                .collect();
            (!candidates.is_empty()).then(|| least_request(pool, &candidates, rng))
        })
    };
    let usable = |index: usize| view.members[index].usable;
    let ranked =
        |index: usize, wanted: u8| !view.members[index].usable && rank(&view.members[index]) == wanted;
    if let Some(found) = pick(&|index| usable(index) && allowed(index, true, true), rng) {
        return Some(found);
    }
    if let Some(found) = pick(&|index| usable(index) && allowed(index, true, false), rng) {
        return Some(found);
    }
    if view.desperate || !view.any_usable {
        // On trial first, then, in panic, the ejected ones.
        let worst = if view.desperate { 3 } else { 1 };
        for wanted in 1..=worst {
            if let Some(found) = pick(&|index| ranked(index, wanted) && allowed(index, true, false), rng) {
                return Some(found);
            }
        }
    }
    if !further.again {
        return None;
    }
    pick(&|index| usable(index) && allowed(index, false, true), rng)
        .or_else(|| pick(&|index| usable(index) && allowed(index, false, false), rng))
        .or_else(|| if view.desperate { pick(&|index| allowed(index, false, false), rng) } else { None })
}
