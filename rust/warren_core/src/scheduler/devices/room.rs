//! What a node has left.

use crate::scheduler::devices::classes::ClassSet;
use crate::scheduler::devices::{DEVICE_MILLI, DEVICES_MAX, DeviceShare, Want};

/// A device of a node. Invariant: `used_milli` ≤ 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub class: u8,
    pub used_milli: u16,
}

impl Device {
    pub fn free_milli(self) -> u16 {
        DEVICE_MILLI - self.used_milli
    }

    fn admitted(self, set: ClassSet) -> bool {
        set >> self.class & 1 == 1
    }
}

/// Capacity and use of a node. What is used may exceed a capacity that shrank; then nothing fits.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Room {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub cpu_used_milli: u64,
    pub memory_used_bytes: u64,
    /// At most [`DEVICES_MAX`].
    pub devices: Vec<Device>,
}

/// A shape with its models resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub want: Want,
    pub admitted: ClassSet,
}

impl Room {
    pub fn cpu_free_milli(&self) -> u64 {
        self.cpu_milli.saturating_sub(self.cpu_used_milli)
    }

    pub fn memory_free_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.memory_used_bytes)
    }

    pub fn devices_free_milli(&self) -> u64 {
        let free = |device: &Device| u64::from(device.free_milli());
        self.devices.iter().map(free).sum()
    }

    pub fn fits(&self, need: &Need) -> bool {
        if need.cpu_milli > self.cpu_free_milli() || need.memory_bytes > self.memory_free_bytes() {
            return false;
        }
        match need.want {
            Want::Nothing => true,
            Want::Share(milli) => self.open(need.admitted, milli).next().is_some(),
            Want::Whole(count) => {
                let count = usize::from(count);
                self.open(need.admitted, DEVICE_MILLI).take(count).count() == count
            }
        }
    }

    /// Numbers of the devices of these classes with so much left, ascending.
    pub fn open(&self, set: ClassSet, milli: u16) -> impl Iterator<Item = usize> {
        let open = move |device: &Device| device.free_milli() >= milli && device.admitted(set);
        let numbered = self.devices.iter().enumerate();
        numbered.filter(move |(_, d)| open(d)).map(|(n, _)| n)
    }

    /// Numbers of the devices that a share could go to, one of each class and free amount: others
    /// would leave the node just the same.
    pub fn choices(&self, set: ClassSet, milli: u16) -> impl Iterator<Item = usize> {
        self.open(set, milli).filter(|&number| {
            let device = self.devices[number];
            !self.devices[..number].contains(&device)
        })
    }

    /// The devices that a need takes; `choice` is the one that a share goes to. Of whole ones it
    /// takes the lowest numbers: on most machines neighbours are connected best.
    pub fn pick(&self, need: &Need, choice: u8) -> Vec<DeviceShare> {
        let share = |device: usize, milli| DeviceShare {
            device: device as u16,
            milli,
        };
        match need.want {
            Want::Nothing => Vec::new(),
            Want::Share(milli) => vec![share(usize::from(choice), milli)],
            Want::Whole(count) => self
                .open(need.admitted, DEVICE_MILLI)
                .take(usize::from(count))
                .map(|device| share(device, DEVICE_MILLI))
                .collect(),
        }
    }

    /// What is wanted of other kinds, by best fit: of whole ones the lowest numbers, a share on the
    /// device with the least left. `None` if it is not there. Kinds have no class in common.
    pub fn pick_beside(&self, wants: &[(Want, ClassSet)]) -> Option<Vec<DeviceShare>> {
        let mut picked = Vec::new();
        for (want, admitted) in wants {
            let before = picked.len();
            let (count, milli) = match want {
                Want::Nothing => continue,
                Want::Whole(count) => (usize::from(*count), DEVICE_MILLI),
                Want::Share(milli) => (1, *milli),
            };
            let mut open: Vec<_> = self.open(*admitted, milli).collect();
            // Stable: of those with as much left the lowest number.
            open.sort_by_key(|number| self.devices[*number].free_milli());
            picked.extend(open.iter().take(count).map(|number| DeviceShare {
                device: *number as u16,
                milli,
            }));
            if picked.len() - before < count {
                return None;
            }
        }
        Some(picked)
    }

    /// Whether the shares can be taken as they are.
    pub fn has(&self, shares: &[DeviceShare]) -> bool {
        shares.iter().enumerate().all(|(n, share)| {
            let device = self.devices.get(usize::from(share.device));
            let once = shares[..n].iter().all(|other| other.device != share.device);
            once && share.milli > 0 && device.is_some_and(|d| d.free_milli() >= share.milli)
        })
    }

    pub fn take(&mut self, cpu_milli: u64, memory_bytes: u64, shares: &[DeviceShare]) {
        self.cpu_used_milli = self.cpu_used_milli.saturating_add(cpu_milli);
        self.memory_used_bytes = self.memory_used_bytes.saturating_add(memory_bytes);
        for share in shares {
            let device = &mut self.devices[usize::from(share.device)];
            device.used_milli += share.milli;
            assert!(
                device.used_milli <= DEVICE_MILLI,
                "a device is given out twice"
            );
        }
    }

    pub fn give_back(&mut self, cpu_milli: u64, memory_bytes: u64, shares: &[DeviceShare]) {
        self.cpu_used_milli = self.cpu_used_milli.saturating_sub(cpu_milli);
        self.memory_used_bytes = self.memory_used_bytes.saturating_sub(memory_bytes);
        for share in shares {
            // A device that the node no longer has went with what was held on it.
            if let Some(device) = self.devices.get_mut(usize::from(share.device)) {
                device.used_milli = device.used_milli.saturating_sub(share.milli);
            }
        }
    }
}

/// What a node has left, in the form that is judged: devices that are used up left out, the others
/// by what they have left. Two nodes with equal views are equally good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    len: usize,
    /// Ascending by amount left.
    devices: [(u16, u8); DEVICES_MAX],
    /// Classes of the devices in it.
    pub classes: ClassSet,
}

impl View {
    pub fn of(room: &Room) -> Self {
        Self::build(room, |_| 0)
    }

    /// As it would be once `need` is there, a share of it on device `choice`, and `beside` is taken.
    pub fn after(room: &Room, need: &Need, choice: usize, beside: &[DeviceShare]) -> Self {
        let mut wanted = match need.want {
            Want::Whole(count) => count,
            _ => 0,
        };
        let beside_milli = |number: usize| {
            let share = beside.iter().find(|it| usize::from(it.device) == number);
            share.map_or(0, |share| share.milli)
        };
        let mut view = Self::build(room, |number| match need.want {
            Want::Share(milli) if number == choice => milli,
            Want::Whole(_) => {
                let device = room.devices[number];
                let taken = wanted > 0
                    && device.free_milli() == DEVICE_MILLI
                    && device.admitted(need.admitted);
                wanted -= u16::from(taken);
                if taken {
                    DEVICE_MILLI
                } else {
                    beside_milli(number)
                }
            }
            _ => beside_milli(number),
        });
        view.cpu_milli -= need.cpu_milli;
        view.memory_bytes -= need.memory_bytes;
        view
    }

    fn build(room: &Room, mut taken_milli: impl FnMut(usize) -> u16) -> Self {
        let mut view = Self {
            cpu_milli: room.cpu_free_milli(),
            memory_bytes: room.memory_free_bytes(),
            len: 0,
            devices: [(0, 0); DEVICES_MAX],
            classes: 0,
        };
        for (number, device) in room.devices.iter().enumerate() {
            let free = device.free_milli() - taken_milli(number);
            if free == 0 {
                continue;
            }
            view.classes |= 1 << device.class;
            let mut at = view.len;
            while at > 0 && view.devices[at - 1] > (free, device.class) {
                view.devices[at] = view.devices[at - 1];
                at -= 1;
            }
            view.devices[at] = (free, device.class);
            view.len += 1;
        }
        view
    }

    /// What is left on each device of these classes that has at least `milli`, ascending.
    pub fn open(&self, set: ClassSet, milli: u16) -> impl Iterator<Item = u16> {
        let devices = &self.devices[..self.len];
        let from = devices.partition_point(|(free, _)| *free < milli);
        let admitted = move |class: u8| set >> class & 1 == 1;
        devices[from..]
            .iter()
            .filter(move |d| admitted(d.1))
            .map(|d| d.0)
    }
}
