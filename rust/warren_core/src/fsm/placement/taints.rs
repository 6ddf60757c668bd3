//! Taints keep containers off a node, or make it the last choice, unless their service tolerates them.

use crate::error::Result;
use crate::fsm::objects::Node;
use crate::fsm::placement::invalid;
use crate::pb::{self, TaintEffect};

/// Taints of a node, those of its host and those of operators each; and tolerations of a service.
pub const TAINTS_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 256;

/// A sentence on the first taint that keeps containers off and is not tolerated.
pub(super) fn refusal(tolerations: &[pb::Toleration], node: &Node) -> Option<String> {
    let taint = untolerated(tolerations, node, TaintEffect::NoSchedule)?;
    Some(format!("taint {} is not tolerated", text(taint)))
}

/// A sentence on each taint that keeps containers off and is not tolerated.
pub(in crate::fsm) fn refusals(
    tolerations: &[pb::Toleration],
    node: &Node,
) -> impl Iterator<Item = String> {
    let taints = all_untolerated(tolerations, node, TaintEffect::NoSchedule);
    taints.map(|taint| format!("taint {} is not tolerated", text(taint)))
}

pub(super) fn dislikes(tolerations: &[pb::Toleration], node: &Node) -> bool {
    untolerated(tolerations, node, TaintEffect::PreferNoSchedule).is_some()
}

fn untolerated<'a>(
    tolerations: &[pb::Toleration],
    node: &'a Node,
    effect: TaintEffect,
) -> Option<&'a pb::Taint> {
    all_untolerated(tolerations, node, effect).next()
}

fn all_untolerated<'a>(
    tolerations: &[pb::Toleration],
    node: &'a Node,
    effect: TaintEffect,
) -> impl Iterator<Item = &'a pb::Taint> {
    let tolerated = move |taint: &pb::Taint| tolerations.iter().any(|it| tolerates(it, taint));
    node.all_taints()
        .filter(move |taint| taint.effect() == effect && !tolerated(taint))
}

fn tolerates(toleration: &pb::Toleration, taint: &pb::Taint) -> bool {
    (toleration.key.is_empty() || toleration.key == taint.key)
        && toleration
            .value
            .as_ref()
            .is_none_or(|value| *value == taint.value)
        && (toleration.effect == 0 || toleration.effect == taint.effect)
}

/// As people write it: `key=value:no-schedule`.
fn text(taint: &pb::Taint) -> String {
    let effect = match taint.effect() {
        TaintEffect::PreferNoSchedule => "prefer-no-schedule",
        _ => "no-schedule",
    };
    match &taint.value[..] {
        "" => format!("{}:{effect}", taint.key),
        value => format!("{}={value}:{effect}", taint.key),
    }
}

/// Refuses taints that make no sense, or are too many; sorts them, and of several of the same key and
/// effect keeps the last.
pub fn check_taints(taints: &mut Vec<pb::Taint>) -> Result<()> {
    if taints.len() > TAINTS_MAX {
        return Err(invalid(
            "taint",
            format!("there are more than {TAINTS_MAX}"),
        ));
    }
    for taint in &*taints {
        check_words("taint", &taint.key, &taint.value)?;
        if taint.key.is_empty() {
            return Err(invalid(
                "taint",
                "its key is missing; write key=value:no-schedule",
            ));
        }
        if !matches!(TaintEffect::try_from(taint.effect), Ok(effect) if effect != TaintEffect::Unspecified)
        {
            let why = format!(
                "`{}` has no effect: no-schedule or prefer-no-schedule",
                taint.key
            );
            return Err(invalid("taint", why));
        }
    }
    taints.reverse();
    // Stable: the one that was last comes first of its kind, and stays.
    taints.sort_by(|a, b| (&a.key, a.effect).cmp(&(&b.key, b.effect)));
    taints.dedup_by(|b, a| (&a.key, a.effect) == (&b.key, b.effect));
    Ok(())
}

pub(super) fn check_tolerations(tolerations: &mut Vec<pb::Toleration>) -> Result<()> {
    if tolerations.len() > TAINTS_MAX {
        return Err(invalid(
            "toleration",
            format!("there are more than {TAINTS_MAX}"),
        ));
    }
    for it in &*tolerations {
        let value = it.value.as_deref();
        check_words("toleration", &it.key, value.unwrap_or_default())?;
        if it.key.is_empty() && value.is_some() {
            return Err(invalid(
                "toleration",
                "a value goes with a key; give key=value",
            ));
        }
        if TaintEffect::try_from(it.effect).is_err() {
            let why = "its effect is no-schedule, prefer-no-schedule, or left out for both";
            return Err(invalid("toleration", why));
        }
    }
    tolerations.sort_by(|a, b| (&a.key, &a.value, a.effect).cmp(&(&b.key, &b.value, b.effect)));
    tolerations.dedup();
    Ok(())
}

fn check_words(what: &'static str, key: &str, value: &str) -> Result<()> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '=' | ':' | ',');
    if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
        let why = format!("a key has at most {KEY_BYTES_MAX} bytes, a value {VALUE_BYTES_MAX}");
        return Err(invalid(what, why));
    }
    if key.contains(bad) || value.contains(bad) {
        return Err(invalid(
            what,
            "key and value have no blanks, =, : or commas in them",
        ));
    }
    Ok(())
}
