//! What containers hold of their node one by one, rather than as an amount: host ports, volumes, and
//! devices or shares of them. Held from bind until a terminal state, like resources.

use imbl::OrdMap;

use crate::error::{Error, Result};
use crate::fsm::apply::invalid;
use crate::fsm::asked::DEVICE_MILLI;
use crate::fsm::holds::Hold;
use crate::fsm::objects::{Container, Node, Service};
use crate::fsm::refusals::{Filter, Refusal};
use crate::fsm::state::{NodeRow, State};
use crate::fsm::volumes;
use crate::ids::{NodeId, ServiceId};
use crate::pb;

/// What is claimed on a node. Invariants: no port is claimed twice, of no device more than all of it,
/// and no volume by others than who wants it alone; what nobody holds is not listed.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    /// By number and protocol, how many containers claim it: one.
    ports: OrdMap<(u32, i32), u32>,
    /// By kind and number, in thousandths.
    devices: OrdMap<(String, u32), u32>,
    /// By name, how many containers mount it.
    volumes: OrdMap<String, u32>,
    /// Those of them that one container wants alone: how many do.
    exclusive: OrdMap<String, u32>,
}

impl Claims {
    pub fn take(&mut self, spec: Option<&pb::ContainerSpec>, devices: &[pb::DeviceShare]) {
        for port in spec.into_iter().flat_map(|spec| &spec.host_ports) {
            *self.ports.entry((port.port, port.protocol)).or_insert(0) += 1;
        }
        for mount in volumes::mounted(spec) {
            *self.volumes.entry(mount.source.clone()).or_insert(0) += 1;
            if mount.exclusive {
                *self.exclusive.entry(mount.source.clone()).or_insert(0) += 1;
            }
        }
        for share in devices {
            let device = (share.kind.clone(), share.number);
            *self.devices.entry(device).or_insert(0) += share.milli;
        }
    }

    pub fn give(&mut self, spec: Option<&pb::ContainerSpec>, devices: &[pb::DeviceShare]) {
        for port in spec.into_iter().flat_map(|spec| &spec.host_ports) {
            take_off(&mut self.ports, (port.port, port.protocol), 1);
        }
        for mount in volumes::mounted(spec) {
            take_off(&mut self.volumes, mount.source.clone(), 1);
            if mount.exclusive {
                take_off(&mut self.exclusive, mount.source.clone(), 1);
            }
        }
        for share in devices {
            take_off(
                &mut self.devices,
                (share.kind.clone(), share.number),
                share.milli,
            );
        }
    }

    /// The first port that is taken.
    fn taken(&self, ports: &[pb::HostPort]) -> Option<pb::HostPort> {
        let held = |port: &&pb::HostPort| self.ports.contains_key(&(port.port, port.protocol));
        ports.iter().find(held).copied()
    }

    /// The first volume that cannot be shared with who uses it.
    fn used<'a>(&self, spec: &'a pb::ContainerSpec) -> Option<&'a pb::Mount> {
        volumes::mounted(Some(spec)).find(|mount| self.is_used(mount))
    }

    fn is_used(&self, mount: &pb::Mount) -> bool {
        let name = &mount.source;
        self.exclusive.contains_key(name) || (mount.exclusive && self.volumes.contains_key(name))
    }

    /// Thousandths of a device that nobody holds.
    fn free_milli(&self, kind: &str, number: u32) -> u32 {
        let held = self.devices.get(&(kind.to_owned(), number)).copied();
        DEVICE_MILLI.saturating_sub(held.unwrap_or_default())
    }

    /// Refuses what is taken, and devices that are not those that the service asks for.
    pub fn judge(&self, service: &Service, node: &Node, devices: &[pb::DeviceShare]) -> Result<()> {
        let spec = service.container_spec();
        if self.taken(&spec.host_ports).is_some() {
            return Err(Error::NodeNotEligible {
                why: "a host port that is asked for is taken there",
            });
        }
        if self.used(spec).is_some() {
            return Err(Error::NodeNotEligible {
                why: "a volume that is asked for is used there",
            });
        }
        let asked = |share: &pb::DeviceShare| spec.devices.iter().any(|ask| ask.kind == share.kind);
        if !devices.iter().all(asked) {
            return Err(invalid("device", "the service does not ask for it"));
        }
        spec.devices.iter().try_for_each(|ask| {
            let of_kind = devices.iter().filter(|share| share.kind == ask.kind);
            self.judge_kind(ask, node, &of_kind.collect::<Vec<_>>())
        })
    }

    fn judge_kind(
        &self,
        ask: &pb::DeviceAsk,
        node: &Node,
        shares: &[&pb::DeviceShare],
    ) -> Result<()> {
        let each = ask.milli.min(DEVICE_MILLI);
        let distinct = |share: &pb::DeviceShare| {
            let same = shares.iter().filter(|other| other.number == share.number);
            same.count() == 1
        };
        let fits = |share: &&pb::DeviceShare| share.milli == each && distinct(share);
        if shares.len() != (ask.milli / each) as usize || !shares.iter().all(fits) {
            return Err(invalid("device", "these are not what the service asks for"));
        }
        let suits = |share: &&pb::DeviceShare| suits(ask, node, share.number);
        if !shares.iter().all(suits) {
            return Err(Error::NodeNotEligible {
                why: "it has no such device",
            });
        }
        if shares
            .iter()
            .any(|share| self.free_milli(&ask.kind, share.number) < each)
        {
            return Err(Error::NoCapacity);
        }
        Ok(())
    }

    /// Why what the service claims is not there.
    fn refusal(&self, service: &Service, node: &Node) -> Option<String> {
        let spec = service.container_spec();
        let port = self.taken(&spec.host_ports).map(port_taken);
        let volume = || self.used(spec).map(|mount| volume_used(&mount.source));
        let devices = || self.choose(&spec.devices, node).err();
        port.or_else(volume).or_else(devices)
    }

    /// The devices for one container, or why there are none: whole ones by number, a share where the
    /// least is left after it.
    fn choose(&self, asks: &[pb::DeviceAsk], node: &Node) -> Result<Vec<pb::DeviceShare>, String> {
        let mut chosen = Vec::new();
        for ask in asks {
            let each = ask.milli.min(DEVICE_MILLI);
            let count = (ask.milli / each) as usize;
            let all = (0..device_count(node, &ask.kind)).filter(|number| suits(ask, node, *number));
            let mut free: Vec<(u32, u32)> = all
                .map(|number| (self.free_milli(&ask.kind, number), number))
                .filter(|(free_milli, _)| *free_milli >= each)
                .collect();
            if free.len() < count {
                return Err(devices_missing(ask, free.len()));
            }
            free.sort_unstable();
            chosen.extend(free[..count].iter().map(|(_, number)| pb::DeviceShare {
                kind: ask.kind.clone(),
                number: *number,
                milli: each,
            }));
        }
        Ok(chosen)
    }
}

/// Whether containers that run it hold more of their nodes than amounts.
pub fn claims(spec: &pb::ContainerSpec) -> bool {
    claims_by_name(spec) || !spec.devices.is_empty()
}

/// Whether what they hold beside devices stands in the spec alone.
pub(super) fn claims_by_name(spec: &pb::ContainerSpec) -> bool {
    !spec.host_ports.is_empty() || volumes::mounted(Some(spec)).next().is_some()
}

fn take_off<K: Ord + Clone>(held: &mut OrdMap<K, u32>, key: K, amount: u32) {
    let left = held.get(&key).copied().unwrap_or_default();
    match left.saturating_sub(amount) {
        0 => drop(held.remove(&key)),
        left => drop(held.insert(key, left)),
    }
}

fn device_count(node: &Node, kind: &str) -> u32 {
    let rows = node.description.devices.iter();
    rows.filter(|row| row.kind == kind)
        .map(|row| row.count)
        .sum()
}

/// The model of the device, if the node has one of that number.
fn model<'a>(node: &'a Node, kind: &str, number: u32) -> Option<&'a str> {
    let mut before = 0;
    let rows = node.description.devices.iter();
    for row in rows.filter(|row| row.kind == kind) {
        before += row.count;
        if number < before {
            return Some(&row.model);
        }
    }
    None
}

fn suits(ask: &pb::DeviceAsk, node: &Node, number: u32) -> bool {
    let of = model(node, &ask.kind, number);
    of.is_some_and(|of| ask.models.is_empty() || ask.models.iter().any(|model| model == of))
}

/// Why that many are not enough; reads like "2 gpu asked, 1 free", "0.5 gpu of A100 or V100 asked, no
/// device has so much free".
pub fn devices_missing(ask: &pb::DeviceAsk, free: usize) -> String {
    let of = match &ask.models[..] {
        [] => String::new(),
        models => format!(" of {}", models.join(" or ")),
    };
    match ask.milli / DEVICE_MILLI {
        0 => {
            let share = format!("0.{:03}", ask.milli);
            let share = share.trim_end_matches('0');
            format!("{share} {}{of} asked, no device has so much free", ask.kind)
        }
        whole => format!("{whole} {}{of} asked, {free} free", ask.kind),
    }
}

fn port_taken(port: pb::HostPort) -> String {
    format!("host port {} is taken", port_text(port))
}

fn volume_used(name: &str) -> String {
    format!("volume {name} is used by another container")
}

/// As people write it.
fn port_text(port: pb::HostPort) -> String {
    let udp = port.protocol() == pb::PortProtocol::Udp;
    format!("{}/{}", port.port, if udp { "udp" } else { "tcp" })
}

impl State {
    /// Why no container of the service can go to the node as it is now, whatever room there is: the
    /// rules of its placement that concern the node alone, taken ports, missing devices. `None` if
    /// nothing speaks against it.
    pub fn refusal(&self, service: &Service, node: &Node) -> Option<String> {
        let refusal = service.rules.refusal(node);
        refusal.or_else(|| self.claims_refusal(service, node.id))
    }

    /// What is claimed on the node, also by what was given up with it and may still run there: `apply`
    /// has given that back, and nothing is to be placed beside it before its worker has stopped it.
    fn in_use(&self, row: &NodeRow, but: Option<(ServiceId, u64)>) -> Claims {
        let mut claims = self.claimed(row, but);
        for container in row.lost_containers() {
            let spec = self.spec(&container.spec_digest).map(|spec| &**spec);
            claims.take(spec, container.devices());
        }
        claims
    }

    /// [`State::refusal`] for the successor of a container on its node, which gives back what it holds.
    pub fn refusal_of_successor(
        &self,
        service: &Service,
        node: &Node,
        outgoing: &Container,
    ) -> Option<String> {
        let refusal = || {
            let row = self.node_row(node.id)?;
            let mut claims = self.in_use(row, None);
            if !outgoing.is_terminal() {
                let spec = self.spec(&outgoing.spec_digest).map(|spec| &**spec);
                claims.give(spec, outgoing.devices());
            }
            claims.refusal(service, node)
        };
        service.rules.refusal(node).or_else(refusal)
    }

    /// Whether the slot that room is kept for may still go to its node, with the devices that are
    /// kept. `left`: victims are still there, and with them what they claim.
    pub fn may_be_kept(&self, service: &Service, node: &Node, hold: &Hold, left: bool) -> bool {
        let asks = &service.container_spec().devices;
        let is_there = |share: &pb::DeviceShare| {
            let ask = asks.iter().find(|ask| ask.kind == share.kind);
            ask.is_some_and(|ask| suits(ask, node, share.number))
        };
        let free = || {
            let row = self.node_row(node.id)?;
            let claims = self.in_use(row, Some((hold.service, hold.slot)));
            claims.judge(service, node, &hold.devices).ok()
        };
        service.rules.refusal(node).is_none()
            && hold.devices.iter().all(is_there)
            && (left || free().is_some())
    }

    fn claims_refusal(&self, service: &Service, node: NodeId) -> Option<String> {
        if !claims(service.container_spec()) {
            return None;
        }
        let row = self.node_row(node)?;
        self.in_use(row, None).refusal(service, &row.node)
    }

    /// Every port that is taken, and every kind of device that is missing.
    pub(super) fn claims_refusals(&self, service: &Service, node: &Node) -> Vec<Refusal> {
        let spec = service.container_spec();
        let Some(row) = self.node_row(node.id) else {
            return Vec::new();
        };
        let claims = self.in_use(row, None);
        let taken = spec.host_ports.iter().filter_map(|port| {
            let port = claims.taken(std::slice::from_ref(port))?;
            Some(Refusal::plain(Filter::Port, port_taken(port)))
        });
        let used = volumes::mounted(Some(spec)).filter(|mount| claims.is_used(mount));
        let used = used.map(|it| Refusal::plain(Filter::Volume, volume_used(&it.source)));
        let missing = spec.devices.iter().filter_map(|ask| {
            let why = claims.choose(std::slice::from_ref(ask), node).err()?;
            let what = format!("not enough devices: {}", ask.kind);
            let filter = Filter::Device;
            Some(Refusal { filter, what, why })
        });
        taken.chain(used).chain(missing).collect()
    }

    /// Devices of the node for one container of the service, none where it asks for none. `None` if
    /// they are not there.
    pub fn choose_devices(&self, service: &Service, node: NodeId) -> Option<Vec<pb::DeviceShare>> {
        let asks = &service.container_spec().devices;
        if asks.is_empty() {
            return Some(Vec::new());
        }
        let row = self.node_row(node)?;
        self.in_use(row, None).choose(asks, &row.node).ok()
    }

    /// Thousandths that are held of each device of the node, by kind and number: first by containers,
    /// then what is kept for those that preempt, then what those hold that were given up with it.
    pub fn device_claims(&self, node: NodeId) -> impl Iterator<Item = (&str, u32, u32)> {
        let row = self.node_row(node).into_iter();
        row.flat_map(|row| {
            let held = row.claims.devices.iter();
            let held = held.map(|((kind, number), milli)| (kind.as_str(), *number, *milli));
            let kept = row.node.holds.iter().flat_map(|hold| &hold.devices);
            let lost = row.lost_containers().flat_map(Container::devices);
            let shares = kept.chain(lost);
            held.chain(shares.map(|share| (share.kind.as_str(), share.number, share.milli)))
        })
    }

    /// Volumes that are mounted on the node, by name: by how many containers, and by how many that want
    /// it alone.
    pub fn volume_claims(&self, node: NodeId) -> impl Iterator<Item = (&str, u32, u32)> {
        let row = self.node_row(node).into_iter();
        row.flat_map(|row| {
            let alone = |name: &str| row.claims.exclusive.get(name).copied().unwrap_or_default();
            let used = row.claims.volumes.iter();
            used.map(move |(name, count)| (name.as_str(), *count, alone(name)))
        })
    }

    /// Host ports that are claimed on the node, by number and protocol.
    pub fn port_claims(&self, node: NodeId) -> impl Iterator<Item = pb::HostPort> {
        let row = self.node_row(node).into_iter();
        row.flat_map(|row| {
            let held = row.claims.ports.keys();
            held.map(|(port, protocol)| pb::HostPort {
                port: *port,
                protocol: *protocol,
            })
        })
    }
}
