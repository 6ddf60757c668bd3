//! Chaos, calm, and what calm must bring.

use super::*;
use crate::control::{Control, Status};
use crate::fsm::State;

impl World {
    pub(super) fn next_phase(&mut self) {
        self.repair();
        self.check_stability();
        let now_ns = self.wire.now_ns;
        match self.phase {
            Phase::Founding if now_ns > 30 * SECOND_NS => {
                self.checks.fail(Check::Liveness, "no cluster after 30 s");
            }
            Phase::Chaos { until_ns } if now_ns >= until_ns => self.calm_down(),
            Phase::Calm { since_ns } => self.in_calm(since_ns),
            Phase::Settling { since_ns } => self.settle(since_ns),
            _ => {}
        }
        self.wire.plan_in(SECOND_NS, Event::Phase);
    }

    fn calm_down(&mut self) {
        self.wire.say(|| "calm".into());
        self.heal_everything();
        // A partition that ends early may have begun an election already.
        self.stable_since = None;
        let since_ns = self.wire.now_ns;
        if since_ns < self.setup.duration_ns {
            self.phase = Phase::Calm { since_ns };
            return;
        }
        self.phase = Phase::Settling { since_ns };
        self.workers.calm = true;
        self.clients.set_resting(&mut self.wire, true);
    }

    fn in_calm(&mut self, since_ns: u64) {
        let now_ns = self.wire.now_ns;
        if now_ns >= since_ns + LEADER_WITHIN_NS {
            self.checks.looked(Check::Liveness);
            if self.leader().is_none() {
                let all = self.describe();
                self.checks
                    .fail(Check::Liveness, format!("nobody leads in calm: {all}"));
            }
        }
        let came_up = self.operator.is_idle() || now_ns >= since_ns + SETTLED_WITHIN_NS;
        if now_ns >= since_ns + CALM_NS && came_up {
            self.wire.say(|| "chaos".into());
            let left_ns = self.setup.duration_ns.saturating_sub(now_ns);
            let mean_ns = CHAOS_NS_MEAN * self.setup.pace.between_faults();
            let for_ns = (20 * SECOND_NS + self.random.wait(mean_ns)).min(left_ns);
            self.phase = Phase::Chaos {
                until_ns: now_ns + for_ns,
            };
            self.wire.plan_in(SECOND_NS, Event::Nemesis);
        }
    }

    fn settle(&mut self, since_ns: u64) {
        self.bring_up_to_date();
        match self.unsettled() {
            None => self.judge(),
            Some(what) if self.wire.now_ns >= since_ns + SETTLED_WITHIN_NS => {
                let all = self.describe();
                self.checks.fail(Check::Liveness, format!("{what}: {all}"));
            }
            Some(_) => {}
        }
    }

    /// In the end every member runs the newest release, one after the other.
    fn bring_up_to_date(&mut self) {
        let all_up = self.present().all(Machine::is_up);
        if !all_up || self.leader().is_none() {
            return;
        }
        if let Some(machine) = self
            .machines
            .iter_mut()
            .find(|m| m.is_up() && m.release < FEATURE_LEVEL_MAX)
        {
            machine.release = FEATURE_LEVEL_MAX;
            machine.retire(&mut self.wire, SECOND_NS / 10);
            self.wire.note(Kind::Upgraded);
        }
    }

    /// Machines that are members and not taken away.
    fn present(&self) -> impl Iterator<Item = &Machine> {
        self.machines
            .iter()
            .filter(|machine| machine.life != Life::Gone && machine.member.is_some())
    }

    /// What the operator sees to without being asked: a machine that does not come back is
    /// replaced, one that stopped because it is out of date gets the newer release, and one whose
    /// member has been removed is switched off.
    pub(super) fn repair(&mut self) {
        self.switch_off_removed();
        let lost = |machine: &Machine| machine.damaged && machine.life != Life::Gone;
        self.wire.a_disk_is_lost = self.machines.iter().any(lost);
        let mut replace = Vec::new();
        for machine in &mut self.machines {
            let Some(member) = machine.member else {
                continue;
            };
            match &machine.life {
                Life::Refused(_) => replace.push(member),
                Life::Up if machine.is_impostor => replace.push(member),
                // A disk that has rotted once is not kept; the member may come back before.
                Life::Up if machine.damaged => {
                    let whole = |status: Status| {
                        !status.cut
                            && status.leader.is_some()
                            && status.applied_index == status.last_index
                    };
                    if machine.control().map(Control::status).is_some_and(whole) {
                        replace.push(member);
                    }
                }
                Life::Stopped(stop) => {
                    self.checks.looked(Check::Stop);
                    let removed =
                        self.ordered_out.contains(&member) && stop.why.contains("removed");
                    if removed {
                        // The operator may not have been told yet.
                        machine.life = Life::Gone;
                        self.wire.directory.retain(|end| *end != machine.end);
                    } else if machine.is_impostor {
                        replace.push(member);
                    } else if machine.release < FEATURE_LEVEL_MAX
                        && stop.why.contains("feature level")
                    {
                        machine.release = FEATURE_LEVEL_MAX;
                        machine.life = Life::Down;
                        self.wire.plan_in(SECOND_NS, Event::Start(machine.end));
                    } else {
                        let what = format!("member {} stopped: {}", member.0, stop.why);
                        self.checks.fail(Check::Stop, what);
                    }
                }
                _ => {}
            }
        }
        for member in replace {
            let task = Task::Remove { member };
            if !self.removed.contains(&member) && !self.operator.tasks().any(|known| *known == task)
            {
                self.add_machine();
                self.remove_member(member.0);
                self.wire.note(Kind::MemberReplaced);
            }
        }
    }

    /// A removed member's machine is of use until the configuration that still needs it is left.
    fn switch_off_removed(&mut self) {
        let leader = self.leader().and_then(|end| self.machine(end));
        let Some(conf) = leader.and_then(Machine::conf_state) else {
            return;
        };
        for machine in &mut self.machines {
            let Some(member) = machine.member else {
                continue;
            };
            let removed = self.removed.contains(&member) && !conf.contains(member.0);
            if removed && machine.life != Life::Gone {
                self.wire.directory.retain(|end| *end != machine.end);
                machine.stop(&mut self.wire, Life::Gone);
            }
        }
    }

    /// What has not settled yet, if anything.
    fn unsettled(&self) -> Option<String> {
        if !self.operator.is_idle() {
            let tasks: Vec<_> = self.operator.tasks().collect();
            let why = self.operator.last_refusal();
            return Some(format!("the operator is busy with {tasks:?}: {why}"));
        }
        if !self.clients.are_idle() {
            return Some("clients wait for answers".into());
        }
        let leader = self.leader().and_then(|end| self.machine(end));
        let leads = leader.and_then(|machine| {
            let control = machine.control()?;
            Some((control, control.state()?, control.conf_state()?.clone()))
        });
        let Some((leader, state, conf)) = leads else {
            return Some("nobody leads".into());
        };
        if conf.is_joint() || !conf.learners.is_empty() {
            return Some(format!("the configuration is {conf:?}"));
        }
        self.unequal(state, &conf)
            .or_else(|| unconverged(leader, state))
    }

    fn unequal(&self, state: &State, conf: &crate::raft::ConfState) -> Option<String> {
        for machine in self.present() {
            let Some(control) = machine.control() else {
                return Some(format!("machine {} is not up", machine.end.0));
            };
            let status = control.status();
            let member = machine.member.map_or(0, |member| member.0);
            if !conf.contains(member) {
                return Some(format!("member {member} is in no configuration"));
            }
            let hash = control.state().map(State::hash);
            if hash != Some(state.hash()) || status.commit_index != status.last_index || status.cut
            {
                return Some(format!("member {member} has not caught up: {status:?}"));
            }
            if state.feature_level() != FEATURE_LEVEL_MAX {
                return Some(format!("the feature level is {}", state.feature_level()));
            }
        }
        None
    }

    fn describe(&self) -> String {
        let machines = self
            .machines
            .iter()
            .filter(|machine| machine.life != Life::Gone);
        let state = self
            .leader()
            .and_then(|end| self.machine(end)?.control()?.state());
        let nodes = state
            .into_iter()
            .flat_map(State::nodes)
            .filter(|node| node.worker);
        let nodes = nodes.map(|node| format!("\n  {} is {:?}", node.name(), node.status));
        machines.map(describe).chain(nodes).collect()
    }

    /// The end: what everybody sees now is a last read of everything, and the histories are judged.
    fn judge(&mut self) {
        self.phase = Phase::Over;
        self.clients.finish();
        let leader = self.leader().and_then(|end| self.machine(end));
        let Some(state) = leader.and_then(|machine| machine.control()?.state()) else {
            return;
        };
        let now_ns = self.wire.now_ns;
        let last: Vec<Answer> = NAMES.iter().map(|name| seen(state, name)).collect();
        for (name, answer) in last.into_iter().enumerate() {
            self.clients.history[name].push(Operation {
                ask: Ask::Get,
                answer: Some(answer),
                invoked_ns: now_ns,
                returned_ns: now_ns,
            });
        }
        for (name, history) in NAMES.iter().zip(&self.clients.history) {
            let count = history.len();
            match linear::check(history) {
                Verdict::Linearizable => self.checks.looked(Check::History),
                // Neither a fault nor a proof of none: it does not count as looked at.
                Verdict::Undecided => self.wire.say(|| {
                    let steps = linear::STEPS_MAX;
                    format!("{count} operations on `{name}` are not decided after {steps} steps")
                }),
                Verdict::Violated => {
                    let last = linear::last_of_violation(history);
                    let what = format!("{count} operations on `{name}`: {last:#?}");
                    self.checks.fail(Check::History, what);
                }
            }
        }
    }
}

/// What a read of the name would say.
fn seen(state: &State, name: &str) -> Answer {
    match state.service_by_name(name) {
        None => Answer::Missing,
        Some(service) => Answer::Found {
            id: service.id.0,
            version: service.version,
            tag: service
                .spec
                .labels
                .get("tag")
                .and_then(|tag| tag.parse().ok())
                .unwrap_or(0),
            removing: service.removing,
        },
    }
}

/// A service that has not what it asks for, or says why.
fn unconverged(leader: &Control, state: &State) -> Option<String> {
    let orchestrator = leader.orchestrator()?;
    for service in state.services() {
        let progress = orchestrator.progress(state, service.id);
        let accounted = progress.running + progress.pending + progress.failing;
        // An update that finds no room keeps what runs, and says so.
        let waits = progress.leaving > 0 && progress.reason.is_empty();
        let accounted = accounted + progress.leaving;
        if service.removing || waits || accounted < progress.desired {
            let containers: Vec<_> = state.containers_of_service(service.id).collect();
            let (name, spec) = (&service.name, &service.spec);
            return Some(format!(
                "service {name} has not converged: {progress:?} of {spec:?}: {containers:?}"
            ));
        }
    }
    None
}

fn describe(machine: &Machine) -> String {
    let (end, member) = (machine.end.0, machine.member.map_or(0, |member| member.0));
    let mut text = format!("\n  machine {end} (member {member}, {:?})", machine.life);
    let Some(control) = machine.control() else {
        return text;
    };
    let status = control.status();
    let said = [
        (status.is_leader, "leads"),
        (status.serving, "serves"),
        (status.is_joint, "is joint"),
        (status.cut, "is cut"),
        (!status.has_space, "is full"),
    ];
    let said = said.into_iter().filter(|(holds, _)| *holds);
    said.for_each(|(_, word)| text.push_str(&format!(", {word}")));
    let (term, sessions) = (status.term.0, status.sessions);
    let (last, commit, applied) = (
        status.last_index.0,
        status.commit_index.0,
        status.applied_index.0,
    );
    text.push_str(&format!(
        ", follows {:?} in term {term}; {applied} applied, {commit} committed of {last}; {sessions} \
         sessions; {:?}",
        status.leader,
        control.conf_state()
    ));
    for known in control.progress() {
        let (member, state) = (known.member.0, known.state);
        let (matches, next) = (known.match_index.0, known.next_index.0);
        text.push_str(&format!(
            "\n    {member}: {state:?}, {matches} matches, {next} next"
        ));
    }
    let transfers = status.transfers;
    text.push_str(&format!("\n    {transfers:?}"));
    text
}
