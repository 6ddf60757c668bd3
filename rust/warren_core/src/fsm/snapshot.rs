//! The state as bytes, and back.
//!
//! A snapshot is a header frame, chunk frames and a trailer frame; each frame is the length of
//! its body (u32 LE), the CRC-32C of the body (u32 LE), and the body. The form is canonical:
//! equal states, however they came about, give equal bytes. Derived data is not in it.
//!
//! A request in the window stands as it is; the floor of a client (see `requests`) stands as a
//! request without digest, whose sequence is the floor.

use std::io::Read;

use prost::Message;
use thiserror::Error as ThisError;

use crate::error::Error;
use crate::fsm::objects::{Cluster, Container, Member, Node, Service};
use crate::fsm::requests::Remembered;
use crate::fsm::state::State;
use crate::fsm::{FEATURE_LEVEL_MAX, MEMBERS_MAX, convert, validate};
use crate::ids::{Index, MemberId, Term};
use crate::pb;

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
    pb::SnapshotHeader {
        format: FORMAT,
        cluster_id: cluster
            .map(|cluster| cluster.id.to_vec())
            .unwrap_or_default(),
        epoch: cluster.map_or(0, |cluster| cluster.epoch),
        index: state.index().0,
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
    let mut writer = Writer {
        sink,
        chunk: pb::SnapshotChunk::default(),
        bytes: 0,
        chunks: 0,
        objects: 0,
    };
    writer.chunk.time_ms = state.time_ms();
    writer.chunk.cluster = state.cluster().map(Into::into);
    writer.chunk.removed_members = state.members.removed().map(|id| id.0).collect();
    for member in state.members() {
        writer.put(pb::Member::from(member), |chunk| &mut chunk.members)?;
    }
    for (digest, spec) in state.specs() {
        let spec = pb::SnapshotSpec {
            digest: digest.0.to_vec(),
            spec: Some((**spec).clone()),
        };
        writer.put(spec, |chunk| &mut chunk.specs)?;
    }
    for service in state.services() {
        writer.put(pb::Service::from(service), |chunk| &mut chunk.services)?;
    }
    for node in state.nodes() {
        writer.put(pb::Node::from(node), |chunk| &mut chunk.nodes)?;
    }
    for container in state.containers() {
        writer.put(pb::Container::from(container), |chunk| {
            &mut chunk.containers
        })?;
    }
    for request in requests(state) {
        writer.put(request, |chunk| &mut chunk.requests)?;
    }
    writer.flush()?;
    let trailer = pb::SnapshotTrailer {
        chunks: writer.chunks,
        objects: writer.objects,
    };
    sink(&frame(&trailer))
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

struct Writer<'a, E> {
    sink: &'a mut dyn FnMut(&[u8]) -> Result<(), E>,
    chunk: pb::SnapshotChunk,
    bytes: usize,
    chunks: u64,
    objects: u64,
}

impl<E> Writer<'_, E> {
    fn put<T: Message>(
        &mut self,
        object: T,
        list: impl FnOnce(&mut pb::SnapshotChunk) -> &mut Vec<T>,
    ) -> Result<(), E> {
        self.bytes += object.encoded_len();
        self.objects += 1;
        list(&mut self.chunk).push(object);
        if self.bytes >= CHUNK_BYTES_TARGET {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), E> {
        let chunk = std::mem::take(&mut self.chunk);
        (self.bytes, self.chunks) = (0, self.chunks + 1);
        (self.sink)(&frame(&chunk))
    }
}

fn frame(message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    message.encode(&mut bytes).expect("a vector grows");
    let body = &bytes[FRAME_HEADER_BYTES..];
    let (length, crc) = (body.len() as u32, crc32c::crc32c(body));
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..FRAME_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a whole snapshot; see [`read_as`].
pub fn read(input: impl Read) -> Result<(State, pb::SnapshotHeader), ReadError> {
    read_as(FEATURE_LEVEL_MAX, input)
}

/// Reads a whole snapshot, as a release does that knows the feature levels up to `level_max`.
/// Whatever is in the bytes, the outcome is the state that was written or an error.
pub fn read_as(level_max: u32, input: impl Read) -> Result<(State, pb::SnapshotHeader), ReadError> {
    let mut reader = Reader {
        input,
        offset: 0,
        ahead: None,
    };
    let header: pb::SnapshotHeader = reader.message()?;
    if header.format > FORMAT {
        return Err(ReadError::UnknownFormat(header.format));
    }
    if header.feature_level > level_max {
        return Err(ReadError::UnknownLevel(header.feature_level));
    }
    let mut state = State::new();
    state.advance(Index(header.index), Term(header.term));
    let (mut chunks, mut objects) = (0, 0);
    let mut specs = Specs::new();
    let trailer = loop {
        let start = reader.offset;
        let body = reader.body()?;
        // The trailer is the last frame. A chunk in its place, after a cut, is none: a trailer
        // counts at least one chunk, in a field that a chunk has with another type.
        if reader.at_end()? {
            break decode::<pb::SnapshotTrailer>(&body, start)?;
        }
        let chunk: pb::SnapshotChunk = decode(&body, start)?;
        chunks += 1;
        objects += restore(&mut state, &mut specs, chunk)
            .map_err(|error| damaged(start, error.to_string()))?;
    };
    if trailer.chunks == 0 || (trailer.chunks, trailer.objects) != (chunks, objects) {
        return Err(damaged(reader.offset, "parts of it are missing"));
    }
    Ok((state, header))
}

type Specs = std::collections::BTreeMap<crate::ids::SpecDigest, pb::ContainerSpec>;

/// Puts a chunk's objects into the state; how many there were.
fn restore(
    state: &mut State,
    specs: &mut Specs,
    chunk: pb::SnapshotChunk,
) -> crate::error::Result<u64> {
    let lists = [
        chunk.services.len(),
        chunk.nodes.len(),
        chunk.containers.len(),
        chunk.requests.len(),
        chunk.specs.len(),
        chunk.members.len(),
    ];
    if let Some(cluster) = chunk.cluster {
        state.cluster = Some(Cluster::try_from(cluster)?.into());
    }
    state.time_ms = state.time_ms.max(chunk.time_ms);
    for id in chunk.removed_members {
        state.members.bury(MemberId(id));
    }
    for member in &chunk.members {
        let member = Member::try_from(member)?;
        if state.is_removed(member.id) || state.members.len() >= MEMBERS_MAX {
            return Err(broken("a member of it was removed, or there are too many"));
        }
        state.members.put(member);
    }
    for known in chunk.specs {
        let digest = convert::spec_digest(&known.digest)?;
        let spec = known.spec.unwrap_or_default();
        if validate::spec_digest(&spec) != digest {
            return Err(broken("a spec does not match its digest"));
        }
        specs.insert(digest, spec);
    }
    for service in chunk.services {
        let service = Service::try_from(service)?;
        if state.service(service.id).is_some() || state.service_by_name(&service.name).is_some() {
            return Err(broken("a service is in it twice"));
        }
        state.insert_service(service);
    }
    for node in chunk.nodes {
        state.put_node(Node::try_from(node)?);
    }
    for container in chunk.containers {
        restore_container(state, specs, Container::try_from(container)?)?;
    }
    for request in chunk.requests {
        restore_request(state, request)?;
    }
    Ok(lists.iter().map(|length| *length as u64).sum())
}

fn restore_container(
    state: &mut State,
    specs: &Specs,
    container: Container,
) -> crate::error::Result<()> {
    let Some(spec) = specs.get(&container.spec_digest) else {
        return Err(broken("the spec of a container is missing"));
    };
    if state.service(container.service).is_none() || state.node(container.node).is_none() {
        return Err(broken("the service or node of a container is missing"));
    }
    if state.container(container.id).is_some() {
        return Err(broken("a container is in it twice"));
    }
    state.insert_container(container, || spec.clone());
    Ok(())
}

fn restore_request(state: &mut State, request: pb::SnapshotRequest) -> crate::error::Result<()> {
    let id = request.request.unwrap_or_default();
    let index = Index(request.index);
    let client = id.client[..]
        .try_into()
        .map_err(|_| broken("a client id has not 16 bytes"))?;
    if id.digest.is_empty() {
        state.requests.set_floor(client, id.sequence, index);
        return Ok(());
    }
    let digest = id.digest[..]
        .try_into()
        .map_err(|_| broken("a digest has not 32 bytes"))?;
    let answer = if request.refused {
        Err(refusal(&request.response)?)
    } else {
        Ok(request.response)
    };
    state.requests.insert(
        client,
        id.sequence,
        Remembered {
            index,
            digest,
            answer,
        },
    );
    Ok(())
}

fn refusal(bytes: &[u8]) -> crate::error::Result<(&'static str, String)> {
    let error = pb::Error::decode(bytes).map_err(|_| broken("a stored refusal is unreadable"))?;
    let code = Error::CODES.iter().find(|code| **code == error.code);
    code.map(|code| (*code, error.message))
        .ok_or_else(|| broken("a refusal has an unknown code"))
}

fn broken(why: &str) -> Error {
    Error::Invalid {
        what: "snapshot",
        why: why.to_owned(),
    }
}

fn damaged(offset: u64, why: impl Into<String>) -> ReadError {
    ReadError::Damaged {
        offset,
        why: why.into(),
    }
}

fn decode<T: Message + Default>(body: &[u8], offset: u64) -> Result<T, ReadError> {
    T::decode(body).map_err(|error| damaged(offset, error.to_string()))
}

/// Reads frames, and can tell whether one follows.
struct Reader<R> {
    input: R,
    /// Of the next byte that `exact` hands out.
    offset: u64,
    ahead: Option<u8>,
}

impl<R: Read> Reader<R> {
    fn message<T: Message + Default>(&mut self) -> Result<T, ReadError> {
        let start = self.offset;
        decode(&self.body()?, start)
    }

    fn body(&mut self) -> Result<Vec<u8>, ReadError> {
        let start = self.offset;
        let mut head = [0; FRAME_HEADER_BYTES];
        self.exact(&mut head, start)?;
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(damaged(
                start,
                format!("a frame of {length} bytes; the limit is 1 MiB"),
            ));
        }
        let mut body = vec![0; length];
        self.exact(&mut body, start)?;
        if crc32c::crc32c(&body) != u32::from_le_bytes([e, f, g, h]) {
            return Err(damaged(start, "the checksum does not match"));
        }
        Ok(body)
    }

    fn exact(&mut self, buffer: &mut [u8], frame_start: u64) -> Result<(), ReadError> {
        let mut filled = 0;
        if let (Some(first), false) = (self.ahead, buffer.is_empty()) {
            buffer[0] = first;
            (self.ahead, filled) = (None, 1);
        }
        self.input
            .read_exact(&mut buffer[filled..])
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => damaged(frame_start, "it ends within a frame"),
                _ => ReadError::Io(error),
            })?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    fn at_end(&mut self) -> Result<bool, ReadError> {
        let mut byte = [0];
        loop {
            match self.input.read(&mut byte) {
                Ok(0) => return Ok(true),
                Ok(_) => {
                    self.ahead = Some(byte[0]);
                    return Ok(false);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
