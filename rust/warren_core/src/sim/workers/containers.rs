//! What one worker runs.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::super::random::Random;
use super::contact::Contact;
use crate::pb::{self, ContainerState as S, DesiredState};

/// In a million rounds of half a second: a running container ends by itself.
const ENDS: u64 = 300;
/// In a million starts: it fails.
const FAILS: u64 = 20_000;

struct Held {
    spec_digest: Vec<u8>,
    desired: DesiredState,
    status: pb::ContainerStatus,
    /// Service and slot.
    place: (Vec<u8>, u64),
    alone: Alone,
    /// It has been told to stop, and takes until then.
    stops_ns: Option<u64>,
}

/// What its spec says of a worker without a manager.
#[derive(Clone, Copy, Debug, Default)]
struct Alone {
    /// It is stopped after this; 0: it is not.
    limit_ns: u64,
    singleton: bool,
    /// Stopping it may take as long.
    stop_ns: u64,
}

impl Alone {
    fn of(spec: &pb::ContainerSpec) -> Self {
        Self {
            limit_ns: u64::from(spec.partition_stop_after_ms) * MS_NS,
            singleton: spec.partition() == pb::PartitionPolicy::Singleton,
            stop_ns: u64::from(spec.stop_timeout_ms) * MS_NS,
        }
    }
}

const MS_NS: u64 = 1_000_000;

/// Invariant: `untold` are keys of `held`, or of nothing any more.
#[derive(Default)]
pub struct Containers {
    held: BTreeMap<Vec<u8>, Held>,
    /// By digest, of every spec that was ever told.
    specs: BTreeMap<Vec<u8>, Alone>,
    untold: BTreeSet<Vec<u8>>,
}

impl Containers {
    /// Takes a change, or the whole set; an error if that does not come to what was announced.
    pub fn assign(&mut self, assignments: &pb::Assignments) -> Result<(), String> {
        if assignments.complete {
            let listed: BTreeSet<_> = assignments.upsert.iter().map(|a| &a.container_id).collect();
            self.held.retain(|id, _| listed.contains(id));
        }
        for id in &assignments.remove {
            self.held.remove(id);
        }
        for told in &assignments.specs {
            let alone = told.spec.as_ref().map(Alone::of).unwrap_or_default();
            self.specs.insert(told.digest.clone(), alone);
        }
        for told in &assignments.upsert {
            let alone = self.specs.get(&told.spec_digest).copied();
            let held = self
                .held
                .entry(told.container_id.clone())
                .or_insert_with(|| Held {
                    spec_digest: told.spec_digest.clone(),
                    desired: told.desired(),
                    status: told.status.clone().unwrap_or_default(),
                    place: (told.service_id.clone(), told.slot),
                    alone: alone.unwrap_or_default(),
                    stops_ns: None,
                });
            held.desired = told.desired();
        }
        let hash = self.set_hash();
        if hash != assignments.set_hash {
            let announced = assignments.set_hash;
            return Err(format!(
                "a worker holds set {hash:016x} and was announced {announced:016x}"
            ));
        }
        Ok(())
    }

    /// As the schema defines it at `Assignments.set_hash`.
    pub fn set_hash(&self) -> u64 {
        self.held.iter().fold(0, |sum: u64, (id, held)| {
            let digest = Sha256::new()
                .chain_update(id)
                .chain_update(&held.spec_digest)
                .chain_update([held.desired as u8])
                .finalize();
            sum.wrapping_add(u64::from_le_bytes(std::array::from_fn(|at| digest[at])))
        })
    }

    /// Everything takes its next step.
    pub fn work(&mut self, random: &mut Random, calm: bool, contact: &Contact, now_ns: u64) {
        for (id, held) in &mut self.held {
            let may_run = contact.allows(held.alone.limit_ns, now_ns);
            let status = match held.desired == DesiredState::Run && !may_run {
                true => held.stop_alone(random, now_ns),
                false => {
                    held.stops_ns = None;
                    next(held, random, calm)
                }
            };
            if let Some(status) = status {
                held.status = status;
                self.untold.insert(id.clone());
            }
        }
    }

    /// The host has lost its power. What must not run alone is not started again by itself; the rest
    /// is there again at once.
    pub fn reboot(&mut self) {
        for (id, held) in &mut self.held {
            if held.alone.limit_ns > 0 && held.runs() {
                held.status = held.next_attempt();
                held.stops_ns = None;
                self.untold.insert(id.clone());
            }
        }
    }

    /// Singletons that run here, by service and slot.
    pub fn singletons(&self) -> impl Iterator<Item = &(Vec<u8>, u64)> {
        let running = self.held.values().filter(|held| held.runs());
        let singletons = running.filter(|held| held.alone.singleton);
        singletons.map(|held| &held.place)
    }

    /// Of those that must not run alone for long, how long that is.
    pub fn limits_ns(&self) -> impl Iterator<Item = u64> {
        let limits = self.held.values().map(|held| held.alone.limit_ns);
        limits.filter(|limit_ns| *limit_ns > 0)
    }

    /// Changes that nobody was told of yet.
    pub fn news(&mut self) -> Option<Vec<pb::StatusItem>> {
        let untold = std::mem::take(&mut self.untold);
        let items: Vec<_> = untold
            .into_iter()
            .filter_map(|id| self.held.get(&id).map(|held| item(&id, held)))
            .collect();
        (!items.is_empty()).then_some(items)
    }

    pub fn report_again(&mut self) {
        self.untold = self.held.keys().cloned().collect();
    }

    /// For a hello, after which nothing is untold.
    pub fn all(&mut self) -> Vec<pb::StatusItem> {
        self.untold.clear();
        self.held.iter().map(|(id, held)| item(id, held)).collect()
    }
}

impl Held {
    /// Something of it may be running.
    fn runs(&self) -> bool {
        matches!(self.status.state(), S::Starting | S::Running)
    }

    fn next_attempt(&self) -> pb::ContainerStatus {
        let mut status = self.status.clone();
        status.attempt = status.attempt.max(1) + 1;
        status.set_state(S::Pending);
        status
    }

    /// It must not run, or not begin to.
    fn stop_alone(&mut self, random: &mut Random, now_ns: u64) -> Option<pb::ContainerStatus> {
        if !self.runs() {
            return None;
        }
        let takes_ns = self.alone.stop_ns.max(1);
        let stops_ns = *self
            .stops_ns
            .get_or_insert_with(|| now_ns + random.below(takes_ns));
        (now_ns >= stops_ns).then(|| {
            self.stops_ns = None;
            self.next_attempt()
        })
    }
}

fn item(id: &[u8], held: &Held) -> pb::StatusItem {
    pb::StatusItem {
        container_id: id.to_vec(),
        status: Some(held.status.clone()),
    }
}

/// Its status after one more round, if that is another.
fn next(held: &Held, random: &mut Random, calm: bool) -> Option<pb::ContainerStatus> {
    let now = &held.status;
    let ended = matches!(
        now.state(),
        S::Complete | S::Failed | S::Shutdown | S::Rejected | S::Lost
    );
    let happens = |random: &mut Random, of_million| !calm && random.chance(of_million);
    let (state, removed) = match (held.desired, now.state()) {
        (DesiredState::Remove, S::Lost) => (S::Shutdown, true),
        (DesiredState::Remove, state) if ended => (state, true),
        (DesiredState::Remove | DesiredState::Stop, _) if !ended => (S::Shutdown, false),
        (DesiredState::Run, S::Running) if happens(random, ENDS) => (
            if random.chance(500_000) {
                S::Complete
            } else {
                S::Failed
            },
            false,
        ),
        (DesiredState::Run, S::Pending | S::Assigned) => (S::Starting, false),
        (DesiredState::Run, S::Preparing | S::Starting) if happens(random, FAILS) => {
            (S::Failed, false)
        }
        (DesiredState::Run, S::Preparing | S::Starting) => (S::Running, false),
        _ => return None,
    };
    if (state, removed) == (now.state(), now.removed) {
        return None;
    }
    let mut status = now.clone();
    status.attempt = status.attempt.max(1);
    status.set_state(state);
    status.removed = removed;
    Some(status)
}
