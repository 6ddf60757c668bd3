//! What must hold, looked at after every step, and only where something changed.
//!
//! | checker | holds that |
//! |---|---|
//! | one leader | a term has one leader at most (Raft §5.2, election safety) |
//! | log matching | entries of one index and term are the same, and so is all before them (§5.3) |
//! | leader completeness | a leader's log holds every entry that was committed in an earlier term (§5.4) |
//! | state machine | no two members commit different entries at an index (§5.4.3) |
//! | quorum durable | what a leader commits is durable on a quorum then |
//! | acks durable | no vote and no acknowledgement leaves before what it says is durable |
//! | hard state | durable terms and votes never go back, over any crash |
//! | log kept | what was durable is there after a crash, unless its disk was damaged |
//! | state hash | equal index, equal hash; and the hash is that of the objects (sampled) |
//! | configuration | equal index, equal configuration |
//! | placement | no node overcommitted, no slot filled twice |
//! | feature level | never falls |
//! | missed | the orchestrator's sweep finds nothing that was not marked |
//! | history | what clients were told is linearizable: nothing acknowledged is lost, nothing done twice |
//! | start | a member starts, unless its disk was damaged |
//! | stop | a member stops by itself only when it should |
//! | singleton | no singleton runs on two workers at one moment, whatever anybody believes |
//! | worker, client | nobody is told what no correct cluster says |
//! | disruption | who was cut off and comes back does not unseat a leader that worked (Raft §9.6) |
//! | liveness | after healing: a leader, answers, equal members, converged services |
//! | panic | nothing panics |

mod log;
mod placement;

use std::collections::BTreeMap;

use crate::control::{Control, FrameOut, Standing, peer::frame};
use crate::fsm::{State, StateHash};
use crate::ids::MemberId;
use crate::pb::{self, RaftMessageType as Type};
use crate::raft::{ConfState, Persist, Position};
pub use log::Shadow;

macro_rules! checks {
    ($($name:ident => $label:literal,)*) => {
        /// A checker.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Check { $($name),* }

        impl Check {
            pub const ALL: &'static [Check] = &[$(Check::$name),*];

            pub fn label(self) -> &'static str {
                match self { $(Check::$name => $label),* }
            }
        }
    };
}

checks! {
    OneLeader => "one leader",
    LogMatching => "log matching",
    LeaderCompleteness => "leader completeness",
    StateMachine => "state machine",
    QuorumDurable => "quorum durable",
    AcksDurable => "acks durable",
    HardState => "hard state",
    LogKept => "log kept",
    StateHash => "state hash",
    Configuration => "configuration",
    Placement => "placement",
    FeatureLevel => "feature level",
    Missed => "missed",
    History => "history",
    Start => "start",
    Stop => "stop",
    Singleton => "singleton",
    Worker => "worker",
    Client => "client",
    Disruption => "disruption",
    Liveness => "liveness",
    Panic => "panic",
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub check: Check,
    pub what: String,
}

/// How often each checker looked.
pub type Looks = [u64; Check::ALL.len()];

/// A state's own objects are hashed anew at every index that this divides.
const REHASH_EVERY: u64 = 512;

/// What a member handed to its log.
pub struct Handed {
    pub number: u64,
    install: Option<Position>,
    /// Term and vote.
    hard_state: Option<(u64, u64)>,
    /// Index, term and hash.
    entries: Vec<(u64, u64, u64)>,
}

/// What is known of one member, over all its lives.
#[derive(Default)]
struct Known {
    /// Handed to the log, durable or not.
    handed: Shadow,
    durable: Shadow,
    /// What was durable before its disk was damaged on purpose: acknowledged truthfully.
    lost: Shadow,
    /// Durable term and vote.
    hard_state: (u64, u64),
    commit_index: u64,
    applied_index: u64,
    led_term: u64,
    /// Singletons that its orchestrator has let wait.
    fenced: u64,
    conf: Option<ConfState>,
    /// Its disk was damaged on purpose: what it acknowledged before may be gone.
    excused: bool,
}

#[derive(Default)]
pub struct Checks {
    pub violation: Option<Violation>,
    pub looks: Looks,
    leaders: BTreeMap<u64, MemberId>,
    /// By (index, term): the entry's hash, and the term before it.
    entries: BTreeMap<(u64, u64), (u64, u64)>,
    /// By index: term and hash, and the term in which the first member called it committed.
    committed: BTreeMap<u64, ((u64, u64), u64)>,
    hashes: BTreeMap<u64, StateHash>,
    /// By applied index.
    confs: BTreeMap<u64, ConfState>,
    votes: BTreeMap<(MemberId, u64), u64>,
    members: BTreeMap<MemberId, Known>,
    level: u32,
    frozen: bool,
    freezes: u64,
    fenced: u64,
}

impl Checks {
    /// The first violation is the one that counts.
    pub fn fail(&mut self, check: Check, what: impl Into<String>) {
        let what = what.into();
        self.violation.get_or_insert(Violation { check, what });
    }

    pub fn look(&mut self, check: Check, holds: bool, what: impl FnOnce() -> String) {
        self.looks[check as usize] += 1;
        if !holds {
            self.fail(check, what());
        }
    }

    /// A checker that looks from elsewhere.
    pub fn looked(&mut self, check: Check) {
        self.looks[check as usize] += 1;
    }

    /// The disk of a member was damaged on purpose.
    pub fn excuse(&mut self, member: MemberId) {
        let known = self.known(member);
        known.excused = true;
        known.lost = known.durable.clone();
    }

    /// Handed to the log: not durable yet. Gives what is to be said once it is.
    pub fn handed(&mut self, member: MemberId, persist: &Persist) -> Handed {
        if let Some(at) = persist.install {
            self.known(member).handed.install(at.index.0, at.term.0);
        }
        let mut entries = Vec::with_capacity(persist.entries.len());
        for entry in &persist.entries {
            let (index, term, hash) = (entry.index, entry.term, log::hash(&entry.payload));
            entries.push((index, term, hash));
            let handed = &mut self.known(member).handed;
            let before = handed.term_at(index - 1).unwrap_or(0);
            handed.put(index, term, hash);
            let fact = (hash, before);
            let known = *self.entries.entry((index, term)).or_insert(fact);
            // A log that begins right there does not know the term before.
            let same = known == fact || known.0 == hash && (before == 0 || known.1 == 0);
            self.look(Check::LogMatching, same, || {
                format!(
                    "entry {index} of term {term} is not the same on member {}",
                    member.0
                )
            });
        }
        Handed {
            number: persist.number,
            install: persist.install,
            hard_state: persist.hard_state.as_deref().and_then(log::term_and_vote),
            entries,
        }
    }

    /// The log's disk has it.
    pub fn durable(&mut self, member: MemberId, handed: &Handed) {
        let known = self.known(member);
        if let Some(at) = handed.install {
            known.durable.install(at.index.0, at.term.0);
        }
        for (index, term, hash) in &handed.entries {
            known.durable.put(*index, *term, *hash);
        }
        if let Some((term, vote)) = handed.hard_state {
            let before = std::mem::replace(&mut known.hard_state, (term, vote));
            let forward =
                term > before.0 || term == before.0 && (before.1 == 0 || before.1 == vote);
            self.look(Check::HardState, forward, || {
                format!("member {}: {before:?} became {:?}", member.0, (term, vote))
            });
            self.note_vote(member, term, vote);
        }
    }

    fn note_vote(&mut self, member: MemberId, term: u64, vote: u64) {
        if vote == 0 {
            return;
        }
        let first = *self.votes.entry((member, term)).or_insert(vote);
        self.look(Check::HardState, first == vote, || {
            format!(
                "member {} voted for {first} and {vote} in term {term}",
                member.0
            )
        });
    }

    /// The log was dropped up to there, behind a durable snapshot.
    pub fn compacted(&mut self, member: MemberId, at: Position) {
        let known = self.known(member);
        known.handed.compact(at.index.0, at.term.0);
        known.durable.compact(at.index.0, at.term.0);
    }

    /// What was found on disk. An entry that had been durable must be there.
    pub fn recovered(
        &mut self,
        member: MemberId,
        snapshot: Option<Position>,
        hard_state: Option<&[u8]>,
        entries: &[crate::raft::LogEntry],
    ) {
        let mut found = Shadow::default();
        if let Some(at) = snapshot {
            found.install(at.index.0, at.term.0);
        }
        for entry in entries {
            found.put(entry.index, entry.term, log::hash(&entry.payload));
        }
        let now = hard_state.and_then(log::term_and_vote).unwrap_or((0, 0));
        let known = self.known(member);
        let excused = std::mem::take(&mut known.excused);
        let before = std::mem::replace(&mut known.hard_state, now);
        // What was being written when the power went may be there, in place of what was before.
        let lost = found.lacks(&known.durable).filter(|index| {
            let there = found.get(*index);
            there.is_none() || there != known.handed.get(*index)
        });
        (known.handed, known.durable) = (found.clone(), found);
        (known.commit_index, known.applied_index, known.led_term) = (0, 0, 0);
        known.conf = None;
        let kept = excused || lost.is_none();
        self.look(Check::LogKept, kept, || {
            format!(
                "member {} lost entry {}, which was durable",
                member.0,
                lost.unwrap_or(0)
            )
        });
        let forward =
            excused || now.0 > before.0 || now == before || now.0 == before.0 && before.1 == 0;
        self.look(Check::HardState, forward, || {
            format!(
                "member {} had {before:?} and came back with {now:?}",
                member.0
            )
        });
    }

    /// After each step of a member, before anything of it leaves.
    pub fn stepped(&mut self, member: MemberId, control: &Control, status: Standing) {
        if status.is_leader && self.known(member).led_term != status.term.0 {
            self.known(member).led_term = status.term.0;
            self.leads(member, status.term.0);
        }
        let known = self.known(member);
        // It changes as an entry is applied or a snapshot installed, never otherwise.
        let may_change = known.conf.is_none() || status.applied_index.0 != known.applied_index;
        let before = may_change
            .then(|| self.follow_conf(member, control.conf_state()))
            .flatten();
        if status.commit_index.0 > self.known(member).commit_index {
            let confs = before.iter().chain(control.conf_state());
            self.commits(member, status, &confs.collect::<Vec<_>>());
        }
        if status.applied_index.0 > self.known(member).applied_index {
            self.known(member).applied_index = status.applied_index.0;
            if let Some(state) = control.state() {
                self.applies(member, state);
                self.configures(member, status.applied_index.0, control.conf_state());
            }
        }
        if let Some(orchestrator) = control.orchestrator().filter(|_| status.is_leader) {
            let (missed, fenced) = (orchestrator.stats().missed, orchestrator.stats().fenced);
            let before = std::mem::replace(&mut self.known(member).fenced, fenced);
            // It counts anew in each life.
            self.fenced += fenced.saturating_sub(before);
            self.look(Check::Missed, missed == 0, || {
                format!(
                    "the sweep of member {} found {missed} that nobody marked",
                    member.0
                )
            });
        }
    }

    /// The configuration as it was before this step, if it is another now.
    fn follow_conf(&mut self, member: MemberId, now: Option<&ConfState>) -> Option<ConfState> {
        let known = self.known(member);
        if known.conf.as_ref() == now {
            return None;
        }
        std::mem::replace(&mut known.conf, now.cloned())
    }

    fn leads(&mut self, member: MemberId, term: u64) {
        let first = *self.leaders.entry(term).or_insert(member);
        self.look(Check::OneLeader, first == member, || {
            format!(
                "members {} and {} both lead in term {term}",
                first.0, member.0
            )
        });
        let log = &self.members[&member].handed;
        let mut later = self.committed.range(log.first()..);
        // One that was elected long ago and hears of it only now owes nothing to later terms.
        let lacking = later
            .find(|(index, (entry, in_term))| *in_term < term && log.get(**index) != Some(*entry));
        let lacking = lacking.map(|(index, _)| *index);
        self.look(Check::LeaderCompleteness, lacking.is_none(), || {
            format!(
                "member {} leads in term {term} without committed entry {}",
                member.0,
                lacking.unwrap_or(0)
            )
        });
    }

    /// Of a step that changes the configuration nobody outside knows by which one it committed.
    fn commits(&mut self, member: MemberId, status: Standing, confs: &[&ConfState]) {
        let to = status.commit_index.0;
        let from = std::mem::replace(&mut self.known(member).commit_index, to);
        for index in from + 1..=to {
            // What a snapshot covers was compared when it was committed.
            let Some(entry) = self.members[&member].handed.get(index) else {
                continue;
            };
            let is_new = !self.committed.contains_key(&index);
            let in_term = status.term.0;
            let (first, _) = *self.committed.entry(index).or_insert((entry, in_term));
            self.look(Check::StateMachine, first == entry, || {
                format!(
                    "member {} commits another entry {index} than was committed",
                    member.0
                )
            });
            if is_new && index == to && status.is_leader {
                self.committed_on_quorum(index, entry.0, confs);
            }
        }
    }

    fn committed_on_quorum(&mut self, index: u64, term: u64, confs: &[&ConfState]) {
        let holds = |id: u64| {
            self.members.get(&MemberId(id)).is_some_and(|known| {
                known.durable.covers(index, term) || known.lost.covers(index, term)
            })
        };
        let durable = confs.iter().any(|conf| conf.has_quorum(holds));
        self.look(Check::QuorumDurable, durable, || {
            format!("entry {index} was committed and no quorum of {confs:?} has it on disk")
        });
    }

    fn applies(&mut self, member: MemberId, state: &State) {
        let index = state.index().0;
        let hash = state.hash();
        let is_new = !self.hashes.contains_key(&index);
        let first = *self.hashes.entry(index).or_insert(hash);
        self.look(Check::StateHash, first == hash, || {
            format!(
                "member {} has {hash} at index {index} and not {first}",
                member.0
            )
        });
        if !is_new {
            return;
        }
        let level = state.feature_level();
        let fell = self.level > level && self.hashes.range(index + 1..).next().is_none();
        let before = self.level;
        self.level = self.level.max(level);
        self.look(Check::FeatureLevel, !fell, || {
            format!("level {before} became {level}")
        });
        let frozen = state.freeze().is_some();
        self.freezes += u64::from(frozen && !self.frozen);
        self.frozen = frozen;
        let wrong = placement::wrong(state);
        self.look(Check::Placement, wrong.is_none(), || {
            wrong.unwrap_or_default()
        });
        if index.is_multiple_of(REHASH_EVERY) {
            let scratch = state.hash_from_scratch();
            self.look(Check::StateHash, scratch == hash, || {
                format!("the hash at index {index} is {hash}, of its objects {scratch}")
            });
        }
    }

    /// A configuration is what the log says up to where it is applied, and nothing else.
    fn configures(&mut self, member: MemberId, index: u64, conf: Option<&ConfState>) {
        let Some(conf) = conf else { return };
        let first = self.confs.entry(index).or_insert_with(|| conf.clone());
        let wrong = (first != conf).then(|| format!("{first:?}"));
        self.look(Check::Configuration, wrong.is_none(), || {
            let (member, first) = (member.0, wrong.unwrap_or_default());
            format!("member {member} goes by {conf:?} at index {index}, another by {first}")
        });
    }

    /// A frame is about to leave: what it promises is durable.
    pub fn leaves(&mut self, member: MemberId, out: &FrameOut) {
        let Ok((header, body)) = frame::decode(&out.bytes) else {
            return self.fail(Check::AcksDurable, "a frame that cannot be read leaves");
        };
        if header.kind != frame::Kind::Raft {
            return;
        }
        let Ok(message) = <pb::RaftMessage as prost::Message>::decode(body) else {
            return self.fail(Check::AcksDurable, "a message that cannot be read leaves");
        };
        let kind = message.r#type();
        // Questions that bind nobody.
        if matches!(kind, Type::PreVote | Type::PreVoteResponse | Type::Rejoin) {
            return;
        }
        let known = self.known(member);
        let (term, vote) = known.hard_state;
        let term_durable = message.term <= term;
        let backed = match kind {
            Type::VoteResponse if !message.reject => message.term < term || vote == out.to.0,
            // What was durable in an older term may have been overwritten since by a newer leader,
            // to whom whoever voted had shown it: as if the answer had been slow on its way.
            Type::AppendResponse if !message.reject => {
                message.term < term || message.index <= known.durable.last()
            }
            _ => true,
        };
        let excused = known.excused;
        self.look(
            Check::AcksDurable,
            excused || term_durable && backed,
            || {
                format!(
                    "member {} sends {message:?} with ({term}, {vote}) on its disk",
                    member.0
                )
            },
        );
    }

    fn known(&mut self, member: MemberId) -> &mut Known {
        self.members.entry(member).or_default()
    }

    /// Terms that had a leader.
    pub fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// How often replacement was frozen.
    pub fn freezes(&self) -> u64 {
        self.freezes
    }

    /// Singletons that were not replaced at once.
    pub fn fenced(&self) -> u64 {
        self.fenced
    }

    /// How often the feature level rose.
    pub fn level_raises(&self) -> u64 {
        u64::from(self.level.saturating_sub(1))
    }
}
