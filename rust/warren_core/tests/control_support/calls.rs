//! What clients, workers and other members say to the machines, and what they are answered.

use prost::Message;
use warren_core::control::peer::frame::{self, Header, Kind};
use warren_core::control::{Call, CallId, Consistency, Input};
use warren_core::pb;
use warren_core::raft::Lane;

use super::{Answer, Cluster, TIMEOUT_MS};

impl Cluster {
    /// A frame as `from` would send it.
    pub fn frame(&self, from: u64, to: u64, kind: Kind, body: &impl Message) -> Vec<u8> {
        let identity = self.hosts[&from].identity.expect("it is a member");
        let header = Header::of(&identity, self.member(to), 1, Lane::Bulk, kind);
        frame::encode(&header, body)
    }

    /// A frame in which `from` says that its state at `index` is like no other.
    pub fn contradiction(&self, from: u64, to: u64, index: u64) -> Vec<u8> {
        let hash = vec![0; 16];
        let body = pb::PeerStateHash { index, hash };
        self.frame(from, to, Kind::StateHash, &body)
    }

    /// Puts a frame on its way as if `from` had sent it.
    pub fn inject(&mut self, to: u64, bytes: Vec<u8>) {
        self.step(to, vec![Input::Frame(bytes)]);
    }

    /// Starts a call; its number.
    pub fn start_call(&mut self, number: u64, method: &str, request: &impl Message) -> u64 {
        self.start_call_as(number, method, request, Consistency::Linearizable)
    }

    pub fn start_call_as(
        &mut self,
        number: u64,
        method: &str,
        request: &impl Message,
        consistency: Consistency,
    ) -> u64 {
        let call = self.new_call(method, request, consistency);
        self.put_call(number, call)
    }

    pub(super) fn put_call(&mut self, number: u64, call: Call) -> u64 {
        let id = call.id.0;
        self.step(number, vec![Input::Call(call)]);
        id
    }

    pub(super) fn new_call(
        &mut self,
        method: &str,
        request: &impl Message,
        consistency: Consistency,
    ) -> Call {
        let id = self.next_call;
        self.next_call += 1;
        Call {
            id: CallId(id),
            identity: "local".into(),
            method: method.into(),
            body: request.encode_to_vec(),
            deadline_mono_ms: self.now_ms + TIMEOUT_MS,
            consistency,
        }
    }

    /// Says something in the session that was welcomed last; the number of the call.
    pub fn say(&mut self, number: u64, body: pb::worker_message::Body) -> u64 {
        let welcomed = |item: &Vec<u8>| match pb::ManagerMessage::decode(&item[..]).ok()?.body? {
            pb::manager_message::Body::Welcome(welcome) => Some(welcome.session_id),
            _ => None,
        };
        let session = self.hosts[&number].items.iter().rev().find_map(welcomed);
        let message = pb::WorkerMessage { body: Some(body) }.encode_to_vec();
        let mut call = self.new_call("SessionMessage", &(), Consistency::Linearizable);
        call.body = [session.expect("it was welcomed"), message].concat();
        self.put_call(number, call)
    }

    pub fn answer(&self, number: u64, id: u64) -> Option<&Answer> {
        self.hosts[&number].answers.get(&id)
    }

    pub fn finish(&mut self, number: u64, id: u64) -> Answer {
        let answered = |cluster: &Self| cluster.answer(number, id).is_some();
        self.until("an answer", 2 * TIMEOUT_MS, answered);
        self.answer(number, id).unwrap().clone()
    }

    pub fn call(&mut self, number: u64, method: &str, request: &impl Message) -> Answer {
        let id = self.start_call(number, method, request);
        self.finish(number, id)
    }

    pub fn input(&mut self, number: u64, input: Input) {
        self.step(number, vec![input]);
    }
}

/// A service without replicas: any number of them fits.
pub fn create(name: &str, sequence: u64) -> pb::CreateServiceRequest {
    pb::CreateServiceRequest {
        request: Some(pb::RequestId {
            client: vec![7; 16],
            sequence,
            digest: Vec::new(),
        }),
        spec: Some(pb::ServiceSpec {
            name: name.into(),
            mode: pb::ServiceMode::Replicated.into(),
            container: Some(pb::ContainerSpec {
                image: "app".into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
    }
}
