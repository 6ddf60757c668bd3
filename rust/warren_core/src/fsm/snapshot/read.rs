//! From bytes to a state. Whatever is in the bytes, the outcome is the state that was written or an
//! error; memory is in proportion to the bytes that came.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};

use prost::Message;

use super::containers::Containers;
use super::{FORMAT, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, ReadError, field};
use crate::error::{Error, Result};
use crate::fsm::objects::{Cluster, Member, Node, Service};
use crate::fsm::requests::Remembered;
use crate::fsm::state::State;
use crate::fsm::wire::{self, BYTES, VARINT};
use crate::fsm::{FEATURE_LEVEL_MAX, MEMBERS_MAX, convert, validate};
use crate::ids::{Index, MemberId, NodeId, SpecDigest, Term};
use crate::mutant::{self, Mutant};
use crate::pb;

/// Bytes taken in at a time; beyond one frame this much is buffered.
const PIECE_BYTES: usize = 64 << 10;

/// Reads a whole snapshot; see [`read_as`].
pub fn read(input: impl Read) -> Result<(State, pb::SnapshotHeader), ReadError> {
    read_as(FEATURE_LEVEL_MAX, input)
}

/// Reads a whole snapshot, as a release does that knows the feature levels up to `level_max`.
pub fn read_as(
    level_max: u32,
    mut input: impl Read,
) -> Result<(State, pb::SnapshotHeader), ReadError> {
    let mut reader = Reader::new(level_max);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match input.read(&mut piece) {
            Ok(0) => return reader.finish(),
            Ok(length) => reader.feed(&piece[..length])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads a snapshot whose bytes come piece by piece. After an error it is of no use any more.
pub struct Reader {
    level_max: u32,
    /// What was taken in and not understood yet, from byte `offset` of the snapshot on. Of a frame
    /// that is complete it is known only with the next byte whether it is the trailer: the last.
    buffer: Vec<u8>,
    offset: u64,
    header: Option<pb::SnapshotHeader>,
    state: State,
    specs: BTreeMap<SpecDigest, pb::ContainerSpec>,
    containers: Containers,
    chunks: u64,
    objects: u64,
}

impl Reader {
    /// For a release that knows the feature levels up to `level_max`.
    pub fn new(level_max: u32) -> Self {
        Self {
            level_max,
            buffer: Vec::new(),
            offset: 0,
            header: None,
            state: State::new(),
            specs: BTreeMap::new(),
            containers: Containers::default(),
            chunks: 0,
            objects: 0,
        }
    }

    /// Takes the next bytes in, however they are cut. At most a frame and 64 KiB are held back.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.buffer.extend_from_slice(piece);
            let mut taken = 0;
            while let Some(length) = self.frame_length(taken)? {
                if self.buffer.len() - taken <= length {
                    break;
                }
                self.take(taken, length)?;
                taken += length;
            }
            self.buffer.drain(..taken);
            self.offset += taken as u64;
        }
        Ok(())
    }

    /// The state, once all bytes have been fed.
    pub fn finish(mut self) -> Result<(State, pb::SnapshotHeader), ReadError> {
        let header = self.header.take();
        let (Some(header), Some(length)) = (header, self.frame_length(0)?) else {
            return Err(damaged(self.offset, "it ends within a frame"));
        };
        if length != self.buffer.len() {
            return Err(damaged(self.offset, "it ends within a frame"));
        }
        // A chunk in the trailer's place, after a cut, is none: a trailer counts at least one
        // chunk, in a field that a chunk has with another type.
        let body = checked(&self.buffer, self.offset)?;
        let trailer: pb::SnapshotTrailer = decode(body, self.offset)?;
        if trailer.chunks == 0 || (trailer.chunks, trailer.objects) != (self.chunks, self.objects) {
            return Err(damaged(self.offset, "parts of it are missing"));
        }
        let mut state = self.state;
        // The genesis snapshot names the cluster that its state will be told to be.
        let cluster = state.cluster().map(|cluster| cluster.id.to_vec());
        if cluster.is_some_and(|cluster| cluster != header.cluster_id)
            || header.feature_level != state.feature_level()
        {
            return Err(damaged(0, "header and content are of different states"));
        }
        if trailer.state_hash != state.hash().to_bytes() {
            return Err(damaged(
                self.offset,
                "what was read is not the state that was written",
            ));
        }
        self.containers.finish(&mut state);
        if mutant::is_on(Mutant::RestoreForgetsClock) {
            state.time_ms = 0;
        }
        Ok((state, header))
    }

    /// Of the frame at `at` of the buffer, head and all, once its length is known.
    fn frame_length(&self, at: usize) -> Result<Option<usize>, ReadError> {
        let Some(head) = self.buffer[at..].first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > FRAME_BYTES_MAX {
            let why = format!("a frame of {length} bytes; the limit is 1 MiB");
            return Err(damaged(self.offset + at as u64, why));
        }
        Ok(Some(FRAME_HEADER_BYTES + length))
    }

    /// Understands one frame that is not the last.
    fn take(&mut self, at: usize, length: usize) -> Result<(), ReadError> {
        let buffer = std::mem::take(&mut self.buffer);
        let start = self.offset + at as u64;
        let taken = checked(&buffer[at..at + length], start).and_then(|body| match self.header {
            None => self.begin(body, start),
            Some(_) => {
                self.chunks += 1;
                self.chunk(body)
                    .map_err(|error| damaged(start, error.to_string()))
            }
        });
        self.buffer = buffer;
        taken
    }

    fn begin(&mut self, body: &[u8], start: u64) -> Result<(), ReadError> {
        let header: pb::SnapshotHeader = decode(body, start)?;
        if header.format != FORMAT {
            return Err(ReadError::UnknownFormat(header.format));
        }
        if header.feature_level > self.level_max {
            return Err(ReadError::UnknownLevel(header.feature_level));
        }
        self.state.advance(Index(header.index), Term(header.term));
        self.header = Some(header);
        Ok(())
    }

    /// Puts a chunk's objects into the state, one by one.
    fn chunk(&mut self, mut body: &[u8]) -> Result<()> {
        let rest = &mut body;
        while !rest.is_empty() {
            let key = wire::take_varint(rest).ok_or_else(cut)?;
            match (key >> 3, key & 7) {
                (field::TIME_MS, VARINT) => {
                    self.state.time_ms = wire::take_varint(rest).ok_or_else(cut)?;
                }
                (number, BYTES) => {
                    let object = wire::take_bytes(rest).ok_or_else(cut)?;
                    self.object(number, object)?;
                }
                _ => return Err(broken("it holds something that this release does not know")),
            }
        }
        Ok(())
    }

    fn object(&mut self, number: u64, bytes: &[u8]) -> Result<()> {
        let state = &mut self.state;
        match number {
            field::CLUSTER => {
                state.cluster = Some(Cluster::try_from(message::<pb::Cluster>(bytes)?)?.into());
                return Ok(());
            }
            field::REMOVED_MEMBERS => return restore_removed(state, bytes),
            field::REMOVED_NODES => {
                state.removed_nodes.bury(NodeId::from_slice(bytes)?);
                return Ok(());
            }
            field::SERVICES => {
                restore_service(state, Service::try_from(message::<pb::Service>(bytes)?)?)?;
            }
            field::NODES => restore_node(state, Node::try_from(message::<pb::Node>(bytes)?)?)?,
            field::CONTAINERS => {
                self.containers.restore(state, &self.specs, bytes)?;
            }
            field::REQUESTS => restore_request(state, message(bytes)?)?,
            field::SPECS => {
                let (digest, spec) = checked_spec(message(bytes)?)?;
                self.specs.insert(digest, spec);
            }
            field::MEMBERS => restore_member(state, &message(bytes)?)?,
            _ => return Err(broken("it holds something that this release does not know")),
        }
        self.objects += 1;
        Ok(())
    }
}

fn restore_removed(state: &mut State, mut ids: &[u8]) -> Result<()> {
    while !ids.is_empty() {
        let id = wire::take_varint(&mut ids).ok_or_else(cut)?;
        state.members.bury(MemberId(id));
    }
    Ok(())
}

fn restore_member(state: &mut State, member: &pb::Member) -> Result<()> {
    let member = Member::try_from(member)?;
    let double = |other: &Member| other.id == member.id || other.data_dir == member.data_dir;
    if state.is_removed(member.id) || state.members().any(double) {
        return Err(broken("a member is in it twice, or was removed"));
    }
    if state.members.len() >= MEMBERS_MAX {
        return Err(broken("it has too many members"));
    }
    state.members.put(member);
    Ok(())
}

fn checked_spec(known: pb::SnapshotSpec) -> Result<(SpecDigest, pb::ContainerSpec)> {
    let digest = convert::spec_digest(&known.digest)?;
    let spec = known.spec.unwrap_or_default();
    if validate::spec_digest(&spec) != digest {
        return Err(broken("a spec does not match its digest"));
    }
    Ok((digest, spec))
}

fn restore_service(state: &mut State, service: Service) -> Result<()> {
    if state.service(service.id).is_some() || state.service_by_name(&service.name).is_some() {
        return Err(broken("a service is in it twice"));
    }
    state.insert_service(service);
    Ok(())
}

fn restore_node(state: &mut State, node: Node) -> Result<()> {
    if state.node(node.id).is_some() {
        return Err(broken("a node is in it twice"));
    }
    state.put_node(node);
    Ok(())
}

fn restore_request(state: &mut State, request: pb::SnapshotRequest) -> Result<()> {
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

fn refusal(bytes: &[u8]) -> Result<(&'static str, String)> {
    let error = pb::Error::decode(bytes).map_err(|_| broken("a stored refusal is unreadable"))?;
    let code = Error::CODES.iter().find(|code| **code == error.code);
    code.map(|code| (*code, error.message))
        .ok_or_else(|| broken("a refusal has an unknown code"))
}

/// A frame's body, if its checksum says so.
fn checked(frame: &[u8], start: u64) -> Result<&[u8], ReadError> {
    let (head, body) = frame
        .split_first_chunk::<FRAME_HEADER_BYTES>()
        .ok_or_else(|| damaged(start, "it ends within a frame"))?;
    let [_, _, _, _, crc @ ..] = *head;
    if crc32c::crc32c(body) == u32::from_le_bytes(crc) {
        Ok(body)
    } else {
        Err(damaged(start, "the checksum does not match"))
    }
}

fn cut() -> Error {
    broken("an object is cut short")
}

pub(super) fn broken(why: &str) -> Error {
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

pub(super) fn message<T: Message + Default>(bytes: &[u8]) -> Result<T> {
    T::decode(bytes).map_err(|error| broken(&error.to_string()))
}

fn decode<T: Message + Default>(body: &[u8], offset: u64) -> Result<T, ReadError> {
    T::decode(body).map_err(|error| damaged(offset, error.to_string()))
}
