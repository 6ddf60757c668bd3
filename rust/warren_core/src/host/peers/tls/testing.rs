//! Certificates for tests: a CA, and what it issues.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// A CA, of a cluster with this name.
pub struct Authority {
    pub trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// What a certificate is to say.
pub struct Leaf {
    pub uris: Vec<String>,
    pub dns_name: Option<String>,
    pub years: (i32, i32),
    /// From when on, since 1970, instead of the first of `years`.
    pub since: Option<Duration>,
    pub purposes: Vec<Purpose>,
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            uris: Vec::new(),
            dns_name: None,
            years: (2020, 2100),
            since: None,
            purposes: vec![Purpose::ServerAuth, Purpose::ClientAuth],
        }
    }
}

/// A certificate with its key.
pub struct Issued {
    pub der: Vec<u8>,
    pub pem: String,
    pub key_pem: String,
}

impl Authority {
    pub fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, format!("CA of {trust_domain}"));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            trust_domain: trust_domain.to_owned(),
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    pub fn issue(&self, leaf: &Leaf) -> Issued {
        let mut params = CertificateParams::default();
        let uris = leaf.uris.iter();
        let uris = uris.map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        let dns = leaf.dns_name.iter();
        let dns = dns.map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
        params.subject_alt_names = dns.chain(uris).collect();
        params.not_before = match leaf.since {
            Some(since) => date_time_ymd(1970, 1, 1) + since,
            None => date_time_ymd(leaf.years.0, 1, 1),
        };
        params.not_after = date_time_ymd(leaf.years.1, 1, 1);
        params.extended_key_usages = leaf.purposes.clone();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// The identity of a node in this cluster.
    pub fn uri(&self, role: &str, node: [u8; 16]) -> String {
        let name: String = node.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("spiffe://{}/{role}/{name}", self.trust_domain)
    }

    /// A manager's certificate.
    pub fn manager(&self, node: [u8; 16]) -> Issued {
        self.issue(&Leaf {
            uris: vec![self.uri("manager", node)],
            ..Leaf::default()
        })
    }
}

/// Where the files of one member lie.
pub fn paths(dir: &Path) -> [PathBuf; 3] {
    ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name))
}

/// Each file appears whole under its name, as an operator's tool would do it.
pub fn write(dir: &Path, ca: &str, issued: &Issued) {
    let contents = [ca, &issued.pem, &issued.key_pem];
    for (path, content) in paths(dir).iter().zip(contents) {
        let new = path.with_extension("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(&new, path).unwrap();
    }
}
