//! Runs `testdata/orchestrator/*.txt`.
//!
//! Besides the words of the state's scenarios: `lead`, `follow`, `up n1`, `down n1`; `wait 5s`
//! with a pulse and a sign of life of every node in session a second; `step` prints what is
//! proposed, `step 5` within so many looks; `settle` applies what has been, prints what came of it,
//! and reports outcomes; `run` steps and settles until nothing is left to do now; `pending web`, `loops web`, `progress web`, `stats`;
//! `explain web` and `explain web.1` say the sentence, `events` what was decided since it was last asked.

#[path = "fsm_support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use support::{Replica, invariants, node_id, scenario, words};
use warren_core::fsm::Event;
use warren_core::ids::{ContainerId, NodeId, ServiceId};
use warren_core::orchestrator::{Budget, Orchestrator, Proposal, Subject, explain};
use warren_core::pb::{self, command::Body};

const BUDGET: Budget = Budget {
    items: 4_096,
    looks: 4_096,
};

struct World {
    replica: Replica,
    orchestrator: Orchestrator,
    now_ms: u64,
    log: Vec<Proposal>,
    /// The last decision that was printed.
    told: u64,
    in_session: BTreeSet<NodeId>,
}

impl World {
    fn new() -> Self {
        Self {
            replica: Replica::in_cluster(),
            orchestrator: Orchestrator::new(1),
            now_ms: 0,
            log: Vec::new(),
            told: 0,
            in_session: BTreeSet::new(),
        }
    }

    fn execute(&mut self, line: &str) -> Vec<String> {
        let parts: Vec<_> = line.split_whitespace().collect();
        let name = parts.get(1).copied().unwrap_or_default();
        let (state, now_ms) = (&self.replica.state, self.now_ms);
        match parts[0] {
            "lead" => self.orchestrator.lead(now_ms),
            "follow" => self.orchestrator.follow(),
            "up" => {
                self.in_session.insert(node_id(name));
                self.orchestrator.session_up(node_id(name), now_ms);
            }
            "down" => {
                self.in_session.remove(&node_id(name));
                self.orchestrator.session_down(node_id(name), now_ms);
            }
            "wait" => self.wait(name.trim_end_matches('s').parse().expect("seconds")),
            "step" => return self.step(name.parse().unwrap_or(BUDGET.looks)),
            "settle" => return self.settle(),
            "run" => return self.run(),
            "pending" => return self.pending(name),
            "loops" => return self.loops(name),
            "explain" => return self.explain(name),
            "events" => return self.events(),
            "progress" => return self.progress(name),
            "stats" => return vec![format!("{:?}", self.orchestrator.stats())],
            "show" => return words::show(state),
            "holds" => return words::show_holds(state),
            "cluster?" | "node?" => return words::execute(&mut self.replica, line),
            _ => return self.command(line),
        }
        Vec::new()
    }

    fn command(&mut self, line: &str) -> Vec<String> {
        let command = words::command(&self.replica, line);
        let before = self.replica.state.clone();
        let applied = self.replica.apply_command(&command);
        self.orchestrator
            .observe(&self.replica.state, &applied.events);
        // Events are the other scenarios' matter.
        let mut told = words::told(&before, &self.replica.state, &applied, false);
        told.truncate(1);
        if told == ["ok"] { Vec::new() } else { told }
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now_ms += 1_000;
            self.orchestrator.pulse(self.now_ms);
            for node in &self.in_session {
                self.orchestrator.alive(*node, self.now_ms);
            }
        }
    }

    fn step(&mut self, looks: usize) -> Vec<String> {
        let budget = Budget { looks, ..BUDGET };
        let proposals = self
            .orchestrator
            .step(&self.replica.state, self.now_ms, budget);
        let lines = proposals
            .iter()
            .flat_map(|proposal| self.told(&proposal.body))
            .collect();
        self.log.extend(proposals);
        lines
    }

    fn settle(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for Proposal { token, body } in std::mem::take(&mut self.log) {
            let applied = self.replica.apply(body);
            invariants::check(&self.replica.state);
            self.orchestrator
                .observe(&self.replica.state, &applied.events);
            let refused = applied.events.is_empty();
            lines.extend(refused.then(|| "nothing came of it".to_owned()));
            let gone = |event: &Event| matches!(event, Event::Service { gone: true, .. });
            lines.extend(
                applied
                    .events
                    .iter()
                    .any(gone)
                    .then(|| "forgotten".to_owned()),
            );
            let outcome = applied.response.as_deref().map_err(Clone::clone);
            self.orchestrator.resolved(self.now_ms, token, outcome);
        }
        lines
    }

    fn run(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..100 {
            lines.extend(self.step(BUDGET.looks));
            lines.extend(self.settle());
            if self.orchestrator.next_wakeup(self.now_ms) != Some(self.now_ms) {
                return lines;
            }
        }
        panic!("it never comes to rest: {lines:?}");
    }

    fn told(&self, body: &Body) -> Vec<String> {
        let state = &self.replica.state;
        let node = |id: &[u8]| {
            let id = NodeId::from_slice(id).expect("an id");
            state.node(id).expect("known").name().to_owned()
        };
        let service = |id: &[u8]| {
            let id = ServiceId::from_slice(id).expect("an id");
            state.service(id).expect("known").name.clone()
        };
        let container = |id: &[u8]| {
            let id = ContainerId::from_slice(id).expect("an id");
            words::label(state, state.container(id).expect("known"))
        };
        match body {
            Body::Bind(bind) => {
                let each = bind.items.iter().map(|item| {
                    let (service, node) = (service(&item.service_id), node(&item.node_id));
                    let replaces = if item.replaces.is_empty() {
                        ""
                    } else {
                        ", replacing"
                    };
                    let share = |it: &pb::DeviceShare| {
                        format!(", {} of {} {}", it.milli, it.kind, it.number)
                    };
                    let devices: String = item.devices.iter().map(share).collect();
                    format!("bind {service}.{}@{node}{replaces}{devices}", item.slot)
                });
                each.collect()
            }
            Body::SetDesired(set) => set
                .items
                .iter()
                .map(|item| format!("remove {}", container(&item.container_id)))
                .collect(),
            Body::MoveSlots(moves) => {
                let told = |item: &pb::MoveItem| {
                    format!("move {} to {}", container(&item.container_id), item.slot)
                };
                moves.items.iter().map(told).collect()
            }
            Body::Preempt(preempt) => {
                let each = preempt.items.iter().map(|item| {
                    let bind = item.bind.as_ref().expect("it is for somebody");
                    let slot = format!("{}.{}", service(&bind.service_id), bind.slot);
                    let on = node(&bind.node_id);
                    let victims: Vec<_> = item.victims.iter().map(|id| container(id)).collect();
                    match &victims[..] {
                        [] => format!("keep nothing for {slot}@{on}"),
                        victims => format!("preempt {} for {slot}@{on}", victims.join(", ")),
                    }
                });
                each.collect()
            }
            Body::SetNodeStatus(set) => {
                let status = pb::NodeStatus::try_from(set.status).expect("a status");
                vec![format!("node {} {status:?}", node(&set.node_id))]
            }
            Body::FreezeReplacement(command) => match command.freeze {
                Some(freeze) => vec![format!(
                    "freeze: {} of {} lost, {} down before",
                    freeze.lost, freeze.ready_before, freeze.down_before
                )],
                None => vec!["thaw".to_owned()],
            },
            Body::ForgetService(forget) => vec![format!("forget {}", service(&forget.service_id))],
            other => vec![format!("{other:?}")],
        }
    }

    fn pending(&self, name: &str) -> Vec<String> {
        let service = self.replica.state.resolve_service(name).expect("a service");
        let state = &self.replica.state;
        let on = |id: NodeId| format!("@{}", state.node(id).expect("known").name());
        let slots = self.orchestrator.pending(service).iter();
        slots
            .map(|slot| {
                let node = slot.node.map(on).unwrap_or_default();
                format!("{name}.{}{node}: {}", slot.slot, slot.reason)
            })
            .collect()
    }

    fn loops(&self, name: &str) -> Vec<String> {
        let service = self.replica.state.resolve_service(name).expect("a service");
        let loops = self.orchestrator.crash_loops(service).into_iter();
        let all = self.orchestrator.crash_looping();
        let by_service = self.orchestrator.crash_looping_by_service();
        assert_eq!(by_service.values().sum::<u32>() as usize, all);
        let counted = by_service.get(&service).copied().unwrap_or_default();
        assert_eq!(counted as usize, loops.len());
        let told = loops.map(|it| {
            let exit = it
                .exit_code
                .map_or("no".to_owned(), |code| code.to_string());
            format!(
                "{name}.{}: {} failures, {exit} exit code, of {all}",
                it.slot, it.failures
            )
        });
        told.collect()
    }

    fn explain(&self, name: &str) -> Vec<String> {
        let state = &self.replica.state;
        let (name, slot) = name.split_once('.').unwrap_or((name, ""));
        let id = state.resolve_service(name).expect("a service");
        let service = state.service(id).expect("it is there");
        let slot = slot.parse().ok();
        let mut containers = state.containers_of_service(id);
        let container = containers.find(|it| it.occupies() && Some(it.slot) == slot);
        let subject = match (container, slot) {
            (Some(container), _) => Subject::Container(container),
            (None, Some(slot)) => Subject::Slot(slot),
            (None, None) => Subject::Service,
        };
        let keeping = self.orchestrator.keeping(service);
        vec![explain(state, service, subject, &keeping).summary]
    }

    fn events(&mut self) -> Vec<String> {
        let state = &self.replica.state;
        let all = self.orchestrator.decisions(|_| true, usize::MAX);
        let new = all.iter().filter(|it| it.sequence > self.told);
        let lines = new.map(|it| {
            let service = state.service(it.service);
            let name = service.map_or("gone", |service| &service.name);
            let on = it.node.and_then(|id| state.node(id));
            let on = on.map_or(String::new(), |node| format!("@{}", node.name()));
            let kind = it.kind.word();
            format!("{kind} {name}.{}{on}: {}", it.slot, it.why)
        });
        let lines = lines.collect();
        self.told = all.last().map_or(self.told, |it| it.sequence);
        lines
    }

    fn progress(&self, name: &str) -> Vec<String> {
        let Ok(service) = self.replica.state.resolve_service(name) else {
            return vec!["gone".to_owned()];
        };
        let p = self.orchestrator.progress(&self.replica.state, service);
        let counts = format!(
            "v{}: {}/{} running, {} leaving, {} pending, {} failing",
            p.version, p.running, p.desired, p.leaving, p.pending, p.failing
        );
        if p.reason.is_empty() {
            vec![counts]
        } else {
            vec![counts, p.reason]
        }
    }
}

macro_rules! scenarios {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            let text =
                include_str!(concat!("../testdata/orchestrator/", stringify!($name), ".txt"));
            let mut world = World::new();
            scenario::run(stringify!($name), text, |line| world.execute(line));
            assert_eq!(world.orchestrator.stats().missed, 0);
        }
    )*};
}

scenarios!(
    replicated,
    global,
    updates,
    restarts,
    pending,
    lost_claims,
    lost_node,
    partition,
    freeze,
    placing,
    skew_claimed,
    volumes,
    global_ended,
    draining_given_back,
    freeze_led_again,
    preempting_apart,
    preempting_device,
    preempting_device_gone,
    preempting_dropped,
    preempting_forbidden,
    preempting_global,
    preempting_kept,
    preempting_moved,
    preempting_late,
    preempting_lowered,
    preempting_move_refused,
    preempting_moving,
    preempting_once,
    preempting_raised,
    preempting_refused,
    preferring,
    preempting,
    shrinking,
    crashing,
    retrying,
    following,
    telling,
    avoiding,
    draining_held,
    replacing_rules,
    replacing_held,
    replacing_less,
    replacing_unready,
    replacing_global,
    draining_restarts
);
