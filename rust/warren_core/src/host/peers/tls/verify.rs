//! Whose certificates count.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};

use super::uris::uris;
use crate::identity::{Role, SpiffeId};
use crate::ids::NodeId;

/// Why a certificate that chains to the CA is not one to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It carries so many URIs.
    Uris(usize),
    /// Its identity is none, for this reason.
    Identity(String),
    OtherCluster {
        theirs: String,
        ours: String,
    },
    NoManager(Role),
    OtherNode {
        wanted: NodeId,
        found: Option<NodeId>,
    },
}

/// A clause whose `it` is the other side, with what to do.
impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uris(count) => write!(
                f,
                "its certificate carries {count} URIs and has to carry one, its identity; issue it \
                 anew with the cluster's CA"
            ),
            Self::Identity(why) => write!(
                f,
                "its certificate has no identity ({why}); issue it anew with the cluster's CA"
            ),
            Self::OtherCluster { theirs, ours } => write!(
                f,
                "it belongs to cluster {theirs:?} by its certificate, this manager to {ours:?}; one \
                 of the two has the wrong address or the wrong certificate"
            ),
            Self::NoManager(role) => write!(
                f,
                "its certificate is that of a {role}, and only managers talk here; give it a \
                 manager's"
            ),
            Self::OtherNode { wanted, found } => {
                let found = found.map_or_else(|| "none".to_owned(), |node| node.to_string());
                write!(
                    f,
                    "node {found} answers there, and the member is on node {wanted}; correct its \
                     address, or give that node its own certificate back"
                )
            }
        }
    }
}

impl std::error::Error for Unfit {}

impl From<Unfit> for rustls::Error {
    fn from(unfit: Unfit) -> Self {
        CertificateError::Other(OtherError(Arc::new(unfit))).into()
    }
}

/// The one identity in a certificate.
pub fn identity(certificate: &CertificateDer<'_>) -> Result<SpiffeId, Unfit> {
    let found = uris(certificate).ok_or(Unfit::Uris(0))?;
    let [uri] = found[..] else {
        return Err(Unfit::Uris(found.len()));
    };
    SpiffeId::parse(uri).map_err(|error| Unfit::Identity(error.to_string()))
}

/// Whether the node that answers is the one that is wanted there, if a certain one is.
pub fn is_node(found: Option<NodeId>, wanted: Option<NodeId>) -> io::Result<()> {
    match wanted {
        Some(wanted) if found != Some(wanted) => {
            let unfit = Unfit::OtherNode { wanted, found };
            Err(super::explain::wrap(unfit.into()))
        }
        _ => Ok(()),
    }
}

/// Certificates of the managers of one cluster, on either side of a connection.
#[derive(Debug)]
pub struct Managers {
    trust_domain: String,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Managers {
    /// Those whose certificates chain to `roots` and name `trust_domain`.
    pub fn new(
        trust_domain: &str,
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            roots,
            provider,
            clients,
        })
    }

    fn is_manager(&self, certificate: &CertificateDer<'_>) -> Result<(), Unfit> {
        let id = identity(certificate)?;
        if id.trust_domain() != self.trust_domain {
            return Err(Unfit::OtherCluster {
                theirs: id.trust_domain().to_owned(),
                ours: self.trust_domain.clone(),
            });
        }
        match id.role() {
            Role::Manager => Ok(()),
            other => Err(Unfit::NoManager(other)),
        }
    }
}

impl ServerCertVerifier for Managers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        self.is_manager(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Managers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Who dials has one certificate and needs no hint which.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .clients
            .verify_client_cert(end_entity, intermediates, now)?;
        self.is_manager(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
