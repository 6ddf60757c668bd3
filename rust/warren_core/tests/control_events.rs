//! What is told of events: filtered where they are kept, and followed past what is filtered out.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "control_support/cluster.rs"]
mod cluster;

use cluster::{Cluster, create};
use prost::Message;
use warren_core::error::Error;
use warren_core::pb::{self, EventRevision, ListEventsRequest, ListEventsResponse, ServiceEvent};

const ALL: u32 = 10_000;

fn ask(
    cluster: &mut Cluster,
    number: u64,
    request: &ListEventsRequest,
) -> Result<ListEventsResponse, Error> {
    let answer = cluster.call(number, "ListEvents", request)?;
    let answer = ListEventsResponse::decode(&answer[..]).unwrap();
    assert!(answer.filtered);
    Ok(answer)
}

fn told(cluster: &mut Cluster, number: u64, request: &ListEventsRequest) -> Vec<ServiceEvent> {
    ask(cluster, number, request).unwrap().events
}

fn words(named: &[&str]) -> Vec<String> {
    named.iter().map(|&word| word.to_owned()).collect()
}

fn of_kinds(kinds: &[&str]) -> ListEventsRequest {
    ListEventsRequest {
        kinds: words(kinds),
        ..Default::default()
    }
}

fn of_nodes(nodes: &[&str]) -> ListEventsRequest {
    ListEventsRequest {
        nodes: words(nodes),
        ..Default::default()
    }
}

/// A member that leads itself, and services of two containers each on its node.
fn one_with_services(count: u64) -> Cluster {
    let mut cluster = Cluster::of(1);
    for number in 1..=count {
        let mut request = create(&format!("s{number}"), number);
        request.spec.as_mut().unwrap().replicas = 2;
        cluster.call(1, "CreateService", &request).unwrap();
    }
    cluster.until("all are placed", 60_000, |cluster| {
        cluster.state(1).container_count() as u64 == 2 * count
    });
    cluster
}

fn remove(cluster: &mut Cluster, name: &str) {
    let request = pb::RemoveServiceRequest {
        service_id: cluster.state(1).service_by_name(name).unwrap().id.to_vec(),
        ..Default::default()
    };
    cluster.call(1, "RemoveService", &request).unwrap();
}

#[test]
fn what_is_rare_is_found_behind_any_number_of_others() {
    let mut cluster = one_with_services(60);
    let newest = told(&mut cluster, 1, &ListEventsRequest::default());
    assert_eq!(newest.len(), 100);
    assert!(newest.iter().all(|it| it.kind != "node_joined"));
    let joined = told(&mut cluster, 1, &of_kinds(&["node_joined"]));
    assert_eq!(joined.len(), 1);
    let few = ListEventsRequest {
        count_max: 3,
        ..of_kinds(&["service_created"])
    };
    let created = told(&mut cluster, 1, &few);
    let names: Vec<_> = created.iter().map(|it| &it.service_name[..]).collect();
    assert_eq!(names, ["s58", "s59", "s60"], "the newest");
}

/// What comes is what somebody would choose who had everything.
#[test]
fn every_filter_lets_pass_what_it_names() {
    let mut cluster = one_with_services(5);
    let everything = ListEventsRequest {
        count_max: ALL,
        ..Default::default()
    };
    let everything = told(&mut cluster, 1, &everything);
    let mut found = 0;
    for service in ["", "s3"] {
        for kinds in [
            &[][..],
            &["placed"],
            &["placed", "service_created", "leader_elected"],
        ] {
            for nodes in [&[][..], &["host-1"]] {
                let asked = ListEventsRequest {
                    r#ref: service.into(),
                    count_max: ALL,
                    kinds: words(kinds),
                    nodes: words(nodes),
                    ..Default::default()
                };
                let wanted = |it: &&ServiceEvent| {
                    (service.is_empty() || it.service_name == service)
                        && (kinds.is_empty() || kinds.contains(&&it.kind[..]))
                        && (nodes.is_empty() || nodes.contains(&&it.node_name[..]))
                };
                let expected: Vec<_> = everything.iter().filter(wanted).cloned().collect();
                found += usize::from(!expected.is_empty());
                assert_eq!(told(&mut cluster, 1, &asked), expected, "{asked:?}");
            }
        }
    }
    assert_eq!(found, 12, "each was to let something pass");
}

#[test]
fn whoever_follows_goes_on_past_what_is_filtered_out() {
    let mut cluster = one_with_services(20);
    let asked = of_kinds(&["service_created", "service_removing"]);
    let mut follows = ListEventsRequest {
        count_max: 7,
        after: Some(EventRevision {
            epoch: 1,
            term: cluster.status(1).term.0,
            ..Default::default()
        }),
        ..asked
    };
    // From the very beginning, in pieces.
    let (mut names, mut answers) = (Vec::new(), 0);
    loop {
        let answer = ask(&mut cluster, 1, &follows).unwrap();
        assert!(!answer.start_over);
        follows.after = answer.revision;
        answers += 1;
        if answer.events.is_empty() {
            break;
        }
        names.extend(answer.events.into_iter().map(|it| it.service_name));
    }
    let expected: Vec<_> = (1..=20).map(|number| format!("s{number}")).collect();
    assert_eq!((names, answers), (expected, 4));
    // Nothing of that is looked at again, though nothing was wanted since.
    let end = follows.after.unwrap();
    let everything = ListEventsRequest {
        after: Some(end),
        ..Default::default()
    };
    assert_eq!(told(&mut cluster, 1, &everything), []);
    remove(&mut cluster, "s5");
    let answer = ask(&mut cluster, 1, &follows).unwrap();
    let kinds: Vec<_> = answer.events.iter().map(|it| &it.kind[..]).collect();
    assert_eq!(kinds, ["service_removing"]);
    follows.after = answer.revision;
    assert_eq!(told(&mut cluster, 1, &follows), []);
}

/// Decisions are known to who leads, what happened to all: what is not asked for is not missed.
#[test]
fn whoever_can_have_missed_nothing_does_not_start_over() {
    let mut cluster = one_with_services(3);
    let end = ask(&mut cluster, 1, &ListEventsRequest::default()).unwrap();
    let end = end.revision.unwrap();
    let another_leader = EventRevision {
        term: end.term + 1,
        ..end
    };
    let another_history = EventRevision {
        epoch: end.epoch + 1,
        ..end
    };
    for (after, kinds, starts_over) in [
        (another_leader, &["placed"][..], true),
        (another_leader, &["service_created"], false),
        (another_leader, &[], true),
        (another_history, &["placed"], false),
        (another_history, &["service_created"], true),
        (another_history, &[], true),
    ] {
        let follows = ListEventsRequest {
            after: Some(after),
            ..of_kinds(kinds)
        };
        let answer = ask(&mut cluster, 1, &follows).unwrap();
        assert_eq!(answer.start_over, starts_over, "{after:?} {kinds:?}");
    }
}

/// The age is counted by the manager; whoever follows is told everything, however old.
#[test]
fn what_is_too_old_is_left_out_at_the_start_only() {
    let mut cluster = one_with_services(2);
    let began = ask(&mut cluster, 1, &ListEventsRequest::default()).unwrap();
    cluster.run(20_000);
    cluster.call(1, "CreateService", &create("new", 9)).unwrap();
    let mut young = ListEventsRequest {
        newer_than_ms: 10_000,
        ..of_kinds(&["service_created"])
    };
    let names = |cluster: &mut Cluster, request: &ListEventsRequest| {
        let told = told(cluster, 1, request).into_iter();
        told.map(|it| it.service_name).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut cluster, &young), ["new"]);
    cluster.run(20_000);
    assert!(names(&mut cluster, &young).is_empty());
    young.after = began.revision;
    assert_eq!(names(&mut cluster, &young), ["new"]);
    // Of a leader before: it starts over, with what is young enough.
    young.after.as_mut().unwrap().epoch = 7;
    let answer = ask(&mut cluster, 1, &young).unwrap();
    assert!(answer.start_over && answer.events.is_empty(), "{answer:?}");
    young.newer_than_ms = u64::MAX;
    assert_eq!(names(&mut cluster, &young), ["s1", "s2", "new"]);
}

#[test]
fn nodes_are_named_as_elsewhere_and_those_that_are_gone_as_they_were() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    for number in [2, 3] {
        cluster.open_session_at(leader, number);
    }
    cluster.run(2_000);
    let id = "03".repeat(16);
    for name in ["host-3", &id, "03"] {
        let events = told(&mut cluster, leader, &of_nodes(&[name]));
        let kinds: Vec<_> = events.iter().map(|it| &it.kind[..]).collect();
        assert!(kinds.contains(&"manager_added"), "{name}: {kinds:?}");
        assert!(events.iter().all(|it| it.node_id == [3; 16]));
    }
    let both = told(&mut cluster, leader, &of_nodes(&["host-2", "host-3"]));
    let of = |number: u8| both.iter().filter(|it| it.node_id == [number; 16]).count();
    assert!(of(2) > 0 && of(3) > 0 && of(2) + of(3) == both.len());
    let refused = ask(&mut cluster, leader, &of_nodes(&["0"])).unwrap_err();
    assert_eq!(refused.code(), "ambiguous");
    let refused = ask(&mut cluster, leader, &of_nodes(&["host-3", "host-9"])).unwrap_err();
    assert!(refused.to_string().contains("`host-9`"), "{refused}");
    assert_eq!(refused.code(), "not_found");
    cluster.open_session_at(leader, 5);
    cluster.run(2_000);
    let gone = pb::RemoveNodeRequest {
        r#ref: "host-5".into(),
        force: true,
        ..Default::default()
    };
    cluster.call(leader, "RemoveNode", &gone).unwrap();
    for name in ["host-5", &"05".repeat(16)] {
        let events = told(&mut cluster, leader, &of_nodes(&[name]));
        let kinds: Vec<_> = events.iter().map(|it| &it.kind[..]).collect();
        assert_eq!(kinds, ["node_joined", "node_removed"], "{name}");
    }
    // Somebody who follows may ask for what is no more.
    let mut follows = of_nodes(&["host-9"]);
    follows.after = ask(&mut cluster, leader, &of_nodes(&[])).unwrap().revision;
    assert_eq!(told(&mut cluster, leader, &follows), []);
}

#[test]
fn a_service_that_is_gone_is_known_by_its_name() {
    let mut cluster = Cluster::of(1);
    cluster
        .call(1, "CreateService", &create("gone", 1))
        .unwrap();
    remove(&mut cluster, "gone");
    cluster.until("it is gone", 5_000, |cluster| {
        cluster.state(1).service_by_name("gone").is_none()
    });
    let asked = ListEventsRequest {
        r#ref: "gone".into(),
        ..Default::default()
    };
    let events = told(&mut cluster, 1, &asked);
    let kinds: Vec<_> = events.iter().map(|it| &it.kind[..]).collect();
    assert_eq!(
        kinds,
        ["service_created", "service_removing", "service_removed"]
    );
    let never = ListEventsRequest {
        r#ref: "never".into(),
        ..Default::default()
    };
    assert_eq!(
        ask(&mut cluster, 1, &never).unwrap_err().code(),
        "not_found"
    );
}

#[test]
fn what_cannot_be_asked_for_is_refused_with_what_can() {
    let mut cluster = Cluster::of(1);
    let mut refusal = |request: &ListEventsRequest| {
        let refused = ask(&mut cluster, 1, request).unwrap_err();
        assert_eq!(refused.code(), "invalid");
        refused.to_string()
    };
    let unknown = refusal(&of_kinds(&["placed", "node_exploded"]));
    for word in [
        "`node_exploded`",
        "placed",
        "slot_moved",
        "node_down",
        "cluster_changed",
    ] {
        assert!(unknown.contains(word), "{unknown}");
    }
    let many = refusal(&of_kinds(&["placed"; 65]));
    assert!(
        many.contains("65 kinds") && many.contains("64: ask for fewer"),
        "{many}"
    );
    let many = refusal(&of_nodes(&["host-1"; 17]));
    assert!(
        many.contains("17 nodes") && many.contains("16: ask for fewer"),
        "{many}"
    );
    let long = refusal(&of_nodes(&[&"n".repeat(257)]));
    assert!(long.contains("257 bytes") && long.contains("256"), "{long}");
    assert_eq!(
        told(&mut cluster, 1, &of_kinds(&["node_joined"; 64])).len(),
        1
    );
}

/// Who was elected when, by the events of a member.
fn elections(cluster: &mut Cluster, number: u64) -> Vec<(String, u64)> {
    let events = told(cluster, number, &of_kinds(&["leader_elected"]));
    let of = |it: ServiceEvent| (it.node_name, it.time_ms);
    events.into_iter().map(of).collect()
}

/// It is before the cluster's first command, in which its time and the founder are.
#[test]
fn the_first_election_has_a_time_and_a_name() {
    let mut cluster = Cluster::of(1);
    let first = elections(&mut cluster, 1);
    let [(founder, founded_ms)] = &first[..] else {
        panic!("there was one so far: {first:?}");
    };
    assert_eq!(founder, "host-1");
    assert!((1_000..=cluster.now_ms).contains(founded_ms), "{first:?}");
    cluster.run(600_000);
    let before_ms = cluster.now_ms;
    // Read from the log.
    cluster.kill(1);
    cluster.start(1);
    cluster.leader();
    let both = elections(&mut cluster, 1);
    let [once, again] = &both[..] else {
        panic!("there was one more: {both:?}");
    };
    assert_eq!(once, &first[0]);
    assert_eq!(again.0, "host-1");
    assert!((before_ms..=cluster.now_ms).contains(&again.1), "{both:?}");
}

/// However long after the last command; and voters come and go without one.
#[test]
fn an_election_has_the_time_at_which_it_was() {
    let mut cluster = Cluster::of(3);
    for number in [2, 3] {
        cluster.open_session_at(1, number);
    }
    assert_eq!(
        elections(&mut cluster, 1).len(),
        1,
        "others were added since"
    );
    cluster.run(600_000);
    let before_ms = cluster.now_ms;
    cluster.kill(1);
    let leader = cluster.leader();
    let told = elections(&mut cluster, leader);
    let Some((name, elected_ms)) = told.last() else {
        panic!("it has been elected");
    };
    assert_eq!(name, &format!("host-{leader}"));
    assert!(
        (before_ms..=cluster.now_ms).contains(elected_ms),
        "{told:?}"
    );
}

/// A new leader finds what waits and says so anew, long after the last command.
#[test]
fn a_decision_has_the_time_at_which_it_was() {
    let mut cluster = one_with_services(1);
    let mut huge = create("huge", 2);
    let container = huge.spec.as_mut().unwrap().container.as_mut().unwrap();
    container.resources = Some(pb::Resources {
        memory_bytes: 1 << 50,
        ..Default::default()
    });
    cluster.call(1, "CreateService", &huge).unwrap();
    let waits = of_kinds(&["pending"]);
    cluster.run(600_000);
    let before_ms = cluster.now_ms;
    cluster.kill(1);
    cluster.start(1);
    cluster.leader();
    cluster.run(5_000);
    let times: Vec<u64> = told(&mut cluster, 1, &waits)
        .iter()
        .map(|it| it.time_ms)
        .collect();
    let now = before_ms..=cluster.now_ms;
    assert!(
        !times.is_empty() && times.iter().all(|it| now.contains(it)),
        "{times:?}, {now:?}"
    );
}

/// The entry that settles a removal has nothing in it, as a leader's first one.
#[test]
fn a_removal_is_no_election() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.leader();
    let elected = of_kinds(&["leader_elected"]);
    let before = told(&mut cluster, leader, &elected).len();
    let gone = (1..=3).find(|n| *n != leader).unwrap();
    let remove = pb::RemoveMemberRequest {
        request: None,
        member_id: cluster.member(gone).0,
    };
    cluster.call(leader, "RemoveMember", &remove).unwrap();
    assert_eq!(cluster.leader(), leader);
    assert_eq!(told(&mut cluster, leader, &elected).len(), before);
}
