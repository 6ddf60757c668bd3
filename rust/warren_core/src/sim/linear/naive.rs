//! The dumb twin: every order of a small history, tried.

use super::{Operation, Service, births};

/// Whether some order explains the answers; O(n!).
pub fn is_linearizable(operations: &[Operation]) -> bool {
    let born = births(operations);
    try_all(
        operations,
        &mut vec![false; operations.len()],
        Service::Absent,
        &born,
    )
}

fn try_all(
    operations: &[Operation],
    placed: &mut Vec<bool>,
    state: Service,
    born: &std::collections::BTreeMap<u64, super::Id>,
) -> bool {
    let open = |n: &usize| !placed[*n] && operations[*n].answer.is_some();
    if (0..operations.len()).filter(open).count() == 0 {
        return true;
    }
    let first_return = (0..operations.len())
        .filter(open)
        .map(|n| operations[n].returned_ns)
        .min();
    for number in 0..operations.len() {
        let Operation {
            ask,
            answer,
            invoked_ns,
            ..
        } = operations[number];
        if placed[number] || first_return.is_some_and(|first| invoked_ns > first) {
            continue;
        }
        if let Some(after) = state.after(ask, answer, born) {
            placed[number] = true;
            let explained = try_all(operations, placed, after, born);
            placed[number] = false;
            if explained {
                return true;
            }
        }
    }
    false
}
