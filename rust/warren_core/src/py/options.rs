//! Arguments from Python, as the core's own types.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::control::Identity;
use crate::error::Error;
use crate::host::{PeerOptions, TlsFiles};
use crate::identity::SpiffeId;
use crate::ids::{ClusterId, MemberId};

/// Trust domain, role and name of the identity that a certificate carries.
#[pyfunction]
pub fn parse_spiffe(uri: &str) -> PyResult<(String, &'static str, String)> {
    let id = SpiffeId::parse(uri)?;
    let (domain, role, name) = (id.trust_domain(), id.role().as_str(), id.name());
    Ok((domain.to_owned(), role, name.to_owned()))
}

/// All of the arguments, or none: a daemon opens no port to others without certificates.
pub fn peers(
    listen: Option<&str>,
    address: Option<String>,
    files: [Option<PathBuf>; 3],
) -> Result<Option<PeerOptions>, Error> {
    let (listen, address, ca, cert, key) = match (listen, address, files) {
        (None, None, [None, None, None]) => return Ok(None),
        (Some(listen), Some(address), [Some(ca), Some(cert), Some(key)]) => {
            (listen, address, ca, cert, key)
        }
        _ => {
            return Err(Error::Invalid {
                what: "settings for other managers",
                why: "some are missing; give an address to listen on, one to be reached at, a CA, \
                      a certificate and its key, or none of these"
                    .to_owned(),
            });
        }
    };
    let listen = listen.parse().map_err(|_| Error::Invalid {
        what: "address that other members are to reach",
        why: format!("{listen:?}; say ADDRESS:PORT or [ADDRESS]:PORT, with a number each"),
    })?;
    Ok(Some(PeerOptions {
        listen,
        address,
        tls: Some(TlsFiles { ca, cert, key }),
    }))
}

/// Of a member that was admitted; member 0 is nobody.
pub fn identity(
    cluster: &[u8],
    epoch: u64,
    member: u64,
    data_dir: &[u8],
) -> Result<Identity, Error> {
    let invalid = |why: String| Error::Invalid {
        what: "membership",
        why,
    };
    if member == 0 {
        return Err(invalid("no member has id 0".to_owned()));
    }
    let data_dir = data_dir.try_into().map_err(|_| {
        let bytes = data_dir.len();
        invalid(format!(
            "its data directory's id has {bytes} bytes instead of 16"
        ))
    })?;
    Ok(Identity {
        cluster: ClusterId::from_slice(cluster)?,
        epoch,
        member: MemberId(member),
        data_dir,
    })
}
