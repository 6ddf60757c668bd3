//! Backups and new epochs: what is done to files while no core runs on them.

use std::net::SocketAddr;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;
use crate::host::{self, Host, Options, PeerOptions};
use crate::ids::NodeId;

/// The encoded header of the backup at `file`, once all of it was read and is whole.
#[pyfunction]
pub fn inspect_backup(py: Python<'_>, file: PathBuf) -> PyResult<Bound<'_, PyBytes>> {
    encoded(py, move || host::inspect_backup(&file))
}

/// Makes a cluster out of the backup at `file` in `raft_dir`, on which no core runs; open it
/// afterwards. What was done, as an encoded `RestoreClusterResponse`.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "what a core is opened with")]
pub fn restore_cluster<'py>(
    py: Python<'py>,
    raft_dir: PathBuf,
    node_id: &[u8],
    node_name: String,
    advertise_addr: String,
    segment_bytes: u64,
    peer_address: Option<String>,
    file: PathBuf,
    epoch_min: u64,
) -> PyResult<Bound<'py, PyBytes>> {
    let options = Options {
        raft_dir,
        node: NodeId::from_slice(node_id)?,
        node_name,
        advertise_addr,
        segment_bytes,
        peers: peer_address.map(reached_at),
    };
    encoded(py, move || Host::restore(&options, &file, epoch_min))
}

/// Makes the member in `raft_dir`, on which no core runs, the only one of its cluster; open it
/// afterwards. What was done, as an encoded `RecoverQuorumResponse`.
#[pyfunction]
pub fn recover_quorum<'py>(
    py: Python<'py>,
    raft_dir: PathBuf,
    node_id: &[u8],
    node_name: String,
    advertise_addr: String,
    segment_bytes: u64,
    peer_address: Option<String>,
) -> PyResult<Bound<'py, PyBytes>> {
    let options = Options {
        raft_dir,
        node: NodeId::from_slice(node_id)?,
        node_name,
        advertise_addr,
        segment_bytes,
        peers: peer_address.map(reached_at),
    };
    encoded(py, move || Host::recover_quorum(&options))
}

/// Where the member will be; nothing listens meanwhile.
fn reached_at(address: String) -> PeerOptions {
    PeerOptions {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        address,
        tls: None,
    }
}

fn encoded<M: prost::Message + Send>(
    py: Python<'_>,
    run: impl FnOnce() -> Result<M, Error> + Send,
) -> PyResult<Bound<'_, PyBytes>> {
    let done = py.detach(run)?;
    Ok(PyBytes::new(py, &done.encode_to_vec()))
}
