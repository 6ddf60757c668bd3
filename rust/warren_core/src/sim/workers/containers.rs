//! What one worker runs.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::super::random::Random;
use crate::pb::{self, ContainerState as S, DesiredState};

/// In a million rounds of half a second: a running container ends by itself.
const ENDS: u64 = 300;
/// In a million starts: it fails.
const FAILS: u64 = 20_000;

struct Held {
    spec_digest: Vec<u8>,
    desired: DesiredState,
    status: pb::ContainerStatus,
}

/// Invariant: `untold` are keys of `held`, or of nothing any more.
#[derive(Default)]
pub struct Containers {
    held: BTreeMap<Vec<u8>, Held>,
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
        for told in &assignments.upsert {
            let held = self
                .held
                .entry(told.container_id.clone())
                .or_insert_with(|| Held {
                    spec_digest: told.spec_digest.clone(),
                    desired: told.desired(),
                    status: told.status.clone().unwrap_or_default(),
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
    pub fn work(&mut self, random: &mut Random, calm: bool) {
        for (id, held) in &mut self.held {
            if let Some(status) = next(held, random, calm) {
                held.status = status;
                self.untold.insert(id.clone());
            }
        }
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
