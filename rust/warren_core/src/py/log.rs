//! Looking into a log without the daemon: what `warrenctl debug wal` shows.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use super::CoreError;
use crate::raft::{HardState, command_of};
use crate::wal::{self, FrameInfo, FrameKind, ReadOnlyDisk, Summary, Tail, WalError};

/// A chunk of frames goes to Python when it has so many of them, or so many bytes of payload.
const CHUNK_FRAMES_MAX: usize = 256;
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// How many frames may pass before Ctrl-C is looked for.
const FRAMES_PER_SIGNAL_CHECK: u64 = 1 << 14;

/// Reads the log in `wal_dir` and says what it found.
#[pyfunction]
pub fn verify_log<'py>(py: Python<'py>, wal_dir: PathBuf) -> PyResult<Bound<'py, PyDict>> {
    let mut reading = Reading::default();
    let found = py.detach(|| reading.run(&wal_dir, &mut |_| Ok(true)));
    reading.report(py, found)
}

/// Reads the log in `wal_dir` and hands its frames to `sink` in lists: from the first entry at
/// `from_index` or above on, at most `limit`. `None` if the limit ended the reading.
#[pyfunction]
pub fn dump_log<'py>(
    py: Python<'py>,
    wal_dir: PathBuf,
    from_index: u64,
    limit: Option<u64>,
    with_payload: bool,
    sink: Py<PyAny>,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    let mut reading = Reading::default();
    let mut chunk = Chunk {
        sink,
        with_payload,
        frames: Vec::new(),
        payload_bytes: 0,
    };
    let mut begun = from_index == 0;
    let mut left = limit.unwrap_or(u64::MAX);
    let found = py.detach(|| {
        let found = reading.run(&wal_dir, &mut |frame| {
            begun |= frame.kind == FrameKind::Entry && frame.index >= from_index;
            if !begun {
                return Ok(true);
            }
            chunk.add(frame)?;
            left -= 1;
            Ok(left > 0)
        });
        chunk.flush()?;
        PyResult::Ok(found)
    })?;
    match found {
        Err(WalError::Stopped) if left == 0 => Ok(None),
        found => reading.report(py, found).map(Some),
    }
}

/// What was read so far; of a damaged log there is no more than that.
#[derive(Default)]
struct Reading {
    frames: u64,
    batches: u64,
    last_index: u64,
    last_term: u64,
    /// Why Python wants no more.
    failure: Option<PyErr>,
}

impl Reading {
    /// `show` says whether it wants more.
    fn run(
        &mut self,
        dir: &Path,
        show: &mut dyn FnMut(&FrameInfo<'_>) -> PyResult<bool>,
    ) -> Result<Summary, WalError> {
        wal::follow(&ReadOnlyDisk, dir, &mut |frame| {
            self.count(frame);
            let signals = if self.frames.is_multiple_of(FRAMES_PER_SIGNAL_CHECK) {
                Python::attach(|py| py.check_signals())
            } else {
                Ok(())
            };
            match signals.and_then(|()| show(frame)) {
                Ok(true) => Ok(()),
                Ok(false) => Err(WalError::Stopped),
                Err(failure) => {
                    self.failure = Some(failure);
                    Err(WalError::Stopped)
                }
            }
        })
    }

    fn count(&mut self, frame: &FrameInfo<'_>) {
        self.frames += 1;
        if matches!(frame.kind, FrameKind::Commit | FrameKind::End) {
            self.batches += 1;
            (self.last_index, self.last_term) = (frame.index, frame.term);
        }
    }

    fn report<'py>(
        self,
        py: Python<'py>,
        found: Result<Summary, WalError>,
    ) -> PyResult<Bound<'py, PyDict>> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let report = PyDict::new(py);
        match found {
            Ok(summary) => fill(&report, summary)?,
            Err(WalError::Damaged { file, offset, why }) => {
                report.set_item("end", "damaged")?;
                report.set_item("place", (file, offset))?;
                report.set_item("why", why)?;
                report.set_item("frames", self.frames)?;
                report.set_item("batches", self.batches)?;
                report.set_item("last_index", self.last_index)?;
                report.set_item("last_term", self.last_term)?;
            }
            Err(error) => return Err(refusal(&error)),
        }
        Ok(report)
    }
}

fn fill(report: &Bound<'_, PyDict>, summary: Summary) -> PyResult<()> {
    let (end, place) = match summary.tail {
        Tail::Clean => ("clean", None),
        Tail::Open => ("open", None),
        Tail::Torn(place) => ("torn", Some(place)),
        Tail::Cut(place) => ("cut", Some(place)),
    };
    let py = report.py();
    let identity = summary.identity;
    report.set_item("end", end)?;
    report.set_item("place", place.map(|place| (place.file, place.offset)))?;
    report.set_item("cluster_id", PyBytes::new(py, &identity.cluster_id))?;
    report.set_item("epoch", identity.epoch)?;
    report.set_item("member_id", identity.member_id)?;
    report.set_item("data_dir_id", PyBytes::new(py, &identity.data_dir))?;
    report.set_item("segments", summary.segments)?;
    report.set_item("frames", summary.frames)?;
    report.set_item("batches", summary.batches)?;
    report.set_item("snapshot", summary.snapshot)?;
    report.set_item("first_index", summary.first_index)?;
    report.set_item("last_index", summary.last_index)?;
    report.set_item("last_term", summary.last_term)?;
    report.set_item(
        "hard_state",
        summary.hard_state.as_deref().and_then(hard_state),
    )
}

/// Term, vote, commit index, how often the log was cut, whether it still is. `None` for bytes that
/// this release does not know.
fn hard_state(bytes: &[u8]) -> Option<(u64, u64, u64, u64, bool)> {
    let state = HardState::decode(bytes).ok()?;
    let HardState {
        term,
        vote,
        commit,
        generation,
        cut,
    } = state;
    Some((term, vote, commit, generation, cut))
}

/// Frames on their way to Python.
struct Chunk {
    sink: Py<PyAny>,
    with_payload: bool,
    frames: Vec<Shown>,
    payload_bytes: usize,
}

struct Shown {
    file: String,
    offset: u64,
    kind: FrameKind,
    index: u64,
    term: u64,
    payload: Vec<u8>,
}

impl Chunk {
    fn add(&mut self, frame: &FrameInfo<'_>) -> PyResult<()> {
        self.payload_bytes += frame.payload.len();
        self.frames.push(Shown {
            file: frame.file.to_owned(),
            offset: frame.offset,
            kind: frame.kind,
            index: frame.index,
            term: frame.term,
            payload: frame.payload.to_vec(),
        });
        if self.frames.len() >= CHUNK_FRAMES_MAX || self.payload_bytes >= CHUNK_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> PyResult<()> {
        if self.frames.is_empty() {
            return Ok(());
        }
        self.payload_bytes = 0;
        let frames = std::mem::take(&mut self.frames);
        Python::attach(|py| {
            let list = PyList::empty(py);
            for frame in &frames {
                list.append(frame.to_tuple(py, self.with_payload)?)?;
            }
            self.sink.call1(py, (list,))?;
            Ok(())
        })
    }
}

impl Shown {
    fn to_tuple<'py>(&self, py: Python<'py>, with_payload: bool) -> PyResult<Bound<'py, PyAny>> {
        let payload = self.payload.as_slice();
        let command = match self.kind {
            FrameKind::Entry => command_of(payload),
            _ => None,
        };
        let state = match self.kind {
            FrameKind::HardState => hard_state(payload),
            _ => None,
        };
        let tuple = (
            &self.file,
            self.offset,
            kind_name(self.kind),
            self.index,
            self.term,
            payload.len(),
            command.map(|command| PyBytes::new(py, command)),
            state,
            with_payload.then(|| PyBytes::new(py, payload)),
        );
        Ok(tuple.into_pyobject(py)?.into_any())
    }
}

fn kind_name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Entry => "entry",
        FrameKind::HardState => "hard_state",
        FrameKind::Snapshot => "snapshot",
        FrameKind::Commit => "commit",
        FrameKind::End => "end",
    }
}

/// Damage is a finding; what is here kept the log from being read at all.
fn refusal(error: &WalError) -> PyErr {
    let code = match error {
        WalError::NotFound { .. } => "not_found",
        _ => "data_dir",
    };
    CoreError::new_err((code, error.to_string()))
}
