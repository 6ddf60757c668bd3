//! Disks that are lost, and members that come and go.

use super::super::coverage::Kind;
use super::super::disk::Fate;
use super::super::machine::{Life, Machine};
use super::super::world::World;
use super::Fault;

impl World {
    /// One disk rots, or is replaced by an empty one under the same name.
    pub(super) fn damage(&mut self, fault: Fault) {
        let Some(at) = self.may_lose_one() else {
            return;
        };
        let down_ns = self.down_ns();
        let machine = &mut self.machines[at];
        let Some(member) = machine.member else { return };
        self.wire.a_disk_is_lost = true;
        if fault == Fault::EmptyDisk {
            return machine.pretend(&mut self.wire, &mut self.checks);
        }
        machine.damaged = true;
        self.checks.excuse(member);
        machine.crash(&mut self.wire, Fate::Kept, down_ns);
        if let Some((file, offset)) = machine.disk.flip(&mut self.nemesis.random) {
            self.wire.note(Kind::BitFlip);
            self.wire
                .say(|| format!("a bit of {file} at {offset} is flipped"));
        }
    }

    /// A machine that the cluster can do without: all other voters are up, whole and caught up.
    fn may_lose_one(&mut self) -> Option<usize> {
        let leader = self.leader()?;
        let conf = self.machine(leader)?.conf_state()?;
        let whole = |machine: &Machine| {
            machine
                .control()
                .is_some_and(|control| !control.status().cut)
                && !machine.damaged
        };
        let voters: Vec<usize> = (0..self.machines.len())
            .filter(|at| {
                self.machines[*at]
                    .member
                    .is_some_and(|m| conf.is_voter(m.0))
            })
            .filter(|at| !matches!(self.machines[*at].life, Life::Gone))
            .collect();
        let fit = self.operator.is_idle()
            && voters.len() >= 3
            && voters.len() == conf.voters.len()
            && !conf.is_joint()
            && voters.iter().all(|at| whole(&self.machines[*at]))
            && self
                .machines
                .iter()
                .all(|m| !m.damaged || matches!(m.life, Life::Gone));
        if !fit {
            return None;
        }
        self.nemesis.random.pick(&voters).copied()
    }

    pub(super) fn change_members(&mut self, fault: Fault) {
        let Some(leader) = self.leader() else { return };
        // To take a living member away while another is dead takes the quorum away.
        let broken = |machine: &Machine| {
            machine.damaged && machine.life != Life::Gone
                || matches!(machine.life, Life::Refused(_))
        };
        if !self.operator.is_idle() || self.machines.iter().any(broken) {
            return;
        }
        let Some(conf) = self.machine(leader).and_then(Machine::conf_state) else {
            return;
        };
        let voters: Vec<u64> = conf.voters.clone();
        let count = voters.len();
        let Some(member) = self.nemesis.random.pick(&voters).copied() else {
            return;
        };
        match fault {
            Fault::Transfer => self.transfer_to(member),
            Fault::MemberAdded if count < 5 => {
                self.add_machine();
            }
            Fault::MemberReplaced if count < 6 && self.add_machine() => {
                self.remove_member(member);
                self.wire.note(Kind::MemberReplaced);
            }
            Fault::MemberRemoved if count > 3 => self.remove_member(member),
            _ => {}
        }
    }
}
