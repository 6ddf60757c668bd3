//! Reads: one question to consensus for all that wait, then each on its way to a reader thread.

use prost::Message as _;

use super::super::Outputs;
use super::super::access::Method;
use super::super::calls::Calls;
use super::super::reads::{LeaderView, ReadJob};
use super::{Member, Read};
use crate::pb;

impl Member {
    /// One question for all reads that wait: what it finds holds for each of them.
    pub(super) fn ask_reads(&mut self) {
        if self.unasked.is_empty() || !self.leading {
            return;
        }
        self.read_context += 1;
        self.asked
            .insert(self.read_context, std::mem::take(&mut self.unasked));
        self.raft.read_index(self.read_context);
    }

    pub(super) fn answer_released(&mut self, out: &mut Outputs, calls: &mut Calls) {
        while let Some(entry) = self.released.first_entry() {
            if *entry.key() > self.applied.index {
                return;
            }
            for Read(method, call) in entry.remove() {
                // From here on a reader thread answers it, deadline or not.
                if calls.close(call.id) {
                    let view = self.view(method, &call.body);
                    let (id, body, state) = (call.id, call.body, self.state.clone());
                    out.reads.push(ReadJob {
                        id,
                        method,
                        body,
                        state,
                        view,
                    });
                }
            }
        }
    }

    fn view(&self, method: Method, body: &[u8]) -> LeaderView {
        let raft = self.raft.status();
        let pending = match method {
            Method::ListSlots => pb::ListSlotsRequest::decode(body)
                .ok()
                .and_then(|request| self.state.resolve_service(&request.r#ref).ok())
                .map(|service| self.orchestrator.pending(service).to_vec())
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        LeaderView {
            node: self.config.node,
            leader: self.config.node,
            term: raft.term,
            last_index: raft.last.index,
            applied_index: self.applied.index,
            pending,
        }
    }
}
