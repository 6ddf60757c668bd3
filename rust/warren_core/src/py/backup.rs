//! Backups and new epochs: what is done to files while no core runs on them.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Error;
use crate::host::{self, Host, Options};

/// The encoded header of the backup at `file`, once all of it was read and is whole.
#[pyfunction]
pub fn inspect_backup(py: Python<'_>, file: PathBuf) -> PyResult<Bound<'_, PyBytes>> {
    encoded(py, move || host::inspect_backup(&file))
}

/// Makes the directory that of the only member of the cluster in the backup at `file`; what was
/// done, as an encoded `RestoreClusterResponse`. No core runs on the directory.
pub fn restore<'py>(
    py: Python<'py>,
    options: &Options,
    file: &std::path::Path,
    epoch_min: u64,
) -> PyResult<Bound<'py, PyBytes>> {
    encoded(py, || Host::restore(options, file, epoch_min))
}

/// Makes the member in the directory the only one of its cluster; what was done, as an encoded
/// `RecoverQuorumResponse`. No core runs on the directory.
pub fn recover_quorum<'py>(py: Python<'py>, options: &Options) -> PyResult<Bound<'py, PyBytes>> {
    encoded(py, || Host::recover_quorum(options))
}

fn encoded<M: prost::Message + Send>(
    py: Python<'_>,
    run: impl FnOnce() -> Result<M, Error> + Send,
) -> PyResult<Bound<'_, PyBytes>> {
    let done = py.detach(run)?;
    Ok(PyBytes::new(py, &done.encode_to_vec()))
}
