//! What a pool sees of its members at a moment: who may be chosen, and how the load is shared.

use understudy_conf::{LoadBalancer, PoolState, Priority};

use crate::obey::{self, Candidate};
use crate::phase::{Phase, Standing};
use crate::pool::{Member, Pool};
use crate::priority::{self, GroupHealth};
use crate::prober::CheckProblem;
use crate::{Cause, CheckFailure, Instant};

/// A member as its pool sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberView {
    pub(crate) phase: Phase,
    pub(crate) share: u8,
    /// Takes traffic: healthy, ramping, or ejected without the pool obeying.
    pub(crate) usable: bool,
    pub(crate) last_cause: Option<Cause>,
    /// When it was ejected, until it is healthy again.
    pub(crate) ejected_at: Option<Instant>,
    /// What its active check has against it.
    pub(crate) check: Option<CheckProblem>,
}

impl MemberView {
    /// Rule H7: not even panic makes use of it, and it counts on neither side of a pool's health.
    pub(crate) fn is_excluded(&self) -> bool {
        self.check == Some(CheckProblem::Failing(CheckFailure::OnRequest))
    }
}

/// The references of one priority that can be drawn.
#[derive(Debug)]
pub(crate) struct GroupView {
    pub(crate) refs: Vec<RefView>,
    pub(crate) weight: u64,
}

/// One reference that can be drawn.
#[derive(Debug)]
pub(crate) struct RefView {
    pub(crate) index: usize,
    pub(crate) weight: u64,
    /// Indices of members; empty where the reference itself stands for an error (only without a fallback).
    pub(crate) candidates: Vec<usize>,
}

/// A pool's view at a moment.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) members: Vec<MemberView>,
    /// What a first attempt draws from, by priority.
    pub(crate) groups: Vec<GroupView>,
    /// Percentage of first attempts per group.
    pub(crate) load: Vec<u8>,
    /// Members in [`Phase::Trial`] that may get a real request, since their priority has a say.
    pub(crate) trials: Vec<usize>,
    /// Endpoints that are not usable may be chosen when nothing else can serve (panic).
    pub(crate) desperate: bool,
    /// Some primary endpoint's active check has no result yet.
    pub(crate) awaits_primary: bool,
    /// Some member that can be drawn takes traffic.
    pub(crate) any_usable: bool,
    /// Some usable member gets less than its share.
    pub(crate) ramping: bool,
    pub(crate) state: PoolState,
    pub(crate) reason: String,
    /// When time alone changes the view.
    pub(crate) until: Instant,
}

impl Default for View {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            groups: Vec::new(),
            load: Vec::new(),
            trials: Vec::new(),
            desperate: false,
            awaits_primary: false,
            any_usable: false,
            ramping: false,
            state: PoolState::Down,
            reason: String::new(),
            until: Instant::NEVER,
        }
    }
}

impl View {
    pub(crate) fn build(pool: &Pool, now: Instant) -> Self {
        let standings: Vec<Standing> =
            pool.members().iter().map(|member| standing_of(pool, member, now)).collect();
        let priorities = pool.priorities();
        let members = member_views(pool, &standings);
        let in_group = |index: usize, priority: Priority| {
            let member = &pool.members()[index];
            member.priority == priority
                && pool.spec().refs[member.reference].weight > 0
                && !members[index].is_excluded()
        };
        let health: Vec<GroupHealth> = priorities
            .iter()
            .map(|&priority| {
                let mine = || members.iter().enumerate().filter(|(index, _)| in_group(*index, priority));
                GroupHealth { healthy: mine().filter(|(_, seen)| seen.usable).count(), total: mine().count() }
            })
            .collect();
        let loads = priority::loads(&health, pool.spec().panic_threshold.get());
        let desperate = loads.total_panic;
        // What has no weight stands in for nobody.
        let any_usable = health.iter().any(|group| group.healthy > 0);
        let mut load = loads.load;
        if desperate && !any_usable {
            // On trial is chosen before any ejected endpoint when nothing is healthy.
            load = load_of_the_best(pool, &members, priorities);
        }
        let without_fallback = priorities.len() < 2;
        let groups: Vec<GroupView> = priorities
            .iter()
            .enumerate()
            .map(|(group, &priority)| {
                let best = best_rank(pool, &members, priority);
                let mut refs: Vec<RefView> = pool
                    .spec()
                    .refs
                    .iter()
                    .enumerate()
                    .filter(|(_, reference)| reference.priority == priority && reference.weight > 0)
                    .filter_map(|(index, reference)| {
                        let candidates: Vec<usize> = pool.refs()[index]
                            .members
                            .clone()
                            .filter(|&member| {
                                let seen = &members[member];
                                seen.usable
                                    || (!seen.is_excluded()
                                        && ((loads.panic[group] && any_usable)
                                            || (desperate && !any_usable && rank(seen) == best)))
                            })
                            .collect();
                        let stands_for_an_error = without_fallback && reference.members.is_empty();
                        (!candidates.is_empty() || stands_for_an_error).then(|| RefView {
                            index,
                            weight: reference.weight.into(),
                            candidates,
                        })
                    })
                    .collect();
                refs.shrink_to_fit();
                GroupView { weight: refs.iter().map(|reference| reference.weight).sum(), refs }
            })
            .collect();
        let lowest_with_load = load.iter().rposition(|share| *share > 0).unwrap_or(priorities.len());
        let trials = (0..members.len())
            .filter(|&index| {
                matches!(members[index].phase, Phase::Trial { .. }) && members[index].check.is_none()
            })
            .filter(|&index| {
                priorities.iter().take(lowest_with_load + 1).any(|&priority| in_group(index, priority))
            })
            .collect();
        let state = pool_state(&load, priorities, desperate);
        Self {
            awaits_primary: pool
                .members()
                .iter()
                .zip(&members)
                .any(|(member, seen)| member.priority == 0 && seen.check == Some(CheckProblem::Pending)),
            reason: reason(pool, &members, state),
            ramping: members.iter().any(|seen| seen.usable && seen.share < 100),
            until: standings.iter().map(|standing| standing.until).min().unwrap_or(Instant::NEVER),
            members,
            groups,
            load,
            trials,
            desperate,
            any_usable,
            state,
        }
    }
}

/// Where a member stands; in a pool with a slow start that takes the place of the ramp.
fn standing_of(pool: &Pool, member: &Member, now: Instant) -> Standing {
    let mut standing = member.record.standing(now);
    let balances = matches!(pool.spec().load_balancer, LoadBalancer::LeastRequest | LoadBalancer::RoundRobin);
    if let Some(window) = pool.spec().slow_start.filter(|_| balances) {
        let (share, until) = member.state.joined.share(standing.phase, window.into(), now);
        standing.share = share;
        standing.until = standing.until.min(until);
    }
    standing
}

fn member_views(pool: &Pool, standings: &[Standing]) -> Vec<MemberView> {
    let priorities = pool.priorities();
    let checks: Vec<Option<CheckProblem>> =
        pool.members().iter().map(|member| member.check.as_deref().and_then(CheckProblem::of)).collect();
    let joined_on_trial = |standing: &Standing| {
        standing.ejected_at.is_none() && matches!(standing.phase, Phase::Probing { .. })
    };
    let is_out = |standing: &Standing| {
        standing.ejected_at.is_some() && !matches!(standing.phase, Phase::Healthy | Phase::Ramping { .. })
    };
    // A reference without weight takes no part, so its priority may have no group.
    let of_group = |index: usize| {
        let member = &pool.members()[index];
        let weighs = pool.spec().refs[member.reference].weight > 0;
        priorities.iter().position(|priority| weighs && *priority == member.priority)
    };
    let (indices, candidates): (Vec<usize>, Vec<Candidate>) = standings
        .iter()
        .enumerate()
        .filter_map(|(index, standing)| {
            let candidate = Candidate {
                group: of_group(index)?,
                ejected_at: standing.ejected_at.filter(|_| is_out(standing)),
                serves: !joined_on_trial(standing) && checks[index].is_none(),
            };
            Some((index, candidate))
        })
        .unzip();
    let max = pool.spec().scope.passive.as_ref().map_or(0, |passive| passive.max_ejection_percent.get());
    let mut obeyed = vec![false; standings.len()];
    for (index, obeys) in indices.into_iter().zip(obey::obeyed(&candidates, priorities.len(), max)) {
        obeyed[index] = obeys;
    }
    standings
        .iter()
        .zip(obeyed)
        .zip(checks)
        .map(|((standing, obeyed), check)| MemberView {
            phase: standing.phase,
            share: standing.share,
            // H5
            usable: !obeyed && !joined_on_trial(standing) && check.is_none(),
            last_cause: standing.last_cause,
            ejected_at: standing.ejected_at,
            check,
        })
        .collect()
}

/// Order in which endpoints that are not usable are chosen: on trial before ejected, proved before unproved.
pub(crate) fn rank(seen: &MemberView) -> u8 {
    let by_phase = match seen.phase {
        Phase::Healthy | Phase::Ramping { .. } => 0,
        Phase::Trial { .. } => 1,
        Phase::Probing { .. } => 2,
        Phase::Ejected { .. } => 3,
    };
    let by_check = match seen.check {
        None => 0,
        Some(CheckProblem::Pending) => 2,
        Some(CheckProblem::Failing(CheckFailure::OnRequest)) => u8::MAX,
        Some(CheckProblem::Failing(_)) => 3,
    };
    by_phase.max(by_check)
}

fn best_rank(pool: &Pool, members: &[MemberView], priority: Priority) -> u8 {
    let mine = members
        .iter()
        .zip(pool.members())
        .filter(|(_, member)| member.priority == priority && pool.spec().refs[member.reference].weight > 0);
    mine.map(|(seen, _)| rank(seen)).min().unwrap_or(u8::MAX)
}

/// All load to the first priority that has an endpoint of the best rank.
fn load_of_the_best(pool: &Pool, members: &[MemberView], priorities: &[Priority]) -> Vec<u8> {
    let ranks: Vec<u8> = priorities.iter().map(|&priority| best_rank(pool, members, priority)).collect();
    let best = ranks.iter().min().copied().unwrap_or(u8::MAX);
    let first = ranks.iter().position(|rank| *rank == best && best != u8::MAX);
    (0..ranks.len()).map(|index| if Some(index) == first { 100 } else { 0 }).collect()
}

fn pool_state(load: &[u8], priorities: &[Priority], desperate: bool) -> PoolState {
    if desperate {
        return PoolState::Panic;
    }
    let primary = priorities.iter().position(|priority| *priority == 0).map_or(0, |index| load[index]);
    match primary {
        100 => PoolState::Primary,
        0 if load.iter().any(|share| *share > 0) => PoolState::Fallback,
        0 => PoolState::Down,
        _ => PoolState::Split,
    }
}

/// Why the pool is in this state, in a sentence.
fn reason(pool: &Pool, members: &[MemberView], state: PoolState) -> String {
    let primaries = || members.iter().zip(pool.members()).filter(|(_, member)| member.priority == 0);
    let total = primaries().count();
    let usable = primaries().filter(|(seen, _)| seen.usable).count();
    let worst = primaries().filter(|(seen, _)| !seen.usable).max_by_key(|(seen, _)| rank(seen));
    let example = worst.map(|(seen, member)| {
        let address = &member.record.endpoint().identity().address;
        match (seen.phase, seen.check, seen.last_cause) {
            (Phase::Ejected { .. }, _, Some(cause)) => format!("{address} ejected: {cause}"),
            (_, Some(CheckProblem::Failing(failure)), _) => {
                format!("{address} fails its active check: {failure}")
            }
            (_, Some(CheckProblem::Pending), _) => format!("{address} has not passed its active check yet"),
            (_, None, Some(cause)) => format!("{address} on trial after: {cause}"),
            (_, None, None) => format!("{address} on trial: it has not been reached yet"),
        }
    });
    match (state, example) {
        (PoolState::Primary, None) => "all primary endpoints are healthy".to_owned(),
        (PoolState::Primary | PoolState::Split, Some(example)) => {
            format!("{usable} of {total} primary endpoints are healthy; {example}")
        }
        (PoolState::Fallback, Some(example)) if total > 1 => {
            format!("{usable} of {total} primary endpoints are healthy; {example}")
        }
        (PoolState::Fallback, Some(example)) => example,
        (PoolState::Fallback | PoolState::Split | PoolState::Down, None) if total == 0 => {
            "the primary pool has no endpoint".to_owned()
        }
        (PoolState::Fallback | PoolState::Split, None) => {
            format!("{usable} of {total} primary endpoints are healthy")
        }
        (PoolState::Panic, Some(example)) => format!("too few endpoints are healthy in any pool; {example}"),
        (PoolState::Panic, None) => "too few endpoints are healthy in any pool".to_owned(),
        (PoolState::Down, Some(example)) => format!("no endpoint can serve; {example}"),
        (PoolState::Down, None) => "no endpoint can serve".to_owned(),
    }
}
