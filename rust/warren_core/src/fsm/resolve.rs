//! What people type, to what it means: names, ids and prefixes of ids; image references.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::fsm::id_map::{Id, IdMap};
use crate::fsm::objects::Container;
use crate::fsm::state::State;
use crate::ids::{ContainerId, NodeId, ServiceId};

impl State {
    /// A service by name, id, or a prefix of an id that names one only.
    pub fn resolve_service(&self, reference: &str) -> Result<ServiceId> {
        match self.service_by_name(reference) {
            Some(service) => Ok(service.id),
            None => by_prefix(
                self.service_ids(),
                reference,
                ServiceId::KIND,
                ServiceId,
                |id| id.0,
            ),
        }
    }

    /// A node by name, id, or a prefix of an id that names one only.
    pub fn resolve_node(&self, reference: &str) -> Result<NodeId> {
        let mut named = self.nodes().filter(|node| node.name() == reference);
        match (named.next(), named.count()) {
            (Some(node), 0) => Ok(node.id),
            (Some(_), more) => Err(Error::Invalid {
                what: "reference",
                why: format!("{} nodes are named `{reference}`; give an id", more + 1),
            }),
            (None, _) => by_prefix(self.node_ids(), reference, NodeId::KIND, NodeId, |id| id.0),
        }
    }

    /// A container by `service.slot`, id, or a prefix of an id that names one only. A slot means
    /// the container that occupies it, else its newest one.
    pub fn resolve_container(&self, reference: &str) -> Result<ContainerId> {
        match self.container_in_slot(reference) {
            Some(container) => Ok(container.id),
            None => {
                let kind = ContainerId::KIND;
                by_prefix(self.container_ids(), reference, kind, ContainerId, |id| {
                    id.0
                })
            }
        }
    }

    fn container_in_slot(&self, reference: &str) -> Option<&Container> {
        let (name, slot) = reference.rsplit_once('.')?;
        let service = self.service_by_name(name)?.id;
        self.containers_of_slot(service, slot.parse().ok()?)
            .max_by_key(|container| (container.occupies(), container.created_at_ms, container.id))
    }

    /// The digest that most nodes which take work have under `reference` (normalised), the least
    /// of them where several tie; [`Error::ImageNotLoaded`] where none has it.
    pub fn image_digest(&self, reference: &str) -> Result<String> {
        let mut votes = BTreeMap::new();
        for node in self.nodes().filter(|node| node.accepts_work()) {
            let known = node.description.images.iter();
            for image in known.filter(|image| names_image(reference, image)) {
                *votes.entry(image.digest.as_str()).or_insert(0_u32) += 1;
            }
        }
        let most = votes.values().max().copied();
        let winner = votes.into_iter().find(|(_, count)| Some(*count) == most);
        winner
            .map(|(digest, _)| digest.to_owned())
            .ok_or_else(|| Error::ImageNotLoaded {
                image: reference.to_owned(),
            })
    }
}

/// A reference with a digest (`name@sha256:…`, `name:tag@sha256:…`) means those very bytes.
fn names_image(reference: &str, image: &crate::pb::NodeImage) -> bool {
    match reference.split_once('@') {
        Some((_, digest)) => image.digest == digest,
        None => image.reference == reference,
    }
}

fn by_prefix<I: Id, P: Clone>(
    ids: &IdMap<I, P>,
    reference: &str,
    kind: &'static str,
    make: impl Fn([u8; 16]) -> I,
    bytes: impl Fn(&I) -> [u8; 16],
) -> Result<I> {
    let not_found = || Error::NotFound {
        kind,
        reference: reference.to_owned(),
    };
    let (low, high) = prefix_bounds(reference).ok_or_else(not_found)?;
    let mut matching = ids.range(make(low)..=make(high)).map(|(id, _)| *id);
    let first = matching.next().ok_or_else(not_found)?;
    debug_assert!((low..=high).contains(&bytes(&first)));
    match matching.count() {
        0 => Ok(first),
        more => Err(Error::Ambiguous {
            kind,
            reference: reference.to_owned(),
            count: more + 1,
        }),
    }
}

/// The least and the greatest id that begin with these hex digits, 1 to 32 of them.
fn prefix_bounds(prefix: &str) -> Option<([u8; 16], [u8; 16])> {
    if prefix.is_empty() || prefix.len() > 32 {
        return None;
    }
    let (mut low, mut high) = ([0; 16], [0xff; 16]);
    for (position, digit) in prefix.bytes().enumerate() {
        let value = (digit as char).to_digit(16)? as u8;
        let shift = if position % 2 == 0 { 4 } else { 0 };
        let byte = position / 2;
        low[byte] |= value << shift;
        high[byte] = high[byte] & !(0xf << shift) | value << shift;
    }
    Some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_bounds_the_ids_that_begin_with_it() {
        let (low, high) = prefix_bounds("a7f").unwrap();
        assert_eq!(
            (low[..3].to_vec(), high[..3].to_vec()),
            (vec![0xa7, 0xf0, 0], vec![0xa7, 0xff, 0xff])
        );
        assert_eq!(prefix_bounds("xyz"), None);
        assert_eq!(prefix_bounds(""), None);
        assert_eq!(prefix_bounds(&"a".repeat(33)), None);
    }
}
