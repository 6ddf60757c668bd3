//! Where the containers of a service may go, and where they had better go.
//!
//! What a service asks of nodes stands in its spec as text ([`pb::Placement`]); `check` brings it into
//! normal form, and [`Rules`] is what it means, made once for each version of a service. Nothing in
//! here chooses: the scheduler does, by the rules; `apply` verifies those that concern one node alone
//! ([`Rules::refusal`]).
//!
//! | file | idea |
//! |---|---|
//! | `attribute` | what an expression can name |
//! | `expression` | one condition: its text, and whether it holds |
//! | `version`, `pattern` | how versions compare, and what a regular expression matches |
//! | `check` | what a placement may say, and its normal form |
//! | `taints` | what keeps containers off a node, and who may go there all the same |

mod attribute;
mod check;
mod expression;
mod pattern;
pub(super) mod taints;
mod version;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fsm::objects::{Node, Service};
use crate::fsm::volumes;
use crate::pb;

pub use crate::pb::Strategy;
pub use attribute::{Attribute, is_label_key};
pub(super) use check::complete;
pub use check::{AFFINITIES_MAX, CONSTRAINTS_MAX, PRIORITY_DEFAULT, PRIORITY_MAX, WEIGHT_MAX};
pub use expression::{EXPRESSION_BYTES_MAX, Operator, Term, VALUES_MAX};

/// A placement, made ready. Equal for equal specs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// All have to hold.
    pub constraints: Vec<Term>,
    /// Each with what a node gains where it holds, -100 to 100.
    pub affinities: Vec<(Term, i32)>,
    pub spreads: Vec<Spread>,
    /// 0: as many as there is room for.
    pub max_replicas_per_node: u32,
    /// At most one container of the service for each value of these; nodes without one take none.
    pub distinct: Vec<Attribute>,
    pub anti_affinities: Vec<AntiAffinity>,
    /// 0 to 100.
    pub priority: u32,
    /// May take the place of containers with a lower priority.
    pub preempt: bool,
    pub strategy: Strategy,
    pub platforms: Vec<pb::Platform>,
    pub tolerations: Vec<pb::Toleration>,
    /// What containers mount by name: nodes that have not all of them take none.
    pub volumes: Vec<pb::Mount>,
}

/// Containers over the values of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    pub attribute: Attribute,
    /// By value, in percent of the service's containers; what is missing from 100 is shared evenly by
    /// the other values. None: all evenly.
    pub targets: Vec<(String, u32)>,
    /// Most that a value may be ahead of the one with the fewest; `None`: a preference only.
    pub max_skew: Option<u32>,
}

/// Not where the attribute has the value that it has where containers of that service are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AntiAffinity {
    pub service: String,
    pub attribute: Attribute,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            constraints: Vec::new(),
            affinities: Vec::new(),
            spreads: Vec::new(),
            max_replicas_per_node: 0,
            distinct: Vec::new(),
            anti_affinities: Vec::new(),
            priority: PRIORITY_DEFAULT,
            preempt: false,
            strategy: Strategy::Spread,
            platforms: Vec::new(),
            tolerations: Vec::new(),
            volumes: Vec::new(),
        }
    }
}

impl Rules {
    /// Of a spec in normal form; [`Error::Invalid`] says what in it is not.
    pub fn of(spec: &pb::ServiceSpec) -> Result<Arc<Self>> {
        let volumes: Vec<_> = volumes::mounted(spec.container.as_ref()).cloned().collect();
        if spec.placement.is_none() && volumes.is_empty() {
            return Ok(Arc::default());
        }
        let nothing = pb::Placement::default();
        let placement = spec.placement.as_ref().unwrap_or(&nothing);
        let terms = placement.constraints.iter();
        let affinity =
            |it: &pb::Affinity| Ok((check::term("affinity", &it.expression)?, it.weight));
        let constraints = terms.map(|text| check::term("constraint", text));
        let distinct = placement.distinct.iter();
        Ok(Arc::new(Self {
            constraints: constraints.collect::<Result<_>>()?,
            affinities: placement
                .affinities
                .iter()
                .map(affinity)
                .collect::<Result<_>>()?,
            spreads: placement
                .spreads
                .iter()
                .map(Spread::of)
                .collect::<Result<_>>()?,
            max_replicas_per_node: placement.max_replicas_per_node,
            distinct: distinct
                .map(|name| check::attribute("distinct", name))
                .collect::<Result<_>>()?,
            anti_affinities: placement
                .anti_affinities
                .iter()
                .map(AntiAffinity::of)
                .collect::<Result<_>>()?,
            priority: placement.priority.unwrap_or(PRIORITY_DEFAULT),
            preempt: placement.preempt,
            strategy: match placement.strategy() {
                Strategy::Unspecified => Strategy::Spread,
                strategy => strategy,
            },
            platforms: placement.platforms.clone(),
            tolerations: placement.tolerations.clone(),
            volumes,
        }))
    }

    /// Whether a node without taints may be refused.
    pub fn ask_of_nodes(&self) -> bool {
        !self.constraints.is_empty() || !self.platforms.is_empty() || !self.volumes.is_empty()
    }

    /// Why no container of the service may go to the node, whatever else is there: constraints,
    /// platforms, taints, volumes. A sentence with the values: `label zone is us, asked eu`.
    pub fn refusal(&self, node: &Node) -> Option<String> {
        let failed = self.constraints.iter().find(|term| !term.holds_on(node));
        if let Some(term) = failed {
            return Some(term.mismatch(term.attribute().value(node).as_deref()));
        }
        self.platform_refusal(node)
            .or_else(|| taints::refusal(&self.tolerations, node))
            .or_else(|| self.volume_refusals(node).next())
    }

    pub(in crate::fsm) fn volume_refusals(&self, node: &Node) -> impl Iterator<Item = String> {
        let asked = self.volumes.iter();
        asked.filter_map(|mount| volumes::refusal(mount, node))
    }

    pub(in crate::fsm) fn platform_refusal(&self, node: &Node) -> Option<String> {
        let arch = &node.description.architecture;
        let either = |asked: &str, is: &str| asked.is_empty() || asked == is;
        let fits = |p: &pb::Platform| either(&p.os, "linux") && either(&p.architecture, arch);
        if self.platforms.is_empty() || self.platforms.iter().any(fits) {
            return None;
        }
        let any = |text: &str| if text.is_empty() { "*" } else { text }.to_owned();
        let asked: Vec<_> = self
            .platforms
            .iter()
            .map(|p| format!("{}/{}", any(&p.os), any(&p.architecture)))
            .collect();
        let asked = asked.join(" or ");
        Some(format!("platform is linux/{arch}, asked {asked}"))
    }

    /// What the node gains by the affinities that hold for it; negative where it loses.
    pub fn affinity(&self, node: &Node) -> i64 {
        let held = self
            .affinities
            .iter()
            .filter(|(term, _)| term.holds_on(node));
        held.map(|(_, weight)| i64::from(*weight)).sum()
    }

    /// Whether the node has a taint that only makes it the worse choice, and is not tolerated.
    pub fn is_disliked(&self, node: &Node) -> bool {
        taints::dislikes(&self.tolerations, node)
    }
}

impl Spread {
    fn of(spread: &pb::Spread) -> Result<Self> {
        let targets = spread.targets.iter();
        Ok(Self {
            attribute: check::attribute("spread", &spread.attribute)?,
            targets: targets.map(|it| (it.value.clone(), it.percent)).collect(),
            max_skew: (spread.max_skew > 0).then_some(spread.max_skew),
        })
    }
}

impl AntiAffinity {
    fn of(asked: &pb::AntiAffinity) -> Result<Self> {
        let attribute = match &asked.attribute[..] {
            "" => Attribute::Id,
            name => check::attribute("anti-affinity", name)?,
        };
        Ok(Self {
            service: asked.service.clone(),
            attribute,
        })
    }
}

/// Whether a container of the service may go to the node by the rules that concern the two alone; the
/// error says why not.
pub fn eligible(service: &Service, node: &Node) -> Result<(), String> {
    match service.rules.refusal(node) {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

/// Whether releases below feature level 4 would read the placement as it is meant.
pub fn needs_level_4(spec: &pb::ServiceSpec) -> bool {
    spec.placement.is_some()
}

fn invalid(what: &'static str, why: impl Into<String>) -> Error {
    Error::Invalid {
        what,
        why: why.into(),
    }
}
