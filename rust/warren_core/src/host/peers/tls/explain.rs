//! What went wrong between two members, in words that say what to do.
//!
//! A sentence stays the same as long as its reason does: it holds no time that passes, so that a
//! trouble is told once.

use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::super::super::clock;
use super::super::stream::Failure;
use super::verify::Unfit;

/// Which side of the connection this member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Dialled,
    Accepted,
}

/// A TLS library's error on its way through [`io::Error`].
pub fn wrap(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What a failed greeting was.
pub fn failure(error: io::Error, side: Side) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    if let Some(inner) = inner {
        return Failure::Refused(tls(inner));
    }
    match (error.kind(), side) {
        (io::ErrorKind::TimedOut, _) => Failure::Refused(
            "it did not finish the handshake in time; it is overloaded, or does not speak TLS"
                .to_owned(),
        ),
        // Who connects and goes away again does no harm; who answers so keeps a member away.
        (io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset, Side::Dialled) => {
            Failure::Refused(
                "it closed the connection during the handshake; its own log may say why, and it \
                 may run without certificates"
                    .to_owned(),
            )
        }
        _ => Failure::Broken(error),
    }
}

fn tls(error: &TlsError) -> String {
    match error {
        TlsError::InvalidCertificate(why) => certificate(why),
        TlsError::NoCertificatesPresented => {
            "it shows no certificate; only managers of this cluster may connect here".to_owned()
        }
        TlsError::AlertReceived(alert) => refused_us(*alert),
        TlsError::PeerIncompatible(_) => format!(
            "it cannot speak TLS 1.3 as managers do ({error}); upgrade it, or see what it is that \
             runs there"
        ),
        TlsError::InvalidMessage(_) => {
            "it does not speak TLS; it is no manager, or one without certificates".to_owned()
        }
        TlsError::NoApplicationProtocol => {
            "it speaks TLS, but not as a manager does to others; correct the address".to_owned()
        }
        other => format!("the handshake failed ({other}); repeat it with a current release"),
    }
}

/// A clause about a certificate, whose `its` is the bearer.
pub fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Other(other) => match other.0.downcast_ref::<Unfit>() {
            Some(unfit) => unfit.to_string(),
            None => format!("its certificate is refused ({other}); issue it anew"),
        },
        CertificateError::Expired => "its certificate has expired; renew it".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "its certificate expired at {}; renew it, or set the clocks",
            utc(*not_after)
        ),
        CertificateError::NotValidYet => {
            "its certificate is not valid yet; set the clocks".to_owned()
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "its certificate is not valid before {}; set the clocks",
            utc(*not_before)
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate comes from another CA than this manager's; it belongs to another \
             cluster, or one of the two has old files: give both certificates of the same CA"
                .to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not made for both sides of a connection; issue it anew, with \
             server and client authentication as its extended key usage"
                .to_owned()
        }
        other => format!("its certificate is refused ({other}); issue it anew"),
    }
}

/// The other side's word about this member's certificate.
fn refused_us(alert: AlertDescription) -> String {
    let what = match alert {
        AlertDescription::CertificateExpired => {
            "it takes this manager's certificate for expired or not valid yet; renew it, or set \
             the clocks"
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it does not know the CA of this manager's certificate; it belongs to another cluster, \
             or one of the two has old files: give both certificates of the same CA"
        }
        AlertDescription::UnsupportedCertificate => {
            "this manager's certificate is not made for both sides of a connection; issue it anew, \
             with server and client authentication as its extended key usage"
        }
        AlertDescription::CertificateRequired => {
            "it saw no certificate of this manager; see that the files are a manager's"
        }
        AlertDescription::CertificateUnknown => {
            "it refuses this manager's certificate, whose cluster, role or identity does not fit; \
             its log says which"
        }
        AlertDescription::NoApplicationProtocol => {
            "it speaks TLS, but not as a manager does to others; correct the address"
        }
        AlertDescription::ProtocolVersion => {
            "it does not speak TLS 1.3; upgrade it, or see what it is that runs there"
        }
        other => return format!("it broke off the handshake ({other:?}); its log may say why"),
    };
    what.to_owned()
}

/// As `2026-01-31T12:00:00Z`.
pub fn utc(at: UnixTime) -> String {
    clock::utc(Duration::from_secs(at.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_write_them() {
        let told = |seconds| utc(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        assert_eq!(told(0), "1970-01-01T00:00:00Z");
        assert_eq!(told(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(told(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(told(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(told(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(told(1_767_225_600), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn no_reason_is_without_advice() {
        for alert in 0..=255 {
            let told = refused_us(AlertDescription::from(alert));
            assert!(told.contains(';'), "{told}");
        }
        for why in [
            CertificateError::BadEncoding,
            CertificateError::Expired,
            CertificateError::NotValidYet,
            CertificateError::Revoked,
            CertificateError::UnknownIssuer,
            CertificateError::InvalidPurpose,
        ] {
            assert!(certificate(&why).contains(';'));
        }
    }
}
