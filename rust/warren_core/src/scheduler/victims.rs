//! Which containers of one node make room for another one.
//!
//! To find the fewest is a covering problem with as many constraints as there are resources, hard
//! in general and small in practice: sets of one container, then of two, and so on are tried, with
//! what cannot suffice left out early. Where that takes too many steps, a set is gathered greedily
//! and what is superfluous in it spared; it is then no larger than it has to be, but another one may
//! be smaller.

use std::ops::RangeInclusive;

use crate::fsm::Resources;
use crate::scheduler::bands::Occupant;
use crate::scheduler::score::Rate;

/// Containers tried on a node, before the set is gathered greedily.
const STEPS_MAX: usize = 512;
/// And where another node is known that would do.
const STEPS_OF_OTHERS: usize = 128;
/// Containers that make room for one: a preemption that ends more is none that anybody wants.
pub const VICTIMS_MAX: usize = 32;

/// What it costs to end a set of containers; less is better, the first field first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// The highest among them.
    pub priority: u32,
    pub count: usize,
    /// In shares of the cluster's CPU and memory together.
    pub capacity: i64,
    /// The older the oldest of them is, the worse.
    pub age: std::cmp::Reverse<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub cost: Cost,
    /// Positions in the list of occupants, ascending.
    pub victims: Vec<usize>,
    /// No set of a lower cost would do; otherwise none that is a part of this one.
    pub exact: bool,
}

const RESOURCES: usize = 4;
type Amounts = [u64; RESOURCES];

fn amounts(it: Resources) -> Amounts {
    [it.cpu_milli, it.memory_bytes, it.disk_bytes, it.pids]
}

fn covers(sum: &Amounts, lacking: &Amounts) -> bool {
    sum.iter().zip(lacking).all(|(sum, lacking)| sum >= lacking)
}

fn plus(left: &Amounts, right: &Amounts) -> Amounts {
    std::array::from_fn(|at| left[at].saturating_add(right[at]))
}

/// The cheapest set of `occupants` (sorted by priority) that holds what is lacking, at most
/// [`VICTIMS_MAX`]. `None` if there is none, nothing is lacking, or it would cost more than `best`.
pub(super) fn choose(
    occupants: &[Occupant],
    lacking: Resources,
    rates: (Rate, Rate),
    best: Option<&Cost>,
) -> Option<Choice> {
    let lacking = amounts(lacking);
    if lacking == [0; RESOURCES] {
        return None;
    }
    // Some of the priority that it takes at least are in every set that suffices.
    let mut sum = [0; RESOURCES];
    let enough = occupants.iter().position(|it| {
        sum = plus(&sum, &amounts(it.resources));
        covers(&sum, &lacking)
    })?;
    let priority = occupants[enough].priority;
    let at_most = match best {
        Some(best) if priority > best.priority => return None,
        Some(best) if priority == best.priority => best.count,
        _ => VICTIMS_MAX,
    };
    let upto = occupants.partition_point(|it| it.priority <= priority);
    let at_least = at_least(&occupants[..upto], &lacking, at_most)?;
    let mut search = Search {
        occupants: &occupants[..upto],
        lacking,
        rates,
        priority,
        steps: match best {
            None => STEPS_MAX,
            Some(_) => STEPS_OF_OTHERS,
        },
        chosen: Vec::new(),
        best: None,
    };
    let (best, exact) = match search.fewest(at_least..=at_most) {
        Ok(best) => (best?, true),
        Err(TooManySteps) => (search.greedy(), false),
    };
    (best.len() <= at_most).then(|| Choice {
        cost: search.cost(&best),
        victims: best,
        exact,
    })
}

/// `some` of `all` in units of 2^-24, to about that: a division of 64 bits, as many are made.
fn part_of(some: u64, all: u64) -> u64 {
    let shift = (u64::BITS - all.leading_zeros()).saturating_sub(32);
    ((some >> shift) << 24) / (all >> shift).max(1)
}

/// How many it takes at least: of each resource, those that hold the most of it together have to
/// hold what is lacking. `None` if that is more than `at_most`.
fn at_least(occupants: &[Occupant], lacking: &Amounts, at_most: usize) -> Option<usize> {
    let mut held = Vec::with_capacity(occupants.len());
    let mut least = 0;
    for it in (0..RESOURCES).filter(|it| lacking[*it] > 0) {
        held.clear();
        let amounts = occupants.iter().map(|occupant| amounts(occupant.resources));
        held.extend(amounts.map(|amounts| amounts[it]));
        least = least.max(fewest_of(&mut held, lacking[it], at_most)?);
    }
    Some(least)
}

/// How many of these amounts, the largest first, make up `lacking`, if at most so many do.
fn fewest_of(amounts: &mut [u64], lacking: u64, at_most: usize) -> Option<usize> {
    let mut left = lacking;
    // Few it is, mostly: the largest are looked for one by one, not sorted.
    for count in 0..at_most.min(amounts.len()) {
        let rest = amounts.iter().enumerate().skip(count);
        let (at, most) = rest.max_by_key(|(_, amount)| **amount)?;
        left = left.saturating_sub(*most);
        amounts.swap(count, at);
        if left == 0 {
            return Some(count + 1);
        }
    }
    None
}

struct TooManySteps;

struct Search<'a> {
    occupants: &'a [Occupant],
    lacking: Amounts,
    rates: (Rate, Rate),
    priority: u32,
    steps: usize,
    chosen: Vec<usize>,
    best: Option<(Cost, Vec<usize>)>,
}

impl Search<'_> {
    fn held(&self, at: usize) -> Amounts {
        amounts(self.occupants[at].resources)
    }

    fn cost(&self, victims: &[usize]) -> Cost {
        let sum = victims.iter().map(|at| self.held(*at));
        let sum = sum.fold([0; RESOURCES], |sum, held| plus(&sum, &held));
        self.cost_of(victims, &sum)
    }

    fn cost_of(&self, victims: &[usize], sum: &Amounts) -> Cost {
        let created = victims.iter().map(|at| self.occupants[*at].created_at_ms);
        Cost {
            priority: self.priority,
            count: victims.len(),
            capacity: self.capacity(sum),
            age: std::cmp::Reverse(created.min().unwrap_or_default()),
        }
    }

    fn capacity(&self, sum: &Amounts) -> i64 {
        let (cpu, memory) = self.rates;
        cpu.share(sum[0]) + memory.share(sum[1])
    }

    /// Keeps those that are chosen, which hold so much, if they are the best of as many.
    fn compare(&mut self, sum: &Amounts) {
        let known = self.best.as_ref();
        if known.is_some_and(|(best, _)| self.capacity(sum) > best.capacity) {
            return;
        }
        let cost = self.cost_of(&self.chosen, sum);
        if known.is_none_or(|(best, _)| cost < *best) {
            self.best = Some((cost, self.chosen.clone()));
        }
    }

    /// `None` if it takes more than the most of `counts`; it takes no fewer than the least.
    fn fewest(
        &mut self,
        counts: RangeInclusive<usize>,
    ) -> Result<Option<Vec<usize>>, TooManySteps> {
        // The most that any of them holds of each resource: more than so much times `count` no set
        // of `count` holds.
        let most = (0..self.occupants.len()).fold([0; RESOURCES], |most: Amounts, at| {
            let held = self.held(at);
            std::array::from_fn(|it| most[it].max(held[it]))
        });
        let (least, at_most) = counts.into_inner();
        for count in least..=self.occupants.len().min(at_most) {
            if !self.pick(0, count, [0; RESOURCES], &most) {
                return Err(TooManySteps);
            }
            if let Some((_, best)) = self.best.take() {
                return Ok(Some(best));
            }
        }
        Ok(None)
    }

    /// Tries all sets that add `count` from `from` on to those that are chosen. False if the steps
    /// did not suffice.
    fn pick(&mut self, from: usize, count: usize, sum: Amounts, most: &Amounts) -> bool {
        if count == 0 {
            if covers(&sum, &self.lacking) {
                self.compare(&sum);
            }
            return true;
        }
        let at_most = |it: usize| sum[it].saturating_add(most[it].saturating_mul(count as u64));
        if !covers(&std::array::from_fn(at_most), &self.lacking) {
            return true;
        }
        for at in from..=self.occupants.len() - count {
            if self.steps == 0 {
                return false;
            }
            self.steps -= 1;
            let sum = plus(&sum, &self.held(at));
            if count == 1 && !covers(&sum, &self.lacking) {
                continue;
            }
            self.chosen.push(at);
            let done = self.pick(at + 1, count - 1, sum, most);
            self.chosen.pop();
            if !done {
                return false;
            }
        }
        true
    }

    /// Again and again the one that holds most of what is still lacking; then those are spared
    /// without which it suffices, the highest priority and the oldest first.
    fn greedy(&self) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::new();
        let mut sum = [0; RESOURCES];
        let parts = |held: Amounts| -> Amounts {
            std::array::from_fn(|it| match self.lacking[it] {
                0 => 0,
                lacking => part_of(held[it].min(lacking), lacking),
            })
        };
        // What each holds of all that is lacking, so that no round divides for each of them.
        let all: Vec<_> = (0..self.occupants.len())
            .map(|at| parts(self.held(at)))
            .collect();
        while !covers(&sum, &self.lacking) {
            let left: Amounts = std::array::from_fn(|it| self.lacking[it].saturating_sub(sum[it]));
            let left = parts(left);
            let part = |at: &usize| -> u64 {
                let each = all[*at].iter().zip(&left);
                each.map(|(part, left)| part.min(left)).sum()
            };
            let others = (0..self.occupants.len()).filter(|at| !chosen.contains(at));
            let Some(next) = others.max_by_key(part) else {
                break;
            };
            sum = plus(&sum, &self.held(next));
            chosen.push(next);
        }
        chosen.sort_by_key(|at| {
            let it = &self.occupants[*at];
            (std::cmp::Reverse(it.priority), it.created_at_ms, it.id)
        });
        for at in chosen.clone() {
            let held = self.held(at);
            let without = std::array::from_fn(|it| sum[it].saturating_sub(held[it]));
            if covers(&without, &self.lacking) {
                sum = without;
                chosen.retain(|other| *other != at);
            }
        }
        chosen.sort_unstable();
        chosen
    }
}
