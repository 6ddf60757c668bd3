//! Which events somebody asks for: of a service, of some kinds, on some nodes, not too old.
//!
//! Applied where events are kept, before their number is limited: the newest hundred of a rare kind
//! are found behind any number of others.

use super::super::history::{self, Happened, History, Subject};
use crate::error::Error;
use crate::fsm::State;
use crate::ids::{NodeId, ServiceId};
use crate::orchestrator::{Decision, DecisionKind};
use crate::pb;

/// Kinds that one request may name: more than there are.
const KINDS_MAX: usize = 64;
/// Likewise nodes, each of which is looked for among all.
const NODES_MAX: usize = 16;
/// Of one such name; no node's is longer.
const NAME_BYTES_MAX: usize = 256;

/// `None`: of whatever service, kind, node.
#[derive(Debug, Default)]
pub struct Filter {
    services: Option<Vec<ServiceId>>,
    kinds: Option<Kinds>,
    nodes: Option<Vec<NodeId>>,
    since_ms: u64,
}

#[derive(Debug)]
struct Kinds {
    decisions: Vec<DecisionKind>,
    happened: Vec<history::Kind>,
}

impl Filter {
    /// What a request asks for at `now_ms`.
    ///
    /// Names are those of now, and of what is gone if the history knows it. Where nothing is called
    /// so, that is refused, unless the request goes on from somewhere: what was removed meanwhile,
    /// and is forgotten, has no more events.
    pub fn of(
        state: &State,
        history: &History,
        request: &pb::ListEventsRequest,
        now_ms: u64,
    ) -> Result<Self, Error> {
        check_bounds("kinds", &request.kinds, KINDS_MAX)?;
        check_bounds("nodes", &request.nodes, NODES_MAX)?;
        let follows = request.after.is_some();
        let services = match &request.r#ref[..] {
            "" => None,
            named => {
                let found = state.resolve_service(named);
                let found = or_former(found, follows, || history.service_called(named));
                Some(found?.into_iter().collect())
            }
        };
        let node = |named: &String| {
            let found = state.resolve_node(named);
            or_former(found, follows, || history.node_called(named))
        };
        let nodes: Vec<_> = request.nodes.iter().map(node).collect::<Result<_, _>>()?;
        Ok(Self {
            services,
            kinds: Kinds::of(&request.kinds)?,
            nodes: (!nodes.is_empty()).then(|| nodes.into_iter().flatten().collect()),
            since_ms: match request.newer_than_ms {
                0 => 0,
                age_ms => now_ms.saturating_sub(age_ms),
            },
        })
    }

    /// Whether any decision can be asked for: of others none is missed.
    pub fn wants_decisions(&self) -> bool {
        let kinds = self.kinds.as_ref();
        kinds.is_none_or(|kinds| !kinds.decisions.is_empty())
    }

    /// Likewise, of what happened.
    pub fn wants_happened(&self) -> bool {
        let kinds = self.kinds.as_ref();
        kinds.is_none_or(|kinds| !kinds.happened.is_empty())
    }

    /// Whether it is asked for, at whatever time.
    pub fn decision(&self, it: &Decision) -> bool {
        let kinds = self.kinds.as_ref();
        kinds.is_none_or(|kinds| kinds.decisions.contains(&it.kind))
            && is_among(self.services.as_deref(), Some(it.service))
            && is_among(self.nodes.as_deref(), it.node)
    }

    /// Likewise.
    pub fn happened(&self, it: &Happened) -> bool {
        let (service, node) = match it.subject {
            Subject::Cluster => (None, None),
            Subject::Service(id) => (Some(id), None),
            Subject::Node(id) => (None, Some(id)),
        };
        let kinds = self.kinds.as_ref();
        kinds.is_none_or(|kinds| kinds.happened.contains(&it.kind))
            && is_among(self.services.as_deref(), service)
            && is_among(self.nodes.as_deref(), node)
    }

    /// Whether something of that time is not too old.
    pub fn is_new(&self, time_ms: u64) -> bool {
        time_ms >= self.since_ms
    }
}

impl Kinds {
    fn of(words: &[String]) -> Result<Option<Self>, Error> {
        if words.is_empty() {
            return Ok(None);
        }
        let named = |word: &str| words.iter().any(|it| it == word);
        let known = || {
            let decisions = DecisionKind::ALL.iter().map(|it| it.word());
            decisions.chain(history::Kind::ALL.iter().map(|it| it.word()))
        };
        if let Some(unknown) = words.iter().find(|&it| !known().any(|word| word == it)) {
            let known: Vec<_> = known().collect();
            return Err(invalid(format!(
                "no event is of kind `{unknown}`; the kinds are {}",
                known.join(", ")
            )));
        }
        let decisions = DecisionKind::ALL.iter().copied();
        let happened = history::Kind::ALL.iter().copied();
        Ok(Some(Self {
            decisions: decisions.filter(|it| named(it.word())).collect(),
            happened: happened.filter(|it| named(it.word())).collect(),
        }))
    }
}

fn check_bounds(what: &str, named: &[String], max: usize) -> Result<(), Error> {
    let count = named.len();
    if count > max {
        return Err(invalid(format!(
            "it asks for events of {count} {what}, and may for {max}: ask for fewer, or for \
             all and choose from the answer"
        )));
    }
    if let Some(longest) = named.iter().find(|it| it.len() > NAME_BYTES_MAX) {
        return Err(invalid(format!(
            "one of its {what} is a name of {} bytes; none has more than {NAME_BYTES_MAX}",
            longest.len()
        )));
    }
    Ok(())
}

fn invalid(why: String) -> Error {
    let what = "request";
    Error::Invalid { what, why }
}

/// What a name stands for, or stood for.
fn or_former<I>(
    found: Result<I, Error>,
    follows: bool,
    former: impl FnOnce() -> Option<I>,
) -> Result<Option<I>, Error> {
    match found {
        Err(Error::NotFound { kind, reference }) => match former() {
            None if !follows => Err(Error::NotFound { kind, reference }),
            former => Ok(former),
        },
        found => found.map(Some),
    }
}

fn is_among<I: PartialEq>(wanted: Option<&[I]>, is: Option<I>) -> bool {
    wanted.is_none_or(|wanted| is.is_some_and(|id| wanted.contains(&id)))
}
