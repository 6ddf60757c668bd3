//! What happens to workers: cut off alone or together, switched off, taken away and brought back.

use super::super::operator::Task;
use super::*;

/// Fewer are not taken out: something has to run somewhere.
const WORKERS_LEFT: usize = 2;

impl World {
    pub(super) fn trouble_worker(&mut self, fault: Fault) {
        let ends: Vec<End> = self.workers.ends().collect();
        let Some(end) = self.nemesis.random.pick(&ends).copied() else {
            return;
        };
        match fault {
            Fault::WorkerOff => {
                let for_ns = SECOND_NS + self.nemesis.random.wait(30 * SECOND_NS);
                self.wire.note(Kind::WorkerRestarted);
                self.workers.switch_off(&mut self.wire, end, for_ns);
            }
            Fault::WorkerRemoved => self.take_out(end, ends.len()),
            Fault::WorkersCut => {
                let spared = self.nemesis.random.chance(500_000).then_some(end);
                let cut = ends.into_iter().filter(|end| Some(*end) != spared);
                self.cut_workers(cut.collect(), 35 * SECOND_NS);
            }
            _ => self.cut_workers(vec![end], SECOND_NS),
        }
    }

    fn cut_workers(&mut self, ends: Vec<End>, least_ns: u64) {
        for end in ends {
            for machine in self.wire.directory.clone() {
                self.wire.network.cut_both(end, machine);
            }
            self.wire.note(Kind::WorkerCut);
        }
        self.heal_in(Heal::Partition, least_ns, 20 * SECOND_NS);
    }

    /// A host breaks for good, and the operator takes it out of the cluster; or lets it in again.
    fn take_out(&mut self, end: End, of: usize) {
        if self.nemesis.taken_out.contains(&end) {
            return self.let_in(end);
        }
        let leader = self.leader().and_then(|end| self.machine(end));
        let state = leader.and_then(|machine| machine.control()?.state());
        let knows = state.is_some_and(|state| state.feature_level() >= 3);
        if !knows || self.nemesis.taken_out.len() + WORKERS_LEFT >= of {
            return;
        }
        let Some(node) = self.workers.node(end) else {
            return;
        };
        self.nemesis.taken_out.push(end);
        self.workers.take_away(&mut self.wire, end);
        self.operator
            .give(&mut self.wire, Task::RemoveNode { node });
    }

    pub(super) fn let_in_removed(&mut self) {
        for end in self.nemesis.taken_out.clone() {
            self.let_in(end);
        }
    }

    fn let_in(&mut self, end: End) {
        self.nemesis.taken_out.retain(|known| *known != end);
        if let Some(node) = self.workers.node(end) {
            self.operator.give(&mut self.wire, Task::AdmitNode { node });
        }
    }
}
