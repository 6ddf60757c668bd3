//! A cluster in memory: members, what each has on disk, messages on their way; and what must hold
//! at every moment (Raft, figure 3).

use std::collections::BTreeMap;

use super::super::*;
use super::{conf, genesis};

/// What is applied at each index: term and command.
pub type Applied = BTreeMap<u64, (u64, Bytes)>;

#[derive(Clone)]
pub struct Snapshot {
    pub at: Position,
    pub conf: ConfState,
    pub applied: Applied,
}

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disk {
    pub snapshot: Option<Snapshot>,
    pub hard_state: Option<Vec<u8>>,
    pub entries: Vec<LogEntry>,
    /// As it was before the last write, for a tail that is cut off.
    before: Option<Box<Disk>>,
}

impl Disk {
    fn write(&mut self, persist: &Persist, received: &[Snapshot]) {
        self.before = None;
        self.before = Some(Box::new(self.clone()));
        if let Some(at) = persist.install {
            let snapshot = received.iter().find(|snapshot| snapshot.at == at);
            self.snapshot = Some(snapshot.expect("received before it is taken").clone());
            self.entries.clear();
        }
        if persist.hard_state.is_some() {
            self.hard_state.clone_from(&persist.hard_state);
        }
        if let Some(first) = persist.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(persist.entries.iter().cloned());
        }
    }
}

pub struct Node {
    pub raft: Option<Raft>,
    pub disk: Disk,
    pub unsynced: VecDeque<Persist>,
    pub received: Vec<Snapshot>,
    pub applied: Applied,
    pub applied_at: Position,
    /// The configuration as of `applied_at`.
    pub conf: ConfState,
    pub reads: Vec<ReadReady>,
    pub starts: u64,
    /// It started with a cut log, and nothing durable says so yet: the log will say it again.
    cut_unwritten: bool,
}

pub enum Letter {
    Message(pb::RaftMessage),
    Snapshot(Box<Snapshot>),
}

pub struct Envelope {
    pub from: u64,
    pub to: u64,
    pub letter: Letter,
}

#[derive(Default)]
pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub wire: Vec<Envelope>,
    /// What anyone ever applied.
    pub committed: Applied,
    leaders: BTreeMap<u64, u64>,
    /// What was committed when a read was asked for.
    read_floors: BTreeMap<u64, u64>,
    pub reads_answered: usize,
    pub installs: usize,
}

impl Cluster {
    pub fn founded_by(voters: &[u64]) -> Self {
        let mut cluster = Self::default();
        for id in voters {
            let snapshot = Snapshot {
                at: genesis(),
                conf: conf(voters, &[]),
                applied: Applied::new(),
            };
            let disk = Disk {
                snapshot: Some(snapshot),
                ..Disk::default()
            };
            cluster.add(*id, disk);
        }
        cluster
    }

    pub fn add(&mut self, id: u64, disk: Disk) {
        let node = Node {
            raft: None,
            disk,
            unsynced: VecDeque::new(),
            received: Vec::new(),
            applied: Applied::new(),
            applied_at: Position::default(),
            conf: ConfState::default(),
            reads: Vec::new(),
            starts: 0,
            cut_unwritten: false,
        };
        self.nodes.insert(id, node);
        self.start(id, false);
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a member")
    }

    pub fn raft(&mut self, id: u64) -> &mut Raft {
        self.node(id).raft.as_mut().expect("it runs")
    }

    pub fn start(&mut self, id: u64, cut: bool) {
        let node = self.node(id);
        node.starts += 1;
        node.cut_unwritten |= cut;
        let snapshot = node.disk.snapshot.clone();
        let recovered = Recovered {
            member: MemberId(id),
            snapshot: snapshot.as_ref().map(|s| (s.at, s.conf.clone())),
            hard_state: node.disk.hard_state.clone(),
            entries: node.disk.entries.clone(),
            cut: node.cut_unwritten,
        };
        node.raft = Some(Raft::new(recovered, id << 32 | node.starts).unwrap());
        let none = Snapshot {
            at: Position::default(),
            conf: ConfState::default(),
            applied: Applied::new(),
        };
        let Snapshot { at, conf, applied } = snapshot.unwrap_or(none);
        (node.applied_at, node.conf, node.applied) = (at, conf, applied);
        self.work(id);
    }

    /// `synced` of the writes on their way reach the disk; `cut` takes the last one off again.
    pub fn crash(&mut self, id: u64, synced: usize, cut: bool) {
        let node = self.node(id);
        node.raft = None;
        for persist in std::mem::take(&mut node.unsynced).into_iter().take(synced) {
            node.disk.write(&persist, &node.received);
            node.cut_unwritten = false;
        }
        if let Some(before) = node.disk.before.take().filter(|_| cut) {
            node.disk = *before;
        }
        node.reads.clear();
    }

    /// The oldest write on its way becomes durable.
    pub fn sync(&mut self, id: u64) {
        let node = self.node(id);
        if let (Some(raft), Some(persist)) = (&mut node.raft, node.unsynced.pop_front()) {
            node.disk.write(&persist, &node.received);
            node.cut_unwritten = false;
            raft.persisted(persist.number);
        }
        self.work(id);
    }

    pub fn tick(&mut self, id: u64) {
        if let Some(raft) = &mut self.node(id).raft {
            raft.tick();
            self.work(id);
        }
    }

    pub fn deliver(&mut self, envelope: Envelope) {
        let running = self
            .nodes
            .get(&envelope.to)
            .is_some_and(|node| node.raft.is_some());
        if !running {
            return self.lose(&envelope);
        }
        let Envelope { from, to, letter } = envelope;
        let node = self.nodes.get_mut(&to).expect("it runs");
        let raft = node.raft.as_mut().expect("it runs");
        match letter {
            Letter::Message(message) => raft.receive(MemberId(from), message).unwrap(),
            Letter::Snapshot(snapshot) => {
                raft.receive_snapshot(snapshot.at, snapshot.conf.clone());
                node.received.push(*snapshot);
                if let Some(sender) = &mut self.node(from).raft {
                    sender.snapshot_sent(MemberId(to), true);
                    self.work(from);
                }
            }
        }
        self.work(to);
    }

    /// A message that is lost is lost; who streams a snapshot notices.
    pub fn lose(&mut self, envelope: &Envelope) {
        if let (Letter::Snapshot(_), Some(sender)) =
            (&envelope.letter, &mut self.node(envelope.from).raft)
        {
            sender.snapshot_sent(MemberId(envelope.to), false);
            self.work(envelope.from);
        }
    }

    pub fn propose(&mut self, id: u64, command: &str) -> Result<Position, Error> {
        let at = self.raft(id).propose(command.as_bytes().to_vec());
        self.work(id);
        at
    }

    pub fn change(&mut self, id: u64, change: ConfChange) -> Result<Position, Error> {
        let at = self.raft(id).propose_change(change, Vec::new());
        self.work(id);
        at
    }

    pub fn read(&mut self, id: u64, context: u64) {
        let floor = self.committed.keys().next_back().copied().unwrap_or(0);
        self.read_floors.insert(context, floor);
        self.raft(id).read_index(context);
        self.work(id);
    }

    /// A durable snapshot of what is applied, and the log before it dropped.
    pub fn snapshot(&mut self, id: u64) {
        let node = self.node(id);
        let at = node.applied_at;
        let snapshot = Snapshot {
            at,
            conf: node.conf.clone(),
            applied: node.applied.clone(),
        };
        let newest = node.disk.snapshot.as_ref().map(|snapshot| snapshot.at);
        // What is not durable in the log yet cannot be covered in it.
        let logged = node.disk.entries.last().map(|entry| entry.index);
        let Some(raft) = &mut node.raft else { return };
        if newest >= Some(at) || logged < Some(at.index.0) {
            return;
        }
        raft.set_snapshot(at, snapshot.conf.clone());
        raft.compact(at, 128 << 20);
        node.disk.before = None;
        node.disk.snapshot = Some(snapshot);
        node.disk.entries.retain(|entry| entry.index > at.index.0);
    }

    /// Carries out what `id` has to do, and checks what must hold.
    pub fn work(&mut self, id: u64) {
        while let Some(work) = self.raft_work(id) {
            self.carry_out(id, work);
            self.check_leader(id);
        }
    }

    fn raft_work(&mut self, id: u64) -> Option<Work> {
        self.node(id).raft.as_mut()?.take_work()
    }

    fn carry_out(&mut self, id: u64, work: Work) {
        let node = self.nodes.get_mut(&id).expect("a member");
        node.unsynced.extend(work.persist);
        for Message { to, body, .. } in work.messages {
            self.wire.push(Envelope {
                from: id,
                to: to.0,
                letter: Letter::Message(body),
            });
        }
        if let Some(at) = work.installed {
            let snapshot = node.received.iter().find(|snapshot| snapshot.at == at);
            let snapshot = snapshot.expect("received before it is taken");
            node.applied.clone_from(&snapshot.applied);
            node.conf.clone_from(&snapshot.conf);
            node.applied_at = at;
            self.installs += 1;
        }
        for to in work.snapshots_wanted {
            let snapshot = node.disk.snapshot.clone().expect("a leader has one");
            self.wire.push(Envelope {
                from: id,
                to: to.0,
                letter: Letter::Snapshot(Box::new(snapshot)),
            });
        }
        for committed in work.committed {
            self.apply(id, committed);
        }
        for read in work.reads {
            assert!(
                read.index.0 >= self.read_floors[&read.context],
                "member {id} answers read {} at {}, which is stale",
                read.context,
                read.index.0
            );
            self.reads_answered += 1;
            self.node(id).reads.push(read);
        }
        if work.snapshot_due {
            self.snapshot(id);
        }
        let applied_at = self.node(id).applied_at;
        self.raft(id).applied(applied_at.index);
    }

    /// State machine safety: nobody applies another command at the same index.
    fn apply(&mut self, id: u64, committed: Committed) {
        let Committed {
            at,
            command,
            change,
        } = committed;
        let entry = (at.term.0, command);
        let first = self.committed.entry(at.index.0).or_insert(entry.clone());
        assert_eq!(
            first, &entry,
            "member {id} applies another entry at {}",
            at.index.0
        );
        let node = self.nodes.get_mut(&id).expect("a member");
        assert_eq!(
            at.index.0,
            node.applied_at.index.0 + 1,
            "member {id} skips entries"
        );
        node.applied.insert(at.index.0, entry);
        node.applied_at = at;
        if let (Some(change), Some(raft)) = (change, &mut node.raft) {
            node.conf = raft.apply_change(&change);
        }
    }

    /// Election safety, and leader completeness: at most one leader a term, who has every entry
    /// that was committed before.
    fn check_leader(&mut self, id: u64) {
        let raft = self.nodes[&id].raft.as_ref().expect("it works");
        if raft.role() != Role::Leader {
            return;
        }
        let term = raft.term().0;
        if self
            .leaders
            .insert(term, id)
            .is_some_and(|leader| leader != id)
        {
            panic!("members {id} and another lead in term {term}");
        }
        let log = &raft.node.raft.raft_log;
        for (index, (entry_term, _)) in self.committed.range(log.first_index()..) {
            assert!(
                *entry_term > term || log.term(*index) == Ok(*entry_term),
                "leader {id} of term {term} lacks the committed entry {index}"
            );
        }
    }

    /// Log matching: where two logs have the same term at an index, they agree up to there.
    pub fn check_logs(&self) {
        let logs: Vec<_> = self
            .nodes
            .values()
            .filter_map(|node| node.raft.as_ref())
            .collect();
        for (i, one) in logs.iter().enumerate() {
            for other in &logs[i + 1..] {
                let (one, other) = (&one.node.raft.raft_log, &other.node.raft.raft_log);
                let first = one.first_index().max(other.first_index());
                let last = one.last_index().min(other.last_index());
                let same = |index: &u64| one.term(*index) == other.term(*index);
                let mut range = (first..=last).skip_while(same);
                assert!(
                    !range.any(|index| same(&index)),
                    "two logs part and meet again"
                );
            }
        }
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &&Node| node.raft.as_ref().is_some_and(|r| r.role() == Role::Leader);
        let leaders = self.nodes.values().filter(leads);
        let newest = leaders
            .filter_map(|node| node.raft.as_ref())
            .max_by_key(|raft| raft.term());
        newest.map(|raft| raft.member.0)
    }

    /// Delivers and makes durable until nothing is left, `reaches` deciding what gets through.
    pub fn settle(&mut self, reaches: impl Fn(u64, u64) -> bool) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for _ in 0..10_000 {
            let wire = std::mem::take(&mut self.wire);
            let quiet = wire.is_empty() && self.nodes.values().all(|n| n.unsynced.is_empty());
            if quiet {
                return;
            }
            for envelope in wire {
                if reaches(envelope.from, envelope.to) {
                    self.deliver(envelope);
                } else {
                    self.lose(&envelope);
                }
            }
            for id in &ids {
                while !self.nodes[id].unsynced.is_empty() {
                    self.sync(*id);
                }
            }
        }
        let wire = self.wire.iter().map(|envelope| match &envelope.letter {
            Letter::Message(message) => {
                format!("{} to {}: {message:?}", envelope.from, envelope.to)
            }
            Letter::Snapshot(s) => format!("{} to {}: {:?}", envelope.from, envelope.to, s.at),
        });
        let wire: Vec<_> = wire.collect();
        let members = self.nodes.values().filter_map(|node| node.raft.as_ref());
        let members: Vec<_> = members.map(Raft::status).collect();
        panic!("the cluster does not come to rest: {wire:#?}, {members:?}");
    }

    pub fn settle_all(&mut self) {
        self.settle(|_, _| true);
    }

    /// Ticks everyone and delivers everything until `id`, or anyone, leads.
    pub fn elect(&mut self, id: Option<u64>) -> u64 {
        if let Some(id) = id {
            self.raft(id).campaign();
            self.work(id);
            self.settle_all();
        }
        for _ in 0..400 {
            if let Some(leader) = self.leader() {
                return leader;
            }
            self.tick_all();
        }
        panic!("nobody is elected");
    }

    pub fn tick_all(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        ids.iter().for_each(|id| self.tick(*id));
        self.settle_all();
    }
}
