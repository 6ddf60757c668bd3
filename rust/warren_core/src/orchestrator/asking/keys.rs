//! What a service has to know of nodes before a container of it is placed, by names that are the same
//! for the same question, whoever asks.

use prost::Message;

use crate::fsm::{self, Service};
use crate::orchestrator::asking::known::Question;
use crate::pb;

pub(super) type Key = Vec<u8>;

/// Names of what a service asks. `None`: it need not.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Where its containers may go.
    pub open: Option<Key>,
    /// Where they may go but for what containers claim, if that is another question and is asked.
    pub ever: Option<Key>,
    /// Where they had better not, because of taints.
    pub disliked: Option<Key>,
    /// One for each affinity.
    pub affinities: Vec<Key>,
}

impl Keys {
    /// `tainted`: some node has a taint.
    pub fn of(service: &Service, tainted: bool) -> Self {
        let affinities = service.rules.affinities.iter();
        let asks = tainted || asks_of_nodes(service);
        Self {
            open: asks.then(|| open(service)),
            ever: bounds_claims(service).then(|| ever(service)),
            disliked: tainted.then(|| disliked(service)),
            affinities: affinities
                .map(|(term, _)| named(2, term.to_string().into_bytes()))
                .collect(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        let sets = self.open.iter().chain(&self.ever).chain(&self.disliked);
        sets.chain(&self.affinities)
    }

    /// The question behind a key.
    pub fn question(&self, key: &Key, service: &Service) -> Question {
        if self.open.as_ref() == Some(key) {
            return Question::MayTake(Box::new(service.clone()));
        }
        if self.ever.as_ref() == Some(key) {
            return Question::MayEverTake(Box::new(service.clone()));
        }
        let at = self.affinities.iter().position(|known| known == key);
        match at {
            Some(at) => Question::Holds(service.rules.affinities[at].0.clone()),
            None => Question::Dislikes(Box::new(service.clone())),
        }
    }
}

/// Whether some nodes may be out for it that have no taint.
pub(super) fn asks_of_nodes(service: &Service) -> bool {
    let (rules, spec) = (&service.rules, service.container_spec());
    rules.ask_of_nodes() || fsm::claims(spec)
}

/// Whether how even it is depends on nodes that claims keep it off.
fn bounds_claims(service: &Service) -> bool {
    let mut spreads = service.rules.spreads.iter();
    fsm::claims(service.container_spec()) && spreads.any(|spread| spread.max_skew.is_some())
}

fn open(service: &Service) -> Key {
    named(0, asked_of_nodes(service).encode_to_vec())
}

fn ever(service: &Service) -> Key {
    let mut asked = asked_of_nodes(service);
    if let Some(spec) = &mut asked.container {
        spec.host_ports.clear();
        spec.devices.clear();
    }
    named(3, asked.encode_to_vec())
}

fn asked_of_nodes(service: &Service) -> pb::ServiceSpec {
    let placement = service.spec.placement.as_ref();
    let placement = placement.map(|asked| pb::Placement {
        constraints: asked.constraints.clone(),
        platforms: asked.platforms.clone(),
        tolerations: asked.tolerations.clone(),
        ..Default::default()
    });
    let spec = service.container_spec();
    pb::ServiceSpec {
        placement: placement.filter(|asked| *asked != Default::default()),
        container: Some(pb::ContainerSpec {
            host_ports: spec.host_ports.clone(),
            devices: spec.devices.clone(),
            mounts: service.rules.volumes.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn disliked(service: &Service) -> Key {
    let asked = pb::Placement {
        tolerations: service.rules.tolerations.clone(),
        ..Default::default()
    };
    named(1, asked.encode_to_vec())
}

fn named(kind: u8, asked: Vec<u8>) -> Key {
    let mut key = vec![kind];
    key.extend(asked);
    key
}
