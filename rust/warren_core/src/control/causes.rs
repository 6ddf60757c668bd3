//! Which request changed each service last, so that a worker's log names it too.
//!
//! No part of the state: it is learnt from the entries that are applied, by every member, and what
//! lies before the snapshot that a member began with is not known to it.

use std::collections::BTreeMap;

use crate::fsm::Event;
use crate::ids::ServiceId;
use crate::pb;

/// Invariant: it names services that there are, so that it is bounded as they are.
#[derive(Default)]
pub struct Causes {
    requests: BTreeMap<ServiceId, ([u8; 16], u64)>,
}

impl Causes {
    /// What an entry that somebody asked for has changed.
    pub fn applied(&mut self, request: Option<&pb::RequestId>, events: &[Event]) {
        for event in events {
            match (event, request) {
                (Event::Service { id, gone: true }, _) => {
                    self.requests.remove(id);
                }
                (Event::Service { id, gone: false }, Some(request)) => {
                    if let Ok(client) = request.client[..].try_into() {
                        self.requests.insert(*id, (client, request.sequence));
                    }
                }
                _ => {}
            }
        }
    }

    /// The state is another one.
    pub fn retain(&mut self, exists: impl Fn(ServiceId) -> bool) {
        self.requests.retain(|id, _| exists(*id));
    }

    /// Without its digest; `None` where it is not known.
    pub fn of(&self, service: ServiceId) -> Option<pb::RequestId> {
        let (client, sequence) = self.requests.get(&service)?;
        Some(pb::RequestId {
            client: client.to_vec(),
            sequence: *sequence,
            digest: Vec::new(),
        })
    }
}

/// As `warrenctl` and the daemons write it.
pub fn name_of(request: &pb::RequestId) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(48);
    for byte in &request.client {
        // Rendering into a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    let _ = write!(name, "-{}", request.sequence);
    name
}
