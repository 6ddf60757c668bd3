//! Kinds and models of devices as small numbers, and sets of them as bits.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::scheduler::devices::Want;

/// Pairs of kind and model in one cluster.
pub(super) const CLASSES_MAX: usize = 128;

/// A set of classes, a bit each.
pub(super) type ClassSet = u128;

/// Every pair of kind and model that a node has had. Invariant: numbers are dense and never reused.
#[derive(Debug, Default)]
pub(super) struct Classes {
    known: BTreeMap<(String, String), u8>,
}

impl Classes {
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// The number of a pair, a new one if there is none yet; [`Error::Invalid`] once there are
    /// [`CLASSES_MAX`].
    pub fn intern(&mut self, pair: &(String, String)) -> Result<u8, Error> {
        if let Some(class) = self.known.get(pair) {
            return Ok(*class);
        }
        if self.known.len() == CLASSES_MAX {
            return Err(Error::Invalid {
                what: "device",
                why: format!("the cluster has {CLASSES_MAX} models of devices, the most it can"),
            });
        }
        let class = self.known.len() as u8;
        self.known.insert(pair.clone(), class);
        Ok(class)
    }

    /// The classes that who wants `want` admits, of those known so far; `models` in order.
    pub fn admitted(&self, want: Want, kind: &str, models: &[String]) -> ClassSet {
        if want == Want::Nothing {
            return 0;
        }
        let admits = |(known, model): &(String, String)| {
            known == kind && (models.is_empty() || models.binary_search(model).is_ok())
        };
        let admitted = self.known.iter().filter(|(pair, _)| admits(pair));
        admitted.fold(0, |set, (_, class)| set | 1 << class)
    }
}
