//! What a placement may say, and its normal form: equal placements are stored alike.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::fsm::placement::{Attribute, Strategy, Term, invalid, taints};
use crate::fsm::validate::{REPLICAS_MAX, check_name};
use crate::pb::{self, ServiceMode};

pub const CONSTRAINTS_MAX: usize = 32;
/// Also of spreads, distinct attributes, anti-affinities and platforms.
pub const AFFINITIES_MAX: usize = 32;
pub const WEIGHT_MAX: i32 = 100;
pub const PRIORITY_MAX: u32 = 100;
pub const PRIORITY_DEFAULT: u32 = 50;
const TARGETS_MAX: usize = 64;
const SPREAD_VALUE_BYTES_MAX: usize = 1024;
/// As long as an architecture or a system may be called.
const PLATFORM_BYTES_MAX: usize = 64;

pub(super) fn term(what: &'static str, text: &str) -> Result<Term> {
    Term::parse(text).map_err(|why| {
        let shown: String = text.chars().take(80).collect();
        invalid(what, format!("`{shown}`: {why}"))
    })
}

pub(super) fn attribute(what: &'static str, name: &str) -> Result<Attribute> {
    Attribute::parse(name).map_err(|why| invalid(what, why))
}

/// Refuses what makes no sense, and brings the rest into its normal form; a placement that says nothing
/// is none.
pub(in crate::fsm) fn complete(spec: &mut pb::ServiceSpec) -> Result<()> {
    let Some(mut placement) = spec.placement.take() else {
        return Ok(());
    };
    constraints(&mut placement.constraints)?;
    affinities(&mut placement.affinities)?;
    spreads(&mut placement.spreads)?;
    one_of_a_kind(&spec.name, &mut placement)?;
    platforms(&mut placement.platforms)?;
    taints::check_tolerations(&mut placement.tolerations)?;
    numbers(spec.mode(), &mut placement)?;
    spec.placement = Some(placement).filter(|it| *it != pb::Placement::default());
    Ok(())
}

fn bounded<T>(what: &'static str, items: &[T], most: usize) -> Result<()> {
    if items.len() <= most {
        Ok(())
    } else {
        Err(invalid(what, format!("there are more than {most}")))
    }
}

fn constraints(texts: &mut Vec<String>) -> Result<()> {
    bounded("constraint", texts, CONSTRAINTS_MAX)?;
    let mut normal = BTreeSet::new();
    for text in &*texts {
        normal.insert(term("constraint", text)?.to_string());
    }
    *texts = normal.into_iter().collect();
    Ok(())
}

fn affinities(asked: &mut Vec<pb::Affinity>) -> Result<()> {
    bounded("affinity", asked, AFFINITIES_MAX)?;
    let mut known = BTreeSet::new();
    for affinity in &mut *asked {
        affinity.expression = term("affinity", &affinity.expression)?.to_string();
        let (text, weight) = (&affinity.expression, affinity.weight);
        if weight == 0 || !(-WEIGHT_MAX..=WEIGHT_MAX).contains(&weight) {
            let why = format!("the weight of `{text}` is {weight}; give -100 to 100, and not 0");
            return Err(invalid("affinity", why));
        }
        if !known.insert(text.clone()) {
            return Err(invalid(
                "affinity",
                format!("`{text}` is in it twice; add the weights up"),
            ));
        }
    }
    asked.sort_by(|a, b| a.expression.cmp(&b.expression));
    Ok(())
}

/// In the order given: the first one counts most.
fn spreads(asked: &mut [pb::Spread]) -> Result<()> {
    bounded("spread", asked, AFFINITIES_MAX)?;
    let mut known = BTreeSet::new();
    for spread in asked {
        spread.attribute = attribute("spread", &spread.attribute)?.to_string();
        let name = &spread.attribute;
        if !known.insert(name.clone()) {
            return Err(invalid("spread", format!("`{name}` is in it twice")));
        }
        if spread.max_skew > REPLICAS_MAX {
            let why = format!("a skew over {name} is at most {REPLICAS_MAX}");
            return Err(invalid("spread", why));
        }
        if spread.max_skew > 0 && !spread.targets.is_empty() {
            let why = format!("over {name} give targets or a max-skew, not both");
            return Err(invalid("spread", why));
        }
        targets(name, &mut spread.targets)?;
    }
    Ok(())
}

fn targets(name: &str, targets: &mut [pb::SpreadTarget]) -> Result<()> {
    bounded("spread", targets, TARGETS_MAX)?;
    let bad = |text: &str| text.is_empty() || text.len() > SPREAD_VALUE_BYTES_MAX;
    if targets.iter().any(|target| bad(&target.value)) {
        return Err(invalid(
            "spread",
            format!("a target over {name} has a value of 1 to 1,024 bytes"),
        ));
    }
    targets.sort_by(|a, b| a.value.cmp(&b.value));
    if let Some(pair) = targets
        .windows(2)
        .find(|pair| pair[0].value == pair[1].value)
    {
        return Err(invalid(
            "spread",
            format!("`{}` has two targets over {name}", pair[0].value),
        ));
    }
    let total: u64 = targets.iter().map(|target| u64::from(target.percent)).sum();
    if total > 100 {
        return Err(invalid(
            "spread",
            format!("the targets over {name} add up to {total} %, above 100"),
        ));
    }
    Ok(())
}

/// What keeps containers of the service apart, and away from others.
fn one_of_a_kind(service: &str, placement: &mut pb::Placement) -> Result<()> {
    bounded("distinct", &placement.distinct, AFFINITIES_MAX)?;
    let mut distinct = BTreeSet::new();
    for name in &placement.distinct {
        distinct.insert(attribute("distinct", name)?.to_string());
    }
    placement.distinct = distinct.into_iter().collect();
    bounded("anti-affinity", &placement.anti_affinities, AFFINITIES_MAX)?;
    for asked in &mut placement.anti_affinities {
        check_name(&asked.service)?;
        if asked.service == service {
            let why = "a service is kept apart from itself by max-replicas-per-node or distinct";
            return Err(invalid("anti-affinity", why));
        }
        if !asked.attribute.is_empty() {
            let parsed = attribute("anti-affinity", &asked.attribute)?;
            asked.attribute = match parsed {
                Attribute::Id => String::new(),
                other => other.to_string(),
            };
        }
    }
    let key = |it: &pb::AntiAffinity| (it.service.clone(), it.attribute.clone());
    placement.anti_affinities.sort_by_key(key);
    placement.anti_affinities.dedup();
    Ok(())
}

fn platforms(asked: &mut Vec<pb::Platform>) -> Result<()> {
    bounded("platform", asked, AFFINITIES_MAX)?;
    let plain = |text: &str| {
        text.len() <= PLATFORM_BYTES_MAX
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    for platform in &*asked {
        let empty = platform.os.is_empty() && platform.architecture.is_empty();
        if empty || !plain(&platform.os) || !plain(&platform.architecture) {
            return Err(invalid("platform", "write it as in linux/arm64, or linux"));
        }
    }
    asked.sort_by(|a, b| (&a.os, &a.architecture).cmp(&(&b.os, &b.architecture)));
    asked.dedup();
    Ok(())
}

fn numbers(mode: ServiceMode, placement: &mut pb::Placement) -> Result<()> {
    if let Some(priority) = placement.priority
        && priority > PRIORITY_MAX
    {
        let why = format!("{priority} is more than {PRIORITY_MAX}");
        return Err(invalid("priority", why));
    }
    placement.priority = placement.priority.filter(|it| *it != PRIORITY_DEFAULT);
    if placement.max_replicas_per_node > REPLICAS_MAX {
        let why = format!("it is at most {REPLICAS_MAX}");
        return Err(invalid("max-replicas-per-node", why));
    }
    match Strategy::try_from(placement.strategy) {
        Ok(Strategy::Spread) => placement.strategy = Strategy::Unspecified.into(),
        Ok(_) => {}
        Err(_) => {
            let why = format!("{} is no known strategy", placement.strategy);
            return Err(invalid("strategy", why));
        }
    }
    let counted = placement.max_replicas_per_node > 0
        || !placement.distinct.is_empty()
        || !placement.spreads.is_empty();
    if mode == ServiceMode::Global && counted {
        let why = "a global service runs once on every node that it may go to; leave spread, distinct \
                   and max-replicas-per-node out";
        return Err(invalid("placement", why));
    }
    Ok(())
}
