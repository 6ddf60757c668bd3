//! People who create, change, remove and look at services, and never learn patience.
//!
//! Each client does one operation at a time, under one request id however often it repeats it, and
//! writes down when it asked, what it was told and when. What it is not told stays unknown.

mod requests;

use super::coverage::Kind;
use super::linear::{Answer, Ask, Id, Operation};
use super::network::End;
use super::queue::{Asked, Event, Failure};
use super::random::Random;
use super::wire::Wire;
use crate::control::Consistency;
use requests::{Heard, Request};

/// Names that services are created under; each is one object of the history.
pub const NAMES: [&str; 6] = ["one", "two", "three", "four", "everywhere", "all-over"];

/// Attempts after which a client gives up and never learns.
const ATTEMPTS_MAX: u32 = 12;
/// In a hundred thousand: a client gives up after a refusal that says that nothing happened.
const GIVES_UP: u64 = 100_000;
const TIMEOUTS_MS: [u64; 4] = [100, 500, 2_000, 5_000];
/// An answer is on its way for so long at most, or lost.
const ANSWER_MS: u64 = 100;
/// Mean pause between two operations of one who is in a hurry.
const HURRIED_NS: u64 = 30_000_000;
const RETRY_PAUSE_NS_MEAN: u64 = 100_000_000;

/// An operation under way.
struct Flight {
    name: usize,
    ask: Ask,
    request: Request,
    invoked_ns: u64,
    attempts: u32,
    /// Some attempt may have had an effect.
    doubtful: bool,
    timeout_ms: u64,
    /// Of the attempt at hand, while an answer may come.
    token: Option<u64>,
}

struct Client {
    end: End,
    id: [u8; 16],
    random: Random,
    sequence: u64,
    tokens: u64,
    /// Whom it asks next.
    target: Option<End>,
    /// What it knows of each name; it may be out of date.
    known: [Option<(Id, u64)>; NAMES.len()],
    flight: Option<Flight>,
    /// Of the one wake-up that counts.
    generation: u32,
}

pub struct Clients {
    clients: Vec<Client>,
    /// By name.
    pub history: Vec<Vec<Operation>>,
    /// Operations that came to an end.
    pub operations: u64,
    /// An answer that no correct cluster gives.
    pub absurd: Option<String>,
    think_ns: u64,
    hurry_until_ns: u64,
    tags: u64,
    resting: bool,
}

impl Clients {
    /// `think_ns`: mean pause between two operations of one client.
    pub fn new(seed: u64, ends: impl Iterator<Item = End>, think_ns: u64) -> Self {
        Self {
            clients: ends.map(|end| Client::new(seed, end)).collect(),
            history: vec![Vec::new(); NAMES.len()],
            operations: 0,
            absurd: None,
            think_ns,
            hurry_until_ns: 0,
            tags: 0,
            resting: true,
        }
    }

    /// Begins new operations from now on, or only ends those under way.
    pub fn set_resting(&mut self, wire: &mut Wire, resting: bool) {
        self.resting = resting;
        for client in self.clients.iter_mut().filter(|c| c.flight.is_none()) {
            let pause_ns = client.random.wait(self.think_ns);
            client.wake_in(wire, pause_ns);
        }
    }

    /// For a while everybody does one operation after the other.
    pub fn hurry(&mut self, wire: &mut Wire, for_ns: u64) {
        self.hurry_until_ns = wire.now_ns + for_ns;
        for at in 0..self.clients.len() {
            if self.clients[at].flight.is_none() {
                self.rest(wire, at);
            }
        }
    }

    pub fn are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.flight.is_none())
    }

    /// What is still under way is written down as unknown.
    pub fn finish(&mut self) {
        for client in &mut self.clients {
            if let Some(flight) = client.flight.take() {
                record(&mut self.history, &flight, None, u64::MAX);
            }
        }
    }

    pub fn wake(&mut self, wire: &mut Wire, end: End, generation: u32) {
        let Some(at) = self.index(end) else { return };
        let client = &mut self.clients[at];
        if client.generation != generation {
            return;
        }
        match &mut client.flight {
            None if self.resting => {}
            None => self.begin(wire, at),
            Some(flight) => {
                if flight.token.take().is_some() {
                    // Nothing came back in time: nobody knows.
                    flight.doubtful = true;
                    wire.note(Kind::Unknown);
                    client.target = None;
                }
                self.attempt_or_give_up(wire, at);
            }
        }
    }

    pub fn answered(
        &mut self,
        wire: &mut Wire,
        end: End,
        token: u64,
        result: Result<Vec<u8>, Failure>,
    ) {
        let Some(at) = self.index(end) else { return };
        let client = &mut self.clients[at];
        let Some(flight) = client.flight.as_mut().filter(|f| f.token == Some(token)) else {
            return;
        };
        flight.token = None;
        let heard = match result {
            Ok(bytes) if flight.request.is_list() => return self.listed(wire, at, &bytes),
            result => requests::understand(flight.ask, result),
        };
        match heard {
            Heard::Answer(answer) => return self.end(wire, at, Some(answer)),
            Heard::Nothing { leader } => client.target = leader,
            Heard::Doubtful => {
                flight.doubtful = true;
                wire.note(Kind::Unknown);
                client.target = None;
            }
            Heard::Absurd(what) => {
                self.absurd.get_or_insert(what);
            }
        }
        let pause_ns = client.random.wait(RETRY_PAUSE_NS_MEAN);
        client.wake_in(wire, pause_ns);
    }

    fn index(&self, end: End) -> Option<usize> {
        self.clients.iter().position(|client| client.end == end)
    }

    fn begin(&mut self, wire: &mut Wire, at: usize) {
        self.tags += 1;
        let tag = self.tags;
        let client = &mut self.clients[at];
        let name = client.random.below(NAMES.len() as u64) as usize;
        let (kind, known) = (client.random.below(100), client.known[name]);
        let ask = match (kind, known) {
            (0..40, _) => Ask::Get,
            (40..90, Some((id, expected))) => Ask::Update { id, expected, tag },
            (90..95, Some((id, _))) => Ask::Remove { id },
            _ => Ask::Create { tag },
        };
        client.sequence += 1;
        let id = (client.id, client.sequence);
        let request = Request::new(ask, NAMES[name], kind < 10, id, &mut client.random);
        let timeout_ms = TIMEOUTS_MS[client.random.below(TIMEOUTS_MS.len() as u64) as usize];
        client.flight = Some(Flight {
            name,
            ask,
            request,
            invoked_ns: wire.now_ns,
            attempts: 0,
            doubtful: false,
            timeout_ms,
            token: None,
        });
        self.attempt_or_give_up(wire, at);
    }

    fn attempt_or_give_up(&mut self, wire: &mut Wire, at: usize) {
        let client = &mut self.clients[at];
        let Some(flight) = &mut client.flight else {
            return;
        };
        let refused = flight.attempts > 0 && !flight.doubtful;
        if refused && client.random.chance(GIVES_UP) {
            // Nothing happened, says the cluster. The history holds it to that: the tag must
            // never be seen.
            client.flight = None;
            return self.rest(wire, at);
        }
        if flight.attempts == ATTEMPTS_MAX {
            return self.end(wire, at, None);
        }
        if flight.attempts > 0 {
            wire.note(Kind::Retried);
        }
        flight.attempts += 1;
        client.ask(wire);
    }

    /// The operation at hand has come to its end.
    fn end(&mut self, wire: &mut Wire, at: usize, answer: Option<Answer>) {
        let client = &mut self.clients[at];
        let Some(flight) = client.flight.take() else {
            return;
        };
        client.learn(flight.name, flight.ask, answer);
        let returned_ns = if answer.is_some() {
            wire.now_ns
        } else {
            u64::MAX
        };
        record(&mut self.history, &flight, answer, returned_ns);
        self.operations += 1;
        self.rest(wire, at);
    }

    /// A list is a read of every name at one instant.
    fn listed(&mut self, wire: &mut Wire, at: usize, bytes: &[u8]) {
        let Some(answers) = requests::list(bytes) else {
            self.absurd
                .get_or_insert("a list that cannot be read".into());
            return;
        };
        let client = &mut self.clients[at];
        let Some(mut flight) = client.flight.take() else {
            return;
        };
        for (name, answer) in answers.into_iter().enumerate() {
            client.learn(name, Ask::Get, Some(answer));
            flight.name = name;
            record(&mut self.history, &flight, Some(answer), wire.now_ns);
        }
        self.operations += 1;
        self.rest(wire, at);
    }

    fn rest(&mut self, wire: &mut Wire, at: usize) {
        let hurries = wire.now_ns < self.hurry_until_ns;
        let think_ns = if hurries { HURRIED_NS } else { self.think_ns };
        let pause_ns = self.clients[at].random.wait(think_ns);
        self.clients[at].wake_in(wire, pause_ns);
    }
}

/// Reads that nobody answered say nothing.
fn record(
    history: &mut [Vec<Operation>],
    flight: &Flight,
    answer: Option<Answer>,
    returned_ns: u64,
) {
    if answer.is_some() || flight.ask != Ask::Get {
        history[flight.name].push(Operation {
            ask: flight.ask,
            answer,
            invoked_ns: flight.invoked_ns,
            returned_ns,
        });
    }
}

impl Client {
    fn new(seed: u64, end: End) -> Self {
        let mut random = Random::stream(seed, "client", u64::from(end.0));
        Self {
            end,
            id: random.bytes(),
            random,
            sequence: 0,
            tokens: 0,
            target: None,
            known: [None; NAMES.len()],
            flight: None,
            generation: 0,
        }
    }

    fn wake_in(&mut self, wire: &mut Wire, delay_ns: u64) {
        self.generation += 1;
        wire.plan_in(delay_ns, Event::Wake(self.end, self.generation));
    }

    fn ask(&mut self, wire: &mut Wire) {
        let Some(flight) = &mut self.flight else {
            return;
        };
        // Reads are anybody's to answer; now and then somebody else is asked for a change, too.
        let spread = flight.ask == Ask::Get || self.random.chance(20_000);
        if self.target.is_none() || spread {
            self.target = self.random.pick(&wire.directory).copied();
        }
        self.tokens += 1;
        flight.token = Some(self.tokens);
        let asked = Asked {
            from: self.end,
            token: self.tokens,
            identity: "local".into(),
            method: flight.request.method,
            body: flight.request.body.clone(),
            timeout_ms: flight.timeout_ms,
            consistency: Consistency::Linearizable,
            stream: false,
        };
        let timeout_ns = (flight.timeout_ms + ANSWER_MS) * 1_000_000;
        if let Some(target) = self.target {
            wire.ask(target, asked);
        }
        self.wake_in(wire, timeout_ns);
    }

    fn learn(&mut self, name: usize, ask: Ask, answer: Option<Answer>) {
        self.known[name] = match (ask, answer) {
            (_, Some(Answer::Created { id })) => Some((id, 1)),
            (Ask::Update { id, .. }, Some(Answer::Updated { version })) => Some((id, version)),
            (_, Some(Answer::Found { id, version, .. })) => Some((id, version)),
            (Ask::Get | Ask::Update { .. } | Ask::Remove { .. }, Some(Answer::Missing)) => None,
            _ => self.known[name],
        };
    }
}
