//! The state as bytes, and back.
//!
//! A snapshot is a header frame, chunk frames and a trailer frame; each frame is the length of
//! its body (u32 LE), the CRC-32C of the body (u32 LE), and the body. The form is canonical:
//! equal states, however they came about, give equal bytes. Derived data is not in it. What an
//! object names stands before it; containers stand by id, and are refused otherwise. The trailer carries the state's hash, so that a state that was
//! read is known to be the one that was written.
//!
//! Writer and reader hold one chunk at a time, and the reader takes its bytes as they come. What
//! finds a container by id, node or service is built when all are there (`containers`).
//!
//! A request in the window stands as it is; the floor of a client (see `requests`) stands as a
//! request without digest, whose sequence is the floor.

mod containers;
mod read;

use prost::Message;
use thiserror::Error as ThisError;

use crate::fsm::state::State;
use crate::fsm::wire;
use crate::mutant::{self, Mutant};
use crate::pb;

pub use read::{Reader, read, read_as};

/// The format that this release writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// Largest body of a frame.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// A chunk is written out once its objects have this size. The largest object is a node's
/// description, so that a chunk stays below [`FRAME_BYTES_MAX`].
const CHUNK_BYTES_TARGET: usize = FRAME_BYTES_MAX / 2;

const FRAME_HEADER_BYTES: usize = 8;

/// Why a snapshot could not be read.
#[derive(Debug, ThisError)]
pub enum ReadError {
    #[error("cannot read the snapshot: {0}")]
    Io(#[from] std::io::Error),
    #[error("damaged at byte {offset}: {why}")]
    Damaged { offset: u64, why: String },
    #[error("format {0} is unknown to this release; upgrade it")]
    UnknownFormat(u32),
    #[error("it is of feature level {0}, which this release does not know; upgrade it")]
    UnknownLevel(u32),
}

/// The header of a snapshot of `state`. `conf_state` is the consensus layer's, opaque here.
pub fn header(state: &State, conf_state: Vec<u8>) -> pb::SnapshotHeader {
    let cluster = state.cluster();
    let skewed = u64::from(mutant::is_on(Mutant::SnapshotIndexBehindState));
    pb::SnapshotHeader {
        format: FORMAT,
        cluster_id: cluster
            .map(|cluster| cluster.id.to_vec())
            .unwrap_or_default(),
        epoch: cluster.map_or(0, |cluster| cluster.epoch),
        index: state.index().0.saturating_sub(skewed),
        term: state.term().0,
        conf_state,
        feature_level: state.feature_level(),
    }
}

/// Writes the state, one frame (≤ 1 MiB and its 8-byte head) per call of `sink`.
pub fn write<E>(
    state: &State,
    header: &pb::SnapshotHeader,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    sink(&frame(header))?;
    let mut writer = Writer::new(sink);
    wire::put_number(field::TIME_MS, state.time_ms(), &mut writer.chunk);
    if let Some(cluster) = state.cluster() {
        let bytes = pb::Cluster::from(cluster).encode_to_vec();
        wire::put_bytes(field::CLUSTER, &bytes, &mut writer.chunk);
    }
    for id in state.members.removed() {
        wire::put_varint(id.0, &mut writer.object);
    }
    wire::put_bytes(field::REMOVED_MEMBERS, &writer.object, &mut writer.chunk);
    for id in state.removed_nodes.iter() {
        wire::put_bytes(field::REMOVED_NODES, &id.0, &mut writer.chunk);
    }
    for member in state.members() {
        writer.put(field::MEMBERS, &pb::Member::from(member))?;
    }
    for (digest, spec) in state.specs() {
        let spec = pb::SnapshotSpec {
            digest: digest.0.to_vec(),
            spec: Some((**spec).clone()),
        };
        writer.put(field::SPECS, &spec)?;
    }
    for service in state.services() {
        writer.put(field::SERVICES, &pb::Service::from(service))?;
    }
    for node in state.nodes() {
        writer.put(field::NODES, &pb::Node::from(node))?;
    }
    for container in state.containers() {
        writer.object.clear();
        wire::container(container, &mut writer.object);
        writer.put_object(field::CONTAINERS)?;
    }
    for request in requests(state) {
        writer.put(field::REQUESTS, &request)?;
    }
    writer.flush()?;
    let trailer = pb::SnapshotTrailer {
        chunks: writer.chunks,
        objects: writer.objects,
        state_hash: state.hash().to_bytes().to_vec(),
    };
    sink(&frame(&trailer))
}

/// Field numbers of `SnapshotChunk`.
mod field {
    pub const CLUSTER: u64 = 1;
    pub const SERVICES: u64 = 2;
    pub const NODES: u64 = 3;
    pub const CONTAINERS: u64 = 4;
    pub const REQUESTS: u64 = 5;
    pub const SPECS: u64 = 6;
    pub const TIME_MS: u64 = 7;
    pub const MEMBERS: u64 = 8;
    pub const REMOVED_MEMBERS: u64 = 9;
    pub const REMOVED_NODES: u64 = 10;
}

fn requests(state: &State) -> impl Iterator<Item = pb::SnapshotRequest> {
    let answers = state.requests.answers().map(|(client, sequence, known)| {
        let digest = known.digest.to_vec();
        let (response, refused) = match &known.answer {
            Ok(response) => (response.clone(), false),
            Err((code, message)) => {
                let error = pb::Error {
                    code: (*code).to_owned(),
                    message: message.clone(),
                    ..Default::default()
                };
                (error.encode_to_vec(), true)
            }
        };
        pb::SnapshotRequest {
            request: Some(pb::RequestId {
                client: client.to_vec(),
                sequence,
                digest,
            }),
            index: known.index.0,
            response,
            refused,
        }
    });
    let floors = state
        .requests
        .floors()
        .map(|(client, sequence, index)| pb::SnapshotRequest {
            request: Some(pb::RequestId {
                client: client.to_vec(),
                sequence,
                digest: Vec::new(),
            }),
            index: index.0,
            response: Vec::new(),
            refused: false,
        });
    answers.chain(floors)
}

/// Puts objects into a chunk until it is full; a chunk is the frame that goes out, its head left
/// empty until then.
struct Writer<'a, E> {
    sink: &'a mut dyn FnMut(&[u8]) -> Result<(), E>,
    chunk: Vec<u8>,
    /// The encoded object on its way into the chunk.
    object: Vec<u8>,
    chunks: u64,
    objects: u64,
}

impl<'a, E> Writer<'a, E> {
    fn new(sink: &'a mut dyn FnMut(&[u8]) -> Result<(), E>) -> Self {
        Self {
            sink,
            chunk: vec![0; FRAME_HEADER_BYTES],
            object: Vec::new(),
            chunks: 0,
            objects: 0,
        }
    }

    fn put(&mut self, field: u64, object: &impl Message) -> Result<(), E> {
        self.object.clear();
        object.encode(&mut self.object).expect("a vector grows");
        self.put_object(field)
    }

    fn put_object(&mut self, field: u64) -> Result<(), E> {
        wire::put_bytes(field, &self.object, &mut self.chunk);
        self.objects += 1;
        if self.chunk.len() >= CHUNK_BYTES_TARGET {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), E> {
        seal(&mut self.chunk);
        (self.sink)(&self.chunk)?;
        self.chunk.truncate(FRAME_HEADER_BYTES);
        self.chunks += 1;
        Ok(())
    }
}

fn frame(message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    message.encode(&mut bytes).expect("a vector grows");
    seal(&mut bytes);
    bytes
}

/// Fills in the head of a frame.
fn seal(frame: &mut [u8]) {
    let body = &frame[FRAME_HEADER_BYTES..];
    let (length, crc) = (body.len() as u32, crc32c::crc32c(body));
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..FRAME_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}
