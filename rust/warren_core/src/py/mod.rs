//! The Python bindings, and nothing but bindings: bytes and numbers across, one exception.
//!
//! The interpreter lock is held across no wait.

mod backup;
mod log;
mod options;

use std::path::PathBuf;
use std::time::Duration;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::control::Consistency;
use crate::error::Error;
use crate::host::{CALLS_MAX, Host, Kind, Options, REQUEST_BYTES_MAX, STREAMS_MAX};
use crate::ids::NodeId;

create_exception!(
    warren._core,
    CoreError,
    PyException,
    "A refusal: (code, message)."
);

/// The one conversion of the one error.
impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        CoreError::new_err((error.code(), error.to_string()))
    }
}

/// A running core. Thread-safe; refuses to work in a forked child.
#[pyclass(frozen, module = "warren._core")]
struct Core {
    host: Host,
}

#[pymethods]
impl Core {
    /// Recovers what `raft_dir` holds and starts the core. `node_id` has 16 bytes. The arguments
    /// about peers come all together, or none: then nothing listens.
    #[staticmethod]
    #[pyo3(signature = (raft_dir, node_id, node_name, advertise_addr, segment_bytes, *,
        peer_listen=None, peer_address=None, tls_ca=None, tls_cert=None, tls_key=None))]
    #[expect(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn open(
        py: Python<'_>,
        raft_dir: PathBuf,
        node_id: &[u8],
        node_name: String,
        advertise_addr: String,
        segment_bytes: u64,
        peer_listen: Option<&str>,
        peer_address: Option<String>,
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
    ) -> PyResult<Self> {
        let options = Options {
            raft_dir,
            node: NodeId::from_slice(node_id)?,
            node_name,
            advertise_addr,
            segment_bytes,
            peers: options::peers(peer_listen, peer_address, [tls_ca, tls_cert, tls_key])?,
        };
        let host = py.detach(|| Host::open(options))?;
        Ok(Self { host })
    }

    /// Like `open`, for the member that a cluster has admitted under `member_id`, bound to the 16
    /// bytes of `data_dir`; `raft_dir` holds no log yet.
    #[staticmethod]
    #[pyo3(signature = (raft_dir, node_id, node_name, advertise_addr, segment_bytes, *,
        cluster_id, epoch, member_id, data_dir,
        peer_listen=None, peer_address=None, tls_ca=None, tls_cert=None, tls_key=None))]
    #[expect(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn join(
        py: Python<'_>,
        raft_dir: PathBuf,
        node_id: &[u8],
        node_name: String,
        advertise_addr: String,
        segment_bytes: u64,
        cluster_id: &[u8],
        epoch: u64,
        member_id: u64,
        data_dir: &[u8],
        peer_listen: Option<&str>,
        peer_address: Option<String>,
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
    ) -> PyResult<Self> {
        let identity = options::identity(cluster_id, epoch, member_id, data_dir)?;
        let options = Options {
            raft_dir,
            node: NodeId::from_slice(node_id)?,
            node_name,
            advertise_addr,
            segment_bytes,
            peers: options::peers(peer_listen, peer_address, [tls_ca, tls_cert, tls_key])?,
        };
        let host = py.detach(|| Host::join(options, identity))?;
        Ok(Self { host })
    }

    /// Like `open`, after `raft_dir`, which holds no log, was made that of the only member of the
    /// cluster in the backup at `file`: with an epoch of at least `epoch_min`, and of no other
    /// cluster than `cluster_id`, if that is said. The core, and what was done, encoded.
    #[staticmethod]
    #[pyo3(signature = (raft_dir, node_id, node_name, advertise_addr, segment_bytes, *,
        file, epoch_min, cluster_id,
        peer_listen=None, peer_address=None, tls_ca=None, tls_cert=None, tls_key=None))]
    #[expect(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn restore<'py>(
        py: Python<'py>,
        raft_dir: PathBuf,
        node_id: &[u8],
        node_name: String,
        advertise_addr: String,
        segment_bytes: u64,
        file: PathBuf,
        epoch_min: u64,
        cluster_id: Option<&[u8]>,
        peer_listen: Option<&str>,
        peer_address: Option<String>,
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
    ) -> PyResult<(Self, Bound<'py, PyBytes>)> {
        let options = Options {
            raft_dir,
            node: NodeId::from_slice(node_id)?,
            node_name,
            advertise_addr,
            segment_bytes,
            peers: options::peers(peer_listen, peer_address, [tls_ca, tls_cert, tls_key])?,
        };
        backup::restored(py, options, &file, epoch_min, cluster_id)
    }

    /// Like `open`, after the member in `raft_dir` was made the only one of its cluster. The core,
    /// and what was done, encoded.
    #[staticmethod]
    #[pyo3(signature = (raft_dir, node_id, node_name, advertise_addr, segment_bytes, *,
        peer_listen=None, peer_address=None, tls_ca=None, tls_cert=None, tls_key=None))]
    #[expect(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn recover_quorum<'py>(
        py: Python<'py>,
        raft_dir: PathBuf,
        node_id: &[u8],
        node_name: String,
        advertise_addr: String,
        segment_bytes: u64,
        peer_listen: Option<&str>,
        peer_address: Option<String>,
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
    ) -> PyResult<(Self, Bound<'py, PyBytes>)> {
        let options = Options {
            raft_dir,
            node: NodeId::from_slice(node_id)?,
            node_name,
            advertise_addr,
            segment_bytes,
            peers: options::peers(peer_listen, peer_address, [tls_ca, tls_cert, tls_key])?,
        };
        backup::recovered(py, options)
    }

    /// Readable when completions wait.
    fn fileno(&self) -> i32 {
        self.host.event_fd()
    }

    /// `stale`: a read may see this member's own state, which may be old.
    #[pyo3(signature = (identity, method, body, timeout_ms, stale))]
    fn submit(
        &self,
        py: Python<'_>,
        identity: &str,
        method: &str,
        body: &[u8],
        timeout_ms: u64,
        stale: bool,
    ) -> PyResult<u64> {
        self.host.check_process()?;
        let timeout = Duration::from_millis(timeout_ms);
        let consistency = match stale {
            true => Consistency::Stale,
            false => Consistency::Linearizable,
        };
        let host = &self.host;
        Ok(py.detach(|| host.submit_with(consistency, identity, method, body, timeout))?)
    }

    /// Starts to write a backup to `file`; answered with its encoded header.
    fn backup(
        &self,
        py: Python<'_>,
        identity: &str,
        file: PathBuf,
        timeout_ms: u64,
        stale: bool,
    ) -> PyResult<u64> {
        self.host.check_process()?;
        let timeout = Duration::from_millis(timeout_ms);
        Ok(py.detach(|| self.host.backup(identity, &file, stale, timeout))?)
    }

    fn subscribe(
        &self,
        py: Python<'_>,
        identity: &str,
        method: &str,
        body: &[u8],
    ) -> PyResult<u64> {
        self.host.check_process()?;
        Ok(py.detach(|| self.host.subscribe(identity, method, body))?)
    }

    fn cancel(&self, py: Python<'_>, number: u64) -> PyResult<()> {
        self.host.check_process()?;
        py.detach(|| self.host.cancel(number));
        Ok(())
    }

    /// The reader of the stream has its last item.
    fn taken(&self, py: Python<'_>, number: u64) -> PyResult<()> {
        self.host.check_process()?;
        py.detach(|| self.host.taken(number));
        Ok(())
    }

    fn drain<'py>(
        &self,
        py: Python<'py>,
        limit: usize,
    ) -> PyResult<Vec<(u64, u8, Bound<'py, PyBytes>)>> {
        self.host.check_process()?;
        let batch = py.detach(|| self.host.drain(limit));
        let tuple = |c: crate::host::Completion| (c.id, c.kind as u8, PyBytes::new(py, &c.payload));
        Ok(batch.into_iter().map(tuple).collect())
    }

    fn pulse(&self) -> PyResult<()> {
        self.host.check_process()?;
        self.host.pulse();
        Ok(())
    }

    fn set_verbose(&self, verbose: bool) -> PyResult<()> {
        self.host.check_process()?;
        self.host.set_verbose(verbose);
        Ok(())
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let status = py.detach(|| self.host.status());
        let dict = PyDict::new(py);
        dict.set_item("is_member", status.is_member)?;
        dict.set_item("in_cluster", status.in_cluster)?;
        dict.set_item("leader", status.leader)?;
        dict.set_item("has_leader", status.has_leader)?;
        dict.set_item("voters", status.voters)?;
        dict.set_item("removed", status.removed)?;
        dict.set_item("term", status.term)?;
        dict.set_item("last_index", status.last_index)?;
        dict.set_item("applied_index", status.applied_index)?;
        dict.set_item("no_space", status.no_space)?;
        dict.set_item("stuck_ms", status.stuck_ms)?;
        Ok(dict)
    }

    #[pyo3(signature = (fine))]
    fn metrics<'py>(&self, py: Python<'py>, fine: bool) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.host.metrics(fine)))
    }

    fn shutdown(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<bool> {
        self.host.check_process()?;
        Ok(py.detach(|| self.host.shutdown(Duration::from_millis(timeout_ms))))
    }
}

/// Turns the core's own measuring off, or on again, for the whole process: for the bench of what it
/// costs.
#[pyfunction]
fn measure(on: bool) {
    crate::host::measure(on);
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Core>()?;
    module.add_function(wrap_pyfunction!(measure, module)?)?;
    module.add_function(wrap_pyfunction!(options::parse_spiffe, module)?)?;
    module.add_function(wrap_pyfunction!(backup::inspect_backup, module)?)?;
    module.add_function(wrap_pyfunction!(log::verify_log, module)?)?;
    module.add_function(wrap_pyfunction!(log::dump_log, module)?)?;
    module.add("CoreError", module.py().get_type::<CoreError>())?;
    module.add("CODES", PyTuple::new(module.py(), Error::CODES)?)?;
    module.add("CALLS_MAX", CALLS_MAX)?;
    module.add("STREAMS_MAX", STREAMS_MAX)?;
    module.add("REQUEST_BYTES_MAX", REQUEST_BYTES_MAX)?;
    module.add("KIND_RESPONSE", Kind::Response as u8)?;
    module.add("KIND_ERROR", Kind::Error as u8)?;
    module.add("KIND_ITEM", Kind::Item as u8)?;
    module.add("KIND_END", Kind::End as u8)?;
    module.add("KIND_LOG", Kind::Log as u8)?;
    Ok(())
}
