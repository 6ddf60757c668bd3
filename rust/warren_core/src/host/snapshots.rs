//! Snapshot files: `snap/<index>-<term>.snap`, in hex, so that names sort as their indexes do.
//!
//! A file is complete under its name or not there: it is written under another name, made durable,
//! and renamed. Three are kept, so that one bad file costs a longer replay at most.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::{Message, Shared, clock};
use crate::control::{Identity, Input, SnapshotJob};
use crate::error::Error;
use crate::fsm::{State, snapshot};
use crate::ids::{Index, Term};
use crate::raft::{ConfState, Position};

const KEPT_MAX: usize = 3;
const SUFFIX: &str = ".snap";
const UNFINISHED: &str = ".tmp";

pub fn dir(raft_dir: &Path) -> PathBuf {
    raft_dir.join("snap")
}

/// The thread that writes them.
pub struct Writer {
    pub dir: PathBuf,
    pub jobs: Receiver<SnapshotJob>,
    pub core: Sender<Message>,
    pub shared: Arc<Shared>,
}

impl Writer {
    pub fn run(self) {
        for job in &self.jobs {
            let started_ns = clock::mono_ns();
            let written = write(&self.dir, &job);
            self.shared
                .metrics
                .snapshot(clock::mono_ns() - started_ns, written.as_ref().ok());
            let result = written.map(|_| job.at).map_err(|error| Error::DataDir {
                path: self.dir.to_string_lossy().into_owned(),
                why: format!("the snapshot cannot be written: {error}"),
            });
            // A core that has gone needs no snapshot.
            let _ = self.core.send(Message::Input(Input::Snapshotted(result)));
        }
    }
}

/// A snapshot read back.
pub struct Loaded {
    pub state: State,
    pub at: Position,
    pub conf_state: ConfState,
}

/// The newest snapshot that can be read. The log needs one that covers `marked_index`: an older
/// one would leave a gap, and acknowledged changes would be missing. `skipped` is told about those
/// that cannot be read and are not needed.
pub fn load(
    raft_dir: &Path,
    identity: &Identity,
    marked_index: u64,
    skipped: &mut dyn FnMut(&Error),
) -> Result<Option<Loaded>, Error> {
    let dir = dir(raft_dir);
    let mut why_not = None;
    for (at, path) in list(&dir)
        .map_err(|error| unreadable(&dir, &error))?
        .into_iter()
        .rev()
    {
        if at.index.0 < marked_index {
            break;
        }
        match read(&path, at, identity) {
            Ok(loaded) => {
                why_not.iter().for_each(skipped);
                return Ok(Some(loaded));
            }
            Err(error) => why_not = why_not.or(Some(error)),
        }
    }
    match why_not {
        Some(error) if marked_index > 0 => Err(error),
        None if marked_index > 0 => Err(Error::LogDamaged {
            file: dir.to_string_lossy().into_owned(),
            offset: 0,
            why: format!("the snapshot up to index {marked_index}, which the log needs, is gone"),
        }),
        // The log is complete without it.
        unneeded => {
            unneeded.iter().for_each(skipped);
            Ok(None)
        }
    }
}

fn read(path: &Path, at: Position, identity: &Identity) -> Result<Loaded, Error> {
    let damaged = |offset, why: String| Error::LogDamaged {
        file: path.to_string_lossy().into_owned(),
        offset,
        why,
    };
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let (state, header) = snapshot::read(BufReader::new(file)).map_err(|error| match error {
        snapshot::ReadError::Io(error) => unreadable(path, &error),
        snapshot::ReadError::Damaged { offset, why } => damaged(offset, why),
        other => unreadable(path, &other),
    })?;
    if header.cluster_id != identity.cluster.0 || header.epoch != identity.epoch {
        return Err(damaged(
            0,
            "it belongs to another cluster than the log".into(),
        ));
    }
    if (header.index, header.term) != (at.index.0, at.term.0) {
        return Err(damaged(0, "its name and its header disagree".into()));
    }
    let conf_state = ConfState::decode(&header.conf_state).map_err(|d| damaged(0, d.why))?;
    Ok(Loaded {
        state,
        at,
        conf_state,
    })
}

/// Writes one, and drops the oldest; its size in bytes.
fn write(dir: &Path, job: &SnapshotJob) -> std::io::Result<u64> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!(
        "{:016x}-{:016x}{SUFFIX}",
        job.at.index.0, job.at.term.0
    ));
    let unfinished = path.with_extension(&UNFINISHED[1..]);
    let written = write_file(&unfinished, job).and_then(|bytes| {
        fs::rename(&unfinished, &path)?;
        File::open(dir)?.sync_all()?;
        Ok(bytes)
    });
    if written.is_err() {
        // The first failure is the one to report; the next snapshot of this index replaces it.
        let _ = fs::remove_file(&unfinished);
    }
    let bytes = written?;
    prune(dir)?;
    Ok(bytes)
}

fn write_file(path: &Path, job: &SnapshotJob) -> std::io::Result<u64> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut bytes = 0;
    snapshot::write(&job.state, &job.header, &mut |frame| {
        bytes += frame.len() as u64;
        file.write_all(frame)
    })?;
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(bytes)
}

/// Never the newest: that one was just made durable.
fn prune(dir: &Path) -> std::io::Result<()> {
    let kept = list(dir)?;
    let surplus = kept.len().saturating_sub(KEPT_MAX);
    kept.iter()
        .take(surplus)
        .try_for_each(|(_, path)| fs::remove_file(path))
}

/// All of them, oldest first; none where there is no directory.
fn list(dir: &Path) -> std::io::Result<Vec<(Position, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(position);
        found.extend(name.map(|at| (at, path)));
    }
    found.sort();
    Ok(found)
}

fn position(name: &str) -> Option<Position> {
    let (index, term) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(Position {
        index: Index(number(index)?),
        term: Term(number(term)?),
    })
}

fn unreadable(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::DataDir {
        path: path.to_string_lossy().into_owned(),
        why: error.to_string(),
    }
}
