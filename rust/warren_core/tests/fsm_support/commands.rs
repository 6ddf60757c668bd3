//! Random commands.

use warren_core::fsm::State;
use warren_core::pb::{self, command::Body};

use super::{Replica, Rng, asking, member, node_id, put_node, spec};

/// Commands that often make sense and as often do not: ids, versions, slots and states from small
/// pools, and now and then no sense at all.
pub struct Commands {
    pub rng: Rng,
}

impl Commands {
    pub fn next(&mut self, replica: &Replica) -> pb::Command {
        let body = self.body(&replica.state);
        let mut command = replica.command(body);
        if self.rng.chance(3) {
            command.entropy = self.bytes(20);
        }
        if self.rng.chance(2) {
            command.body = None;
        }
        if self.rng.chance(30) {
            command.request = Some(self.request());
        }
        command.time_ms = self.rng.below(1 << 40);
        command.level = match self.rng.below(50) {
            0 => 9,
            1..=4 => 2 + u32::from(self.small(3)),
            _ => replica.state.feature_level(),
        };
        command
    }

    fn request(&mut self) -> pb::RequestId {
        let client = if self.rng.chance(5) {
            self.bytes(20)
        } else {
            vec![self.small(3); 16]
        };
        let digest = if self.rng.chance(5) {
            self.bytes(40)
        } else {
            vec![self.small(2); 32]
        };
        pb::RequestId {
            client,
            sequence: self.rng.below(40),
            digest,
        }
    }

    fn small(&mut self, end: u64) -> u8 {
        self.rng.below(end) as u8
    }

    fn bytes(&mut self, length_max: u64) -> Vec<u8> {
        let length = self.rng.below(length_max + 1);
        (0..length).map(|_| self.rng.next() as u8).collect()
    }

    fn body(&mut self, state: &State) -> Body {
        let service_id = self.service(state);
        let node_id = self.node();
        match self.rng.below(32) {
            0 => {
                let cluster_id = if self.rng.chance(80) {
                    vec![7; 16]
                } else {
                    self.bytes(17)
                };
                Body::CreateCluster(pb::CreateCluster {
                    cluster_id,
                    epoch: 1,
                    founder: self.rng.chance(80).then(|| self.member()),
                })
            }
            1 => Body::RaiseFeatureLevel(pb::RaiseFeatureLevel {
                level: self.small(6).into(),
            }),
            2..=4 => Body::CreateService(pb::CreateService { spec: self.spec() }),
            5..=6 => {
                let known = state.services().map(|s| (s.id.to_vec(), s.version));
                let (service_id, version) = known.last().unwrap_or_default();
                let expected_version = version + u64::from(self.small(5) / 4);
                let spec = self.spec();
                Body::UpdateService(pb::UpdateService {
                    service_id,
                    expected_version,
                    spec,
                })
            }
            7 if self.rng.chance(15) => Body::RemoveService(pb::RemoveService { service_id }),
            8 => Body::ForgetService(pb::ForgetService { service_id }),
            9..=10 => self.put_node(),
            11 => {
                let status = if self.rng.chance(70) {
                    1
                } else {
                    self.small(4).into()
                };
                Body::SetNodeStatus(pb::SetNodeStatus { node_id, status })
            }
            12..=15 | 25..=26 => Body::Bind(pb::Bind {
                items: self.many(|s| s.bind_item(state)),
            }),
            16..=17 => {
                let items = self.many(|s| pb::DesiredItem {
                    container_id: s.container(state),
                    desired: s.small(5).into(),
                });
                Body::SetDesired(pb::SetDesired { items })
            }
            20 => Body::SetNodeAvailability(pb::SetNodeAvailability {
                node_id,
                availability: if self.rng.chance(70) {
                    1
                } else {
                    self.small(5).into()
                },
                drain_within_ms: if self.rng.chance(30) {
                    1 + self.rng.below(100_000)
                } else {
                    0
                },
                drain_overdue: self.rng.chance(20),
            }),
            27 => Body::AdmitNode(pb::AdmitNode { node_id }),
            28 if self.rng.chance(40) => Body::RemoveNode(pb::RemoveNode { node_id }),
            29 => self.settings(),
            30 => asking::update_node(&mut self.rng, node_id),
            21 if self.rng.chance(30) => Body::MoveSlots(pb::MoveSlots {
                items: self.many(|s| s.move_item(state)),
            }),
            31 if self.rng.chance(70) => Body::Preempt(pb::Preempt {
                items: self.many(|s| s.preempt_item(state)),
            }),
            18 => Body::PutMember(pb::PutMember {
                member: (!self.rng.chance(2)).then(|| self.member()),
            }),
            19 => Body::RemoveMember(pb::RemoveMember {
                member_id: self.rng.below(12),
            }),
            _ => {
                let items = self.many(|s| s.status_item(state));
                Body::ReportStatus(pb::ReportStatus { node_id, items })
            }
        }
    }

    fn settings(&mut self) -> Body {
        if self.rng.chance(50) {
            return Body::UpdateClusterSettings(pb::UpdateClusterSettings {
                lost_nodes_freeze_percent: self.rng.below(120) as u32,
                node_grace_ms: self.rng.below(20_000) as u32,
                thaw: self.rng.chance(50),
                overcommit_cpu_percent: *self.rng.pick(&[0, 0, 9, 50, 100, 250]),
                overcommit_memory_percent: *self.rng.pick(&[0, 0, 200, 1_001]),
                ..Default::default()
            });
        }
        let freeze = pb::Freeze {
            since_ms: self.rng.next(),
            lost: self.small(5).into(),
            ready_before: self.small(5).into(),
            down_before: self.small(5).into(),
        };
        Body::FreezeReplacement(pb::FreezeReplacement {
            freeze: self.rng.chance(70).then_some(freeze),
        })
    }

    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.rng.below(6)).map(|_| one(self)).collect()
    }

    fn spec(&mut self) -> Option<pb::ServiceSpec> {
        let name = *self.rng.pick(&["a", "b", "c", "d", "Not A Label"]);
        let mut spec = spec(name, self.rng.below(5) as u32, "web");
        let container = spec.container.as_mut().unwrap();
        container.resources = Some(pb::Resources {
            cpu_milli: self.rng.below(3) * 400,
            ..Default::default()
        });
        if self.rng.chance(20) {
            (spec.mode, spec.replicas) = (pb::ServiceMode::Global.into(), 0);
        }
        if self.rng.chance(20) {
            container.partition = self.small(5).into();
            container.partition_stop_after_ms = self.small(4) as u32 * 4_000;
        }
        if self.rng.chance(40) {
            asking::ask(&mut self.rng, &mut spec);
        }
        if self.rng.chance(35) {
            let placement = spec.placement.get_or_insert_default();
            placement.priority = Some(40 * self.rng.below(3) as u32);
            placement.preempt = self.rng.chance(80);
        }
        let container = spec.container.as_mut().unwrap();
        if self.rng.chance(5) {
            container.image_digest = String::from_utf8_lossy(&self.bytes(9)).into_owned();
        }
        if self.rng.chance(5) {
            spec.container = None;
        }
        (!self.rng.chance(2)).then_some(spec)
    }

    /// One of a dozen, whose id and data directory mostly belong together.
    fn member(&mut self) -> pb::Member {
        let id = self.rng.below(12);
        let name = format!("m{id}");
        let mut member = member(id, &name, self.rng.chance(60), self.rng.below(6) as u32);
        if self.rng.chance(10) {
            member.data_dir = vec![self.small(12); 16];
        }
        if self.rng.chance(5) {
            member.data_dir = self.bytes(17);
        }
        if self.rng.chance(10) {
            member.address = "m".repeat(self.rng.below(300) as usize);
        }
        if self.rng.chance(5) {
            member.node_id = self.bytes(17);
        }
        member
    }

    fn put_node(&mut self) -> Body {
        let name = *self.rng.pick(&["n1", "n2", "n3"]);
        let images: &[&str] = if self.rng.chance(90) { &["web"] } else { &[] };
        let mut body = put_node(name, self.rng.below(6) * 500, 64, images);
        if let Body::PutNode(put) = &mut body {
            put.worker = self.rng.chance(95);
            if let Some(description) = put.description.as_mut() {
                asking::describe(&mut self.rng, description);
            }
            if self.rng.chance(3) {
                put.description = None;
            }
            if self.rng.chance(3) {
                put.node_id = self.bytes(17);
            }
        }
        body
    }

    fn node(&mut self) -> Vec<u8> {
        match *self.rng.pick(&["n1", "n2", "n3", ""]) {
            "" => self.bytes(17),
            name => node_id(name).to_vec(),
        }
    }

    fn service(&mut self, state: &State) -> Vec<u8> {
        let known: Vec<_> = state
            .services()
            .map(|service| service.id.to_vec())
            .collect();
        if known.is_empty() || self.rng.chance(5) {
            self.bytes(17)
        } else {
            self.rng.pick(&known).clone()
        }
    }

    fn container(&mut self, state: &State) -> Vec<u8> {
        let known: Vec<_> = state
            .containers()
            .map(|container| container.id.to_vec())
            .collect();
        if known.is_empty() || self.rng.chance(5) {
            self.bytes(17)
        } else {
            self.rng.pick(&known).clone()
        }
    }

    fn bind_item(&mut self, state: &State) -> pb::BindItem {
        let service_id = self.service(state);
        let version = state
            .services()
            .find(|s| s.id.to_vec() == service_id)
            .map(|s| s.version);
        let replaces = if self.rng.chance(40) {
            self.container(state)
        } else {
            Vec::new()
        };
        let node_id = self.node();
        let devices = asking::devices(&mut self.rng, state, &service_id, &node_id);
        pb::BindItem {
            service_id,
            service_version: version.unwrap_or_default() + u64::from(self.rng.chance(5)),
            slot: self.rng.below(6),
            node_id,
            replaces,
            devices,
        }
    }

    fn move_item(&mut self, state: &State) -> pb::MoveItem {
        let container_id = self.container(state);
        let known = state.containers().find(|it| it.id.to_vec() == container_id);
        let of = known.and_then(|it| state.service(it.service));
        pb::MoveItem {
            service_id: of.map_or_else(|| self.service(state), |it| it.id.to_vec()),
            service_version: of.map_or(1, |it| it.version) + u64::from(self.rng.chance(5)),
            container_id,
            slot: self.rng.below(6),
        }
    }

    /// Mostly of containers that the node has.
    fn preempt_item(&mut self, state: &State) -> pb::PreemptItem {
        let mut bind = self.bind_item(state);
        let urgent = state.services().filter(|it| it.rules.preempt);
        let urgent: Vec<_> = urgent.collect();
        if !urgent.is_empty() && self.rng.chance(80) {
            let service = *self.rng.pick(&urgent);
            bind.service_id = service.id.to_vec();
            bind.service_version = service.version;
            let name = *self.rng.pick(&["n1", "n2", "n3"]);
            bind.node_id = node_id(name).to_vec();
            bind.devices = asking::devices(&mut self.rng, state, &bind.service_id, &bind.node_id);
            bind.replaces.clear();
            let mut slots = 1..=u64::from(service.spec.replicas);
            let free = slots.find(|slot| {
                let mut of_slot = state.containers_of_slot(service.id, *slot);
                !of_slot.any(|it| it.occupies()) && self.rng.chance(80)
            });
            bind.slot = free.unwrap_or(bind.slot);
        }
        let service = state
            .services()
            .find(|it| it.id.to_vec() == bind.service_id);
        let priority = service.map_or(0, |it| it.rules.priority);
        let there = state
            .containers()
            .filter(|it| it.node.to_vec() == bind.node_id);
        let lower = there.filter(|it| {
            let of = state
                .service(it.service)
                .map_or(100, |of| of.rules.priority);
            let runs = it.desired == pb::DesiredState::Run && !it.is_terminal();
            (of < priority && runs) || self.rng.chance(5)
        });
        let lower: Vec<_> = lower.map(|it| it.id.to_vec()).collect();
        let mut victims: Vec<_> = match self.rng.below(10) {
            0 => vec![self.container(state)],
            1 => Vec::new(),
            _ => lower.into_iter().filter(|_| self.rng.chance(80)).collect(),
        };
        if self.rng.chance(95) {
            victims.sort_unstable();
        }
        pb::PreemptItem {
            bind: (!self.rng.chance(2)).then_some(bind),
            victims,
        }
    }

    fn status_item(&mut self, state: &State) -> pb::StatusItem {
        let status = pb::ContainerStatus {
            attempt: self.small(4).into(),
            state: self.small(12).into(),
            message: "é".repeat(self.rng.below(800) as usize),
            exited: self.rng.chance(50),
            exit_code: self.small(3).into(),
            removed: self.rng.chance(20),
            ..Default::default()
        };
        let status = (!self.rng.chance(3)).then_some(status);
        pb::StatusItem {
            container_id: self.container(state),
            status,
        }
    }
}
