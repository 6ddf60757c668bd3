//! Workers' sessions: what each has been told, and what it must still be told.
//!
//! A session gets a welcome, then the whole set of its node's containers (or nothing but the hash,
//! if it holds that set already), then changes. A change is noted by container, not queued, so a
//! slow worker costs a set of ids at most and then sees the newest. What waits for all workers
//! together is bounded too ([`WAITING_BYTES_MAX`]): ten thousand that come back at once get their
//! sets one after the other, as fast as they take them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::causes::Causes;
use super::streams::Outlet;
use super::{CallId, Now, Outputs};
use crate::error::Error;
use crate::fsm::{Container, State};
use crate::ids::{ContainerId, ENTROPY_BYTES, Index, NodeId, SessionId, SpecDigest, Term};
use crate::pb;

/// Reports in one message of a worker, and so in one command: as many as a state of a million
/// containers takes in 2 ms, also if each of them is the last of its container.
pub const REPORT_ITEMS_MAX: usize = 256;
/// Containers that sessions are told of in one step: each costs up to 2 µs.
const TELL_MAX: usize = 512;
/// What is on its way to workers and not taken yet: with so much of it, only what a worker has
/// taken makes room for more. One message more at most, a node's whole set.
pub const WAITING_BYTES_MAX: usize = 128 << 20;
/// Workers that have said hello and are not in the state yet; more are told to come back, so that a
/// new leader is not buried under what all of them report at once.
pub const UNHEARD_MAX: usize = 256;
/// A worker's pulse is no slower than this shows its loss in time.
const HEARTBEAT_MS_MIN: u32 = 2_000;
/// Heartbeats of all workers together.
const HEARTBEATS_PER_SECOND_MAX: u32 = 500;

/// Invariants: `hash` is the sum over `told`; `told` is what the worker holds once it has taken
/// everything sent, and the set that is on its way into a message.
struct Session {
    outlet: Outlet,
    /// What the hello said is applied from here on: a worker that gets its set has been heard.
    heard_at: Index,
    is_heard: bool,
    node: NodeId,
    id: SessionId,
    /// The set must be sent whole: what is done of that.
    whole: Option<Whole>,
    told: BTreeMap<ContainerId, Told>,
    hash: u64,
    specs: BTreeSet<SpecDigest>,
    changed: BTreeSet<ContainerId>,
    /// When the first of what is not sent yet changed, by the monotonic clock, and of what is on
    /// its way.
    changed_ns: Option<u64>,
    sent_ns: Option<u64>,
    /// Something must be sent even if nothing changed.
    due: bool,
    /// Who manages the cluster has changed since it was told.
    managers_due: bool,
    /// What the node said last that it uses.
    usage: Option<pb::NodeUsage>,
}

/// A whole set on its way into one message, over as many steps as it takes. What changes behind
/// the walk is noted as ever, and sent afterwards.
#[derive(Default)]
struct Whole {
    is_begun: bool,
    after: Option<ContainerId>,
    assignments: pb::Assignments,
}

/// What workers are told from.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub state: &'a State,
    pub causes: &'a Causes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    spec: SpecDigest,
    desired: pb::DesiredState,
}

/// Invariants: one session a node, and each in all three indexes; `unheard` holds those whose hello
/// is not applied yet, `ready` those that have something to be sent and can take it;
/// `waiting_bytes` is the sum over all outlets.
pub struct Sessions {
    by_node: BTreeMap<NodeId, Session>,
    by_stream: BTreeMap<CallId, NodeId>,
    by_id: BTreeMap<SessionId, NodeId>,
    unheard: BTreeSet<(Index, NodeId)>,
    ready: BTreeSet<NodeId>,
    /// The last one that was sent something: the next one is the one after it.
    turn: Option<NodeId>,
    waiting_bytes: usize,
    /// [`WAITING_BYTES_MAX`], but in tests.
    pub(super) waiting_bytes_max: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            by_node: BTreeMap::new(),
            by_stream: BTreeMap::new(),
            by_id: BTreeMap::new(),
            unheard: BTreeSet::new(),
            ready: BTreeSet::new(),
            turn: None,
            waiting_bytes: 0,
            waiting_bytes_max: WAITING_BYTES_MAX,
        }
    }
}

impl Sessions {
    /// Opens a node's session and ends an older one.
    #[allow(clippy::too_many_arguments)]
    pub fn open(
        &mut self,
        stream: CallId,
        node: NodeId,
        hello: &pb::Hello,
        (epoch, term): (u64, Term),
        heard_at: Index,
        entropy: [u8; ENTROPY_BYTES],
        managers: pb::Managers,
        state: &State,
        out: &mut Outputs,
    ) {
        if let Some(old) = self.by_node.get(&node).map(|session| session.outlet.id) {
            self.close(old);
            out.ended.push((old, Some(Error::StaleSession)));
        }
        let id = SessionId::compose(entropy, 0);
        let mut session = Session::new(stream, node, id, heard_at);
        let same_history = hello
            .last_revision
            .is_some_and(|revision| revision.epoch == epoch);
        if same_history {
            session.assume_told(state, hello.set_hash);
        }
        let welcome = pb::Welcome {
            epoch,
            term: term.0,
            session_id: id.to_vec(),
            heartbeat_interval_ms: heartbeat_interval_ms(state.node_count()),
            managers: Some(managers),
        };
        session
            .outlet
            .send(&message(pb::manager_message::Body::Welcome(welcome)), out);
        self.waiting_bytes += session.outlet.waiting_bytes();
        self.by_stream.insert(stream, node);
        self.by_id.insert(id, node);
        self.by_node.insert(node, session);
        self.unheard.insert((heard_at, node));
    }

    /// How many have said hello and are not in the state yet.
    pub fn unheard(&self) -> usize {
        self.unheard.len()
    }

    /// Each is told anew who manages the cluster.
    pub fn managers_changed(&mut self) {
        for session in self.by_node.values_mut() {
            session.managers_due = true;
            session.enqueue(&mut self.ready);
        }
    }

    /// The node whose session ended, if the stream was one.
    pub fn close(&mut self, stream: CallId) -> Option<NodeId> {
        let node = self.by_stream.remove(&stream)?;
        if let Some(session) = self.by_node.remove(&node) {
            self.waiting_bytes -= session.outlet.waiting_bytes();
            self.by_id.remove(&session.id);
            self.unheard.remove(&(session.heard_at, node));
            self.ready.remove(&node);
        }
        Some(node)
    }

    /// Ends a node's session, if it has one.
    pub fn end(&mut self, node: NodeId, error: &Error, out: &mut Outputs) {
        if let Some(stream) = self.by_node.get(&node).map(|session| session.outlet.id) {
            self.close(stream);
            out.ended.push((stream, Some(error.clone())));
        }
    }

    pub fn end_all(&mut self, error: &Error, out: &mut Outputs) {
        let ended = std::mem::take(self).by_stream.into_keys();
        out.ended
            .extend(ended.map(|stream| (stream, Some(error.clone()))));
    }

    pub fn taken(&mut self, now: Now, stream: CallId, out: &mut Outputs) {
        if let Some(node) = self.by_stream.get(&stream)
            && let Some(session) = self.by_node.get_mut(node)
        {
            self.waiting_bytes -= session.outlet.waiting_bytes();
            session.outlet.taken();
            if let Some(changed_ns) = session.sent_ns.take() {
                let lag_ns = now.mono_ns.saturating_sub(changed_ns);
                out.samples.assignment_ns.push(lag_ns);
            }
            session.enqueue(&mut self.ready);
        }
    }

    /// A node has said what it uses: kept for as long as its session lasts.
    pub fn used(&mut self, node: NodeId, usage: pb::NodeUsage) {
        if let Some(session) = self.by_node.get_mut(&node) {
            session.usage = Some(usage);
        }
    }

    pub fn usage_of(&self, node: NodeId) -> Option<&pb::NodeUsage> {
        self.by_node.get(&node)?.usage.as_ref()
    }

    /// A container of `node` changed.
    pub fn touch(&mut self, now: Now, node: NodeId, container: ContainerId) {
        if let Some(session) = self.by_node.get_mut(&node) {
            session.changed.insert(container);
            session.changed_ns.get_or_insert(now.mono_ns);
            session.enqueue(&mut self.ready);
        }
    }

    /// The node's set is to be sent whole.
    pub fn resync(&mut self, node: NodeId) {
        if let Some(session) = self.by_node.get_mut(&node) {
            // One that is on its way already will do.
            session.whole.get_or_insert_default();
            session.due = true;
            session.enqueue(&mut self.ready);
        }
    }

    /// Takes apart what a worker sent: whose it is, and what it says.
    pub fn message(&self, body: &[u8]) -> Result<(NodeId, pb::WorkerMessage), Error> {
        let (id, message) = body.split_at_checked(16).ok_or(Error::StaleSession)?;
        let id = SessionId::from_slice(id)?;
        let node = self.by_id.get(&id).ok_or(Error::StaleSession)?;
        Ok((*node, super::requests::decode(message)?))
    }

    /// Sends what is new to those who can take it; to some of them, or a part of a set, if it is
    /// much. `managers` says who manages the cluster, for a node.
    pub fn flush(
        &mut self,
        known: Known<'_>,
        managers: impl Fn(NodeId) -> pb::Managers,
        out: &mut Outputs,
    ) {
        while let Some(&(heard_at, node)) = self.unheard.first()
            && heard_at <= known.state.index()
        {
            self.unheard.remove(&(heard_at, node));
            let session = self.by_node.get_mut(&node).expect("it is open");
            session.is_heard = true;
            session.enqueue(&mut self.ready);
        }
        let mut looks = TELL_MAX;
        while looks > 0 {
            // What is taken makes the next step.
            if self.waiting_bytes >= self.waiting_bytes_max {
                return;
            }
            let Some(node) = self.next_turn() else {
                return;
            };
            let session = self.by_node.get_mut(&node).expect("it is open");
            if std::mem::take(&mut session.managers_due) {
                looks -= 1;
                let body = pb::manager_message::Body::Managers(managers(node));
                session.outlet.send(&message(body), out);
            }
            let sent = !session.outlet.is_free() || session.flush(known, &mut looks, out);
            self.waiting_bytes += session.outlet.waiting_bytes();
            if sent {
                self.turn = Some(node);
                if !session.is_ready() {
                    self.ready.remove(&node);
                }
            }
        }
        out.again |= !self.ready.is_empty();
    }

    /// All have their turn, however often the first ones change.
    fn next_turn(&self) -> Option<NodeId> {
        let after = self.turn.map_or(Unbounded, Excluded);
        let mut behind = self.ready.range((after, Unbounded));
        behind.next().or_else(|| self.ready.first()).copied()
    }

    pub fn len(&self) -> usize {
        self.by_node.len()
    }

    /// What is on its way to workers and not taken yet.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.by_node.keys().copied()
    }
}

impl Session {
    fn new(stream: CallId, node: NodeId, id: SessionId, heard_at: Index) -> Self {
        Self {
            outlet: Outlet::new(stream),
            heard_at,
            is_heard: false,
            node,
            id,
            whole: Some(Whole::default()),
            told: BTreeMap::new(),
            hash: 0,
            specs: BTreeSet::new(),
            changed: BTreeSet::new(),
            changed_ns: None,
            sent_ns: None,
            due: true,
            managers_due: false,
            usage: None,
        }
    }

    /// If the worker's hash is that of the set as it is now, it need not be told again. O(set).
    fn assume_told(&mut self, state: &State, set_hash: u64) {
        let now: BTreeMap<_, _> = state
            .containers_of_node(self.node)
            .map(|c| (c.id, Told::of(c)))
            .collect();
        let hash = now
            .iter()
            .fold(0u64, |sum, (id, told)| sum.wrapping_add(told.hash(*id)));
        if hash == set_hash {
            self.specs = now.values().map(|told| told.spec).collect();
            (self.told, self.hash, self.whole) = (now, hash, None);
        }
    }

    fn is_ready(&self) -> bool {
        let news = self.due || self.managers_due || !self.changed.is_empty();
        self.is_heard && self.outlet.is_free() && news
    }

    fn enqueue(&self, ready: &mut BTreeSet<NodeId>) {
        if self.is_ready() {
            ready.insert(self.node);
        }
    }

    /// Sends what is new, or as much as there are looks for. False if they do not suffice for the
    /// whole set, which goes on from there.
    fn flush(&mut self, known: Known<'_>, looks: &mut usize, out: &mut Outputs) -> bool {
        *looks = looks.saturating_sub(1);
        let mut assignments = match self.whole.take() {
            Some(mut whole) => {
                if !self.gather(known, &mut whole, looks) {
                    self.whole = Some(whole);
                    return false;
                }
                whole.assignments
            }
            None => self.gather_changes(known, looks),
        };
        let news = !assignments.upsert.is_empty() || !assignments.remove.is_empty();
        // Not all of it may be in this message: then the next one counts from the same moment.
        let changed_ns = match self.changed.is_empty() {
            true => self.changed_ns.take(),
            false => self.changed_ns,
        };
        if news || self.due {
            self.due = false;
            self.sent_ns = changed_ns;
            assignments.revision = Some(known.state.revision().into());
            assignments.set_hash = self.hash;
            let body = pb::manager_message::Body::Assignments(assignments);
            self.outlet.send(&message(body), out);
        }
        true
    }

    /// Goes on with the whole set; true once it is in the message.
    fn gather(&mut self, known: Known<'_>, whole: &mut Whole, looks: &mut usize) -> bool {
        if !whole.is_begun {
            (whole.is_begun, whole.assignments.complete) = (true, true);
            (self.told, self.hash) = (BTreeMap::new(), 0);
            self.changed.clear();
        }
        for container in known.state.containers_of_node_after(self.node, whole.after) {
            if *looks == 0 {
                return false;
            }
            *looks -= 1;
            whole.after = Some(container.id);
            self.tell(known, container, &mut whole.assignments);
        }
        true
    }

    fn gather_changes(&mut self, known: Known<'_>, looks: &mut usize) -> pb::Assignments {
        let mut assignments = pb::Assignments::default();
        // One at least, so that whose turn it is gets on.
        while let Some(id) = self.changed.pop_first() {
            match known.state.container(id) {
                Some(container) => self.tell(known, container, &mut assignments),
                None => self.untell(id, &mut assignments),
            }
            *looks = looks.saturating_sub(1);
            if *looks == 0 {
                break;
            }
        }
        assignments
    }

    fn tell(&mut self, known: Known<'_>, container: &Container, to: &mut pb::Assignments) {
        let told = Told::of(container);
        let before = self.told.insert(container.id, told);
        if before == Some(told) {
            return;
        }
        if let Some(before) = before {
            self.hash = self.hash.wrapping_sub(before.hash(container.id));
        }
        self.hash = self.hash.wrapping_add(told.hash(container.id));
        if self.specs.insert(told.spec) {
            let spec = known
                .state
                .spec(&told.spec)
                .map(|spec| spec.as_ref().clone());
            to.specs.push(pb::SpecBlob {
                digest: told.spec.0.to_vec(),
                spec,
            });
        }
        to.upsert.push(pb::Assignment {
            container_id: container.id.to_vec(),
            service_id: container.service.to_vec(),
            service_name: container.service_name.to_string(),
            slot: container.slot,
            spec_digest: told.spec.0.to_vec(),
            desired: told.desired.into(),
            status: Some((&container.status).into()),
            devices: container.devices().to_vec(),
            request: known.causes.of(container.service),
        });
    }

    fn untell(&mut self, id: ContainerId, to: &mut pb::Assignments) {
        if let Some(before) = self.told.remove(&id) {
            self.hash = self.hash.wrapping_sub(before.hash(id));
            to.remove.push(id.to_vec());
        }
    }
}

impl Told {
    fn of(container: &Container) -> Self {
        Self {
            spec: container.spec_digest,
            desired: container.desired,
        }
    }

    /// As the schema defines it at `Assignments.set_hash`.
    fn hash(self, id: ContainerId) -> u64 {
        let digest = Sha256::new()
            .chain_update(id.0)
            .chain_update(self.spec.0)
            .chain_update([self.desired as u8])
            .finalize();
        u64::from_le_bytes(std::array::from_fn(|at| digest[at]))
    }
}

/// Refuses a report that a command could not hold.
pub fn check_report(report: &pb::StatusReport) -> Result<(), Error> {
    const BYTES_MAX: usize = 256 << 10;
    let bytes = report.encoded_len();
    if report.items.len() > REPORT_ITEMS_MAX || bytes > BYTES_MAX {
        let what = "a status report";
        return Err(Error::TooLarge {
            what,
            actual_bytes: bytes,
            limit_bytes: BYTES_MAX,
        });
    }
    Ok(())
}

/// What each worker is told, so that all of them together stay below a rate.
pub fn heartbeat_interval_ms(nodes: usize) -> u32 {
    let shared = (nodes as u32).saturating_mul(1000 / HEARTBEATS_PER_SECOND_MAX);
    shared.max(HEARTBEAT_MS_MIN)
}

/// The encoded message for a worker whose heartbeat has been taken.
pub fn heartbeat_ack(sequence: u64, heartbeat_interval_ms: u32, time_ms: u64) -> Vec<u8> {
    let ack = pb::HeartbeatAck {
        sequence,
        heartbeat_interval_ms,
        time_ms,
    };
    message(pb::manager_message::Body::HeartbeatAck(ack)).encode_to_vec()
}

fn message(body: pb::manager_message::Body) -> pb::ManagerMessage {
    pb::ManagerMessage { body: Some(body) }
}
