use super::*;
use crate::sim::random::Random;

fn operation(ask: Ask, answer: Option<Answer>, invoked_ns: u64, returned_ns: u64) -> Operation {
    let returned_ns = if answer.is_some() {
        returned_ns
    } else {
        u64::MAX
    };
    Operation {
        ask,
        answer,
        invoked_ns,
        returned_ns,
    }
}

fn found(id: Id, version: u64, tag: u64) -> Option<Answer> {
    Some(Answer::Found {
        id,
        version,
        tag,
        removing: false,
    })
}

const A: Id = [1; 16];
const B: Id = [2; 16];

#[test]
fn a_read_must_see_what_was_acknowledged_before_it_began() {
    let create = operation(
        Ask::Create { tag: 1 },
        Some(Answer::Created { id: A }),
        0,
        10,
    );
    let stale = operation(Ask::Get, Some(Answer::Missing), 11, 12);
    assert_eq!(check(&[create, stale]), Verdict::Violated);
    let overlapping = operation(Ask::Get, Some(Answer::Missing), 10, 12);
    assert_eq!(check(&[create, overlapping]), Verdict::Linearizable);
}

#[test]
fn a_violation_is_shown_where_it_began() {
    let create = operation(
        Ask::Create { tag: 1 },
        Some(Answer::Created { id: A }),
        0,
        10,
    );
    let stale = operation(Ask::Get, Some(Answer::Missing), 11, 12);
    let later = operation(Ask::Get, found(A, 1, 1), 13, 14);
    assert_eq!(last_of_violation(&[later, create, stale]), [create, stale]);
}

#[test]
fn an_unknown_outcome_may_happen_late_or_never_but_not_twice() {
    let create = operation(
        Ask::Create { tag: 1 },
        Some(Answer::Created { id: A }),
        0,
        1,
    );
    let update = operation(
        Ask::Update {
            id: A,
            expected: 1,
            tag: 2,
        },
        None,
        2,
        0,
    );
    let get = |answer, at| operation(Ask::Get, answer, at, at + 1);
    let late = [
        create,
        update,
        get(found(A, 1, 1), 10),
        get(found(A, 2, 2), 20),
    ];
    assert_eq!(check(&late), Verdict::Linearizable);
    let never = [create, update, get(found(A, 1, 1), 10)];
    assert_eq!(check(&never), Verdict::Linearizable);
    let undone = [
        create,
        update,
        get(found(A, 2, 2), 10),
        get(found(A, 1, 1), 20),
    ];
    assert_eq!(check(&undone), Verdict::Violated);
    let twice = [create, update, get(found(A, 3, 2), 10)];
    assert_eq!(check(&twice), Verdict::Violated);
}

#[test]
fn a_refusal_says_that_nothing_happened() {
    let create = operation(
        Ask::Create { tag: 1 },
        Some(Answer::Created { id: A }),
        0,
        1,
    );
    let ask = Ask::Update {
        id: A,
        expected: 1,
        tag: 2,
    };
    let refused = operation(ask, Some(Answer::Conflict), 2, 3);
    assert_eq!(check(&[create, refused]), Verdict::Violated);
    let other = operation(ask, Some(Answer::Updated { version: 2 }), 2, 3);
    assert_eq!(check(&[create, refused, other]), Verdict::Linearizable);
}

#[test]
fn a_removed_service_goes_once_and_comes_back_as_another() {
    let create = |tag, id, at| {
        operation(
            Ask::Create { tag },
            Some(Answer::Created { id }),
            at,
            at + 1,
        )
    };
    let remove = operation(Ask::Remove { id: A }, Some(Answer::Removed), 2, 3);
    let leaving = Some(Answer::Found {
        id: A,
        version: 1,
        tag: 1,
        removing: true,
    });
    let get = |answer, at| operation(Ask::Get, answer, at, at + 1);
    let missing = Some(Answer::Missing);
    let good = [
        create(1, A, 0),
        remove,
        get(leaving, 4),
        get(missing, 6),
        create(2, B, 8),
    ];
    assert_eq!(check(&good), Verdict::Linearizable);
    let back = [create(1, A, 0), remove, get(missing, 4), get(leaving, 6)];
    assert_eq!(check(&back), Verdict::Violated);
    let taken = operation(Ask::Create { tag: 3 }, Some(Answer::NameTaken), 8, 9);
    assert_eq!(
        check(&[create(1, A, 0), remove, get(missing, 4), taken]),
        Verdict::Violated
    );
}

/// Histories as a real service under concurrent clients would give them; with `lies`, some answers
/// are then changed.
fn history(random: &mut Random, clients: u64, count: usize, lies: bool) -> Vec<Operation> {
    let (mut state, mut made, mut at) = (Service::Absent, 0u64, 0u64);
    let mut busy_until = vec![0u64; clients as usize];
    let mut operations = Vec::new();
    while operations.len() < count {
        let client = random.below(clients) as usize;
        at += 1 + random.below(4);
        let invoked_ns = (busy_until[client] + 1).max(at.saturating_sub(random.below(12)));
        let known = match state {
            Service::Absent => A,
            Service::Present { id, .. } | Service::Leaving { id, .. } => id,
        };
        made += 1;
        let version = match state {
            Service::Present { version, .. } => version,
            _ => 1,
        };
        let ask = match random.below(10) {
            0..=1 => Ask::Create { tag: made },
            2..=5 => Ask::Update {
                id: known,
                expected: version + random.below(5) / 4,
                tag: made,
            },
            6 => Ask::Remove { id: known },
            _ => Ask::Get,
        };
        if let Service::Leaving { .. } = state
            && random.below(2) == 0
        {
            state = Service::Absent;
        }
        let Some(answer) = truth(state, ask, made) else {
            continue;
        };
        let id = if let Answer::Created { id } = answer {
            id
        } else {
            known
        };
        let born = BTreeMap::from([(made, id)]);
        state = state.after(ask, Some(answer), &born).unwrap_or(state);
        let returned_ns = at + random.below(8);
        busy_until[client] = returned_ns;
        // An id is learned from an answer: in long histories no client guesses that of a service
        // that nobody has seen.
        let must_tell = count > 100 && matches!(ask, Ask::Create { .. });
        let answer = (must_tell || random.below(15) > 0).then_some(answer);
        operations.push(operation(ask, answer, invoked_ns.min(at), returned_ns));
    }
    if lies {
        let victim = random.below(operations.len() as u64) as usize;
        let liar = random.below(operations.len() as u64) as usize;
        operations[victim].answer = operations[liar].answer.or(Some(Answer::Missing));
        operations[victim].returned_ns = operations[victim].returned_ns.min(at + 9);
    }
    operations
}

fn truth(state: Service, ask: Ask, made: u64) -> Option<Answer> {
    let id = std::array::from_fn(|at| made.to_le_bytes()[at % 8]);
    let every = [
        Answer::Created { id },
        Answer::Removed,
        Answer::Missing,
        Answer::NameTaken,
        Answer::Conflict,
        Answer::Removing,
    ];
    let seen = match state {
        Service::Present { id, version, tag } => [
            Answer::Updated {
                version: version + 1,
            },
            Answer::Found {
                id,
                version,
                tag,
                removing: false,
            },
        ],
        Service::Leaving { id, version, tag } => [
            Answer::Missing,
            Answer::Found {
                id,
                version,
                tag,
                removing: true,
            },
        ],
        Service::Absent => [Answer::Missing; 2],
    };
    let possible = |answer: &Answer| state.after(ask, Some(*answer), &BTreeMap::new()).is_some();
    seen.into_iter().chain(every).find(possible)
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut random = Random::new(3);
    let (mut good, mut bad) = (0, 0);
    for round in 0..4_000 {
        let count = 2 + random.below(6) as usize;
        let operations = history(&mut random, 3, count, round % 2 == 0);
        let expected = naive::is_linearizable(&operations);
        let verdict = if expected {
            Verdict::Linearizable
        } else {
            Verdict::Violated
        };
        assert_eq!(check(&operations), verdict, "{operations:#?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 1_000 && bad > 300, "{good} good, {bad} bad");
}

#[test]
fn five_thousand_operations_on_one_name_are_decided() {
    for seed in 0..3 {
        let mut random = Random::new(seed);
        let operations = history(&mut random, 8, 5_000, false);
        assert_eq!(check(&operations), Verdict::Linearizable);
    }
}
