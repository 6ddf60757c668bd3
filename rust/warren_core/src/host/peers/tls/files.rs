//! This member's certificate, its key and the CA: read at the start, and anew when the files change.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error as TlsError, RootCertStore, ServerConfig};

use super::super::reports::{About, Reports};
use super::verify::{self, Managers};
use super::{PROTOCOL, explain};
use crate::error::Error;
use crate::identity::{Role, SpiffeId};
use crate::ids::NodeId;

/// A longer file is no certificate.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How long files that were refused are let alone, unless they change.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

/// Where the certificate lies by which other managers know this one; all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The cluster's CA; several while one replaces another.
    pub ca: PathBuf,
    /// This node's certificate, followed by those between it and the CA, if any.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// What connections are made with.
pub struct Loaded {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
}

/// The newest files that could be used.
pub struct Current {
    files: TlsFiles,
    node: NodeId,
    reports: Arc<Reports>,
    state: Mutex<State>,
}

struct State {
    loaded: Arc<Loaded>,
    /// Of the files when they were last read, whether or not they could be used.
    read: Stamps,
    /// When those that were read last were refused, if they were: they are tried again. A certificate
    /// that is not valid yet becomes so, and no file changes by that.
    refused_at: Option<Instant>,
}

/// Which content a file has, as far as its directory entry tells.
type Stamps = [Option<(u64, u64, u64, i64, i64)>; 3];

impl Current {
    pub fn open(files: TlsFiles, node: NodeId, reports: Arc<Reports>) -> Result<Self, Error> {
        // Taken first: what is written meanwhile is read at the next look.
        let read = stamps(&files);
        let loaded = Arc::new(load(&files, node)?);
        Ok(Self {
            files,
            node,
            reports,
            state: Mutex::new(State {
                loaded,
                read,
                refused_at: None,
            }),
        })
    }

    /// Of files that are not checked: so that it is the other side that finds what is wrong.
    #[cfg(test)]
    pub fn unchecked(files: TlsFiles, node: NodeId, reports: Arc<Reports>) -> Self {
        let parts = Parts::read(&files).unwrap();
        let id = verify::identity(&parts.certificate.cert[0]);
        let trust_domain = id.map_or_else(|_| "c".to_owned(), |id| id.trust_domain().to_owned());
        let managers = parts.managers(&files, &trust_domain).unwrap();
        let loaded = Arc::new(parts.configure(&files, managers).unwrap());
        let read = stamps(&files);
        Self {
            files,
            node,
            reports,
            state: Mutex::new(State {
                loaded,
                read,
                refused_at: None,
            }),
        }
    }

    /// What to make the next connection with: three calls of `stat` if nothing has changed.
    pub fn get(&self) -> Arc<Loaded> {
        self.get_at(Instant::now())
    }

    /// [`Current::get`] by another clock.
    pub(super) fn get_at(&self, at: Instant) -> Arc<Loaded> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        let again = state
            .refused_at
            .is_some_and(|refused_at| at >= refused_at + AGAIN);
        if now != state.read || again {
            state.read = now;
            state.refused_at = (!self.reload(&mut state)).then_some(at);
        }
        state.loaded.clone()
    }

    /// False if what is there now cannot be used.
    fn reload(&self, state: &mut State) -> bool {
        match load(&self.files, self.node) {
            Ok(loaded) => {
                state.loaded = Arc::new(loaded);
                let cert = self.files.cert.display();
                let news =
                    format!("new certificate in {cert}: connections made from now on use it");
                if !self.reports.over(About::Files, || news.clone()) {
                    self.reports.news(news);
                }
                true
            }
            // Files are replaced one after the other: this may be over at the next look.
            Err(error) => {
                self.reports.trouble(
                    About::Files,
                    format!(
                        "changed certificate files are not used, those read before stay in use: \
                         {error}"
                    ),
                );
                false
            }
        }
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    [&files.ca, &files.cert, &files.key].map(|path| {
        let found = std::fs::metadata(path).ok()?;
        let (device, inode, bytes) = (found.dev(), found.ino(), found.size());
        // The change time follows a write as the modification time does, and also a permission to
        // read that was missing, and a copy that keeps its original's times.
        Some((device, inode, bytes, found.ctime(), found.ctime_nsec()))
    })
}

fn load(files: &TlsFiles, node: NodeId) -> Result<Loaded, Error> {
    let parts = Parts::read(files)?;
    let id = own_identity(&files.cert, &parts.certificate.cert, node)?;
    let managers = parts.managers(files, id.trust_domain())?;
    is_accepted(files, &managers, &parts.certificate.cert)?;
    parts.configure(files, managers)
}

/// What is in the files.
struct Parts {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    certificate: CertifiedKey,
}

impl Parts {
    fn read(files: &TlsFiles) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots(&files.ca)?);
        let chain = certificates(&files.cert)?;
        let certificate = certified_key(files, chain, &provider)?;
        Ok(Self {
            provider,
            roots,
            certificate,
        })
    }

    fn managers(&self, files: &TlsFiles, trust_domain: &str) -> Result<Arc<Managers>, Error> {
        let (roots, provider) = (self.roots.clone(), self.provider.clone());
        match Managers::new(trust_domain, roots, provider) {
            Ok(managers) => Ok(Arc::new(managers)),
            Err(error) => {
                let why = format!("{error}; it has to be the certificate of the cluster's CA");
                Err(unusable(&files.ca, &why))
            }
        }
    }

    fn configure(self, files: &TlsFiles, managers: Arc<Managers>) -> Result<Loaded, Error> {
        let certificate = Arc::new(SingleCertAndKey::from(self.certificate));
        configurations(self.provider, managers, certificate)
            .map_err(|error| unusable(&files.cert, &format!("{error}; issue it anew")))
    }
}

fn configurations(
    provider: Arc<CryptoProvider>,
    managers: Arc<Managers>,
    certificate: Arc<SingleCertAndKey>,
) -> Result<Loaded, TlsError> {
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(managers.clone())
        .with_client_cert_resolver(certificate.clone());
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    client.enable_sni = false;
    client.resumption = Resumption::disabled();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(managers)
        .with_cert_resolver(certificate);
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Loaded {
        client: Arc::new(client),
        server: Arc::new(server),
    })
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            let why = format!("{error}; it has to be the certificate of the cluster's CA");
            unusable(path, &why)
        })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let content = content(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.map_err(|error| {
        let why = format!("it is no PEM ({error}); write it anew from where it was issued");
        unusable(path, &why)
    })?;
    if found.is_empty() {
        let why = "there is no certificate in PEM in it; see that it is the right file";
        return Err(unusable(path, why));
    }
    Ok(found)
}

fn own_identity(
    path: &Path,
    chain: &[CertificateDer<'_>],
    node: NodeId,
) -> Result<SpiffeId, Error> {
    let id = verify::identity(&chain[0]).map_err(|unfit| unusable(path, &unfit.to_string()))?;
    if id.role() != Role::Manager {
        let role = id.role();
        let why =
            format!("it is the certificate of a {role}, and this is to be a manager; issue one");
        return Err(unusable(path, &why));
    }
    if id.node() != Some(node) {
        let other = id.name();
        let why = format!(
            "it is the certificate of node {other}, and this is node {node}; put this node's own \
             there"
        );
        return Err(unusable(path, &why));
    }
    Ok(id)
}

fn certified_key(
    files: &TlsFiles,
    chain: Vec<CertificateDer<'static>>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Error> {
    let key = PrivateKeyDer::from_pem_slice(&content(&files.key)?).map_err(|error| {
        let why = format!(
            "there is no private key in PEM in it ({error}); see that it is the right file, not \
             encrypted"
        );
        unusable(&files.key, &why)
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let cert = files.cert.display();
        let why = match error {
            TlsError::InconsistentKeys(_) => format!(
                "it is not the key of the certificate in {cert}; put the two that were made \
                 together there"
            ),
            other => format!("{other}; make a new key and certificate"),
        };
        unusable(&files.key, &why)
    })
}

/// Judged as the others will judge it, so that it is this member that says what is wrong.
fn is_accepted(
    files: &TlsFiles,
    managers: &Managers,
    chain: &[CertificateDer<'_>],
) -> Result<(), Error> {
    let (own, between) = chain.split_first().expect("it was not empty when read");
    let (now, name) = (
        UnixTime::now(),
        ServerName::from(std::net::IpAddr::from([0; 4])),
    );
    let as_server = managers.verify_server_cert(own, between, &name, &[], now);
    let as_client = managers.verify_client_cert(own, between, now);
    let Err(error) = as_server.and(as_client.map(|_| ())) else {
        return Ok(());
    };
    let why = match &error {
        TlsError::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
        ) => {
            let ca = files.ca.display();
            format!("it does not come from the CA in {ca}; put certificates of the same CA there")
        }
        TlsError::InvalidCertificate(why) => explain::certificate(why),
        other => format!("{other}; issue it anew"),
    };
    Err(unusable(&files.cert, &why))
}

fn content(path: &Path) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| {
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
        Ok(())
    });
    read.map_err(|error| {
        let why = format!("{error}; see that it is there and that the daemon may read it");
        unusable(path, &why)
    })?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(unusable(
            path,
            "it is longer than 1 MiB; see that it is the right file",
        ));
    }
    Ok(content)
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::DataDir {
        path: path.display().to_string(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, Leaf, paths, write};
    use super::super::tests::TempDir;
    use super::*;

    const NODE: NodeId = NodeId([1; 16]);

    fn files_in(dir: &TempDir) -> TlsFiles {
        let [ca, cert, key] = paths(&dir.0);
        TlsFiles { ca, cert, key }
    }

    fn refusal(files: &TlsFiles, file: &str) -> String {
        let Err(error) = load(files, NODE) else {
            panic!("they are usable");
        };
        assert_eq!(error.code(), "data_dir");
        let sentence = error.to_string();
        let named = sentence.split(": ").next().unwrap_or_default();
        assert!(named.ends_with(file), "{sentence}");
        assert!(sentence.contains(';'), "no advice: {sentence}");
        sentence
    }

    #[test]
    fn a_start_refuses_what_others_would_and_names_the_file() {
        let (ours, dir) = (Authority::new("c"), TempDir::new());
        let files = files_in(&dir);
        let good = ours.manager(NODE.0);
        write(&dir.0, &ours.pem, &good);
        assert!(load(&files, NODE).is_ok());
        let mut leaf = Leaf {
            uris: vec![ours.uri("manager", NODE.0)],
            years: (2020, 2021),
            ..Leaf::default()
        };
        write(&dir.0, &ours.pem, &ours.issue(&leaf));
        assert!(refusal(&files, "cert.pem").contains("expired at 2021-01-01T00:00:00Z"));
        leaf = Leaf {
            uris: vec![],
            ..Leaf::default()
        };
        write(&dir.0, &ours.pem, &ours.issue(&leaf));
        assert!(refusal(&files, "cert.pem").contains("carries 0 URIs"));
        leaf.uris = vec![ours.uri("worker", NODE.0)];
        write(&dir.0, &ours.pem, &ours.issue(&leaf));
        assert!(refusal(&files, "cert.pem").contains("certificate of a worker"));
        write(&dir.0, &ours.pem, &ours.manager([2; 16]));
        let node = "02".repeat(16);
        assert!(refusal(&files, "cert.pem").contains(&format!("certificate of node {node}")));
        write(&dir.0, &Authority::new("c").pem, &good);
        assert!(refusal(&files, "cert.pem").contains("does not come from the CA in"));
    }

    #[test]
    fn a_start_refuses_files_that_do_not_belong_together_or_are_none() {
        let (ours, dir) = (Authority::new("c"), TempDir::new());
        let files = files_in(&dir);
        let (good, other) = (ours.manager(NODE.0), ours.manager(NODE.0));
        write(&dir.0, &ours.pem, &good);
        std::fs::write(&files.key, &other.key_pem).unwrap();
        assert!(refusal(&files, "key.pem").contains("not the key of the certificate in"));
        std::fs::write(&files.key, &good.pem).unwrap();
        assert!(refusal(&files, "key.pem").contains("no private key in PEM"));
        for (file, content) in [("ca.pem", ""), ("cert.pem", &good.key_pem)] {
            write(&dir.0, &ours.pem, &good);
            std::fs::write(dir.0.join(file), content).unwrap();
            assert!(refusal(&files, file).contains("no certificate in PEM"));
        }
        write(&dir.0, &ours.pem, &good);
        std::fs::write(&files.cert, &good.pem[..good.pem.len() / 2]).unwrap();
        assert!(refusal(&files, "cert.pem").contains("it is no PEM"));
        let broken = good.pem.replacen("\nM", "\nN", 1);
        std::fs::write(&files.ca, broken).unwrap();
        std::fs::write(&files.cert, &good.pem).unwrap();
        assert!(
            refusal(&files, "ca.pem").contains("has to be the certificate of the cluster's CA")
        );
        std::fs::write(&files.ca, vec![b'x'; 2 << 20]).unwrap();
        assert!(refusal(&files, "ca.pem").contains("longer than 1 MiB"));
        std::fs::remove_file(&files.ca).unwrap();
        assert!(refusal(&files, "ca.pem").contains("No such file"));
    }
}
