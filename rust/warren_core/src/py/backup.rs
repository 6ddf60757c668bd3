//! Backups, and cores that begin a new epoch.

use std::path::{Path, PathBuf};

use prost::Message;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::Core;
use crate::control::durable::Wanted;
use crate::error::Error;
use crate::host::{self, Host, Options};
use crate::ids::ClusterId;

/// The encoded header of the backup at `file`, once all of it was read and is whole.
#[pyfunction]
pub fn inspect_backup(py: Python<'_>, file: PathBuf) -> PyResult<Bound<'_, PyBytes>> {
    let header = py.detach(|| host::inspect_backup(&file))?;
    Ok(PyBytes::new(py, &header.encode_to_vec()))
}

/// A core, and what was done, encoded.
type Begun<'py> = (Core, Bound<'py, PyBytes>);

/// A core that is the only member of the cluster in the backup at `file`.
pub fn restored<'py>(
    py: Python<'py>,
    options: Options,
    file: &Path,
    epoch_min: u64,
    cluster: Option<&[u8]>,
) -> PyResult<Begun<'py>> {
    let cluster = cluster.map(ClusterId::from_slice).transpose()?;
    let wanted = Wanted {
        file,
        epoch_min,
        cluster,
    };
    begun(py, || Host::restore(options, wanted))
}

/// A core that is the only member of its cluster now.
pub fn recovered(py: Python<'_>, options: Options) -> PyResult<Begun<'_>> {
    begun(py, || Host::recover_quorum(options))
}

fn begun<M: Message + Send>(
    py: Python<'_>,
    begin: impl FnOnce() -> Result<(Host, M), Error> + Send,
) -> PyResult<Begun<'_>> {
    let (host, report) = py.detach(begin)?;
    Ok((Core { host }, PyBytes::new(py, &report.encode_to_vec())))
}
