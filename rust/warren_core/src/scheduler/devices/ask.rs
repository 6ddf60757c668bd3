//! What is asked and what is given.

use crate::error::Error;
use crate::ids::NodeId;

/// A whole device, in the unit in which devices are shared.
pub const DEVICE_MILLI: u16 = 1000;
/// Devices of one node, and so the most that one container may ask for.
pub const DEVICES_MAX: usize = 32;
/// Models that an ask may name.
pub const MODELS_MAX: usize = 32;

/// How much of devices a container asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// None: the container takes CPU and memory of a node that may have devices.
    Nothing,
    /// So many devices, each for itself alone; 1 to [`DEVICES_MAX`].
    Whole(u16),
    /// A part of one device, in 1/1000 of it; 1 to 999.
    Share(u16),
}

impl Want {
    /// Capacity that it takes, in 1/1000 of a device.
    pub fn milli(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Whole(count) => u64::from(count) * u64::from(DEVICE_MILLI),
            Self::Share(milli) => u64::from(milli),
        }
    }
}

/// The shape of a container as far as devices go. Equal shapes share what was computed for one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceAsk {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub want: Want,
    /// For example `gpu`.
    pub kind: String,
    /// Only devices of one of these models; of any model if there are none.
    pub models: Vec<String>,
    /// Of other kinds, each kind once. They are had by best fit, where the first is had best.
    pub beside: Vec<DeviceWant>,
}

/// Devices of one more kind that a container asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceWant {
    pub kind: String,
    pub want: Want,
    pub models: Vec<String>,
}

impl Want {
    fn check(self) -> Result<(), Error> {
        match self {
            Self::Whole(count) if count == 0 || usize::from(count) > DEVICES_MAX => {
                invalid(format!("{count} devices; ask for 1 to {DEVICES_MAX}"))
            }
            Self::Share(milli) if milli == 0 || milli >= DEVICE_MILLI => invalid(format!(
                "a share of {milli}/1000; ask for 1 to 999, or for whole devices"
            )),
            _ => Ok(()),
        }
    }
}

fn invalid(why: String) -> Result<(), Error> {
    Err(Error::Invalid {
        what: "device",
        why,
    })
}

fn check_models(models: &[String]) -> Result<(), Error> {
    match models.len() {
        count if count > MODELS_MAX => {
            invalid(format!("{count} models; name at most {MODELS_MAX}"))
        }
        _ => Ok(()),
    }
}

impl DeviceAsk {
    /// In the one form that equal asks have in common: models in order, each once, and neither
    /// kind nor models where no device is wanted. [`Error::Invalid`] if an amount is out of range.
    pub(super) fn canonical(&self) -> Result<Self, Error> {
        self.want.check()?;
        check_models(&self.models)?;
        for beside in &self.beside {
            beside.want.check()?;
            check_models(&beside.models)?;
        }
        let mut ask = self.clone();
        if ask.want == Want::Nothing {
            ask.kind.clear();
            ask.models.clear();
        }
        ask.models.sort_unstable();
        ask.models.dedup();
        ask.beside.retain(|beside| beside.want != Want::Nothing);
        for beside in &mut ask.beside {
            beside.models.sort_unstable();
            beside.models.dedup();
        }
        ask.beside.sort_unstable();
        Ok(ask)
    }
}

/// A node as it is without containers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DeviceNode {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    /// Kind and model of each, by the number that the node gives it: `("gpu", "T4")`. A device
    /// keeps its number for as long as anything holds it.
    pub devices: Vec<(String, String)>,
}

/// Part of one device, or all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceShare {
    /// The device's number on its node.
    pub device: u16,
    /// 1 to 1000.
    pub milli: u16,
}

/// What a container holds, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceGrant {
    pub node: NodeId,
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub devices: Vec<DeviceShare>,
}
