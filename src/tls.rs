//! Links with TLS: the one place that reads and checks certificates and keys, and that says why a handshake
//! failed. There is one crypto provider, *ring*.

mod handshake;
mod refusal;

use std::path::{Path, PathBuf};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_cert::Certificate;
use x509_cert::der::Decode;

pub(crate) use handshake::{Peer, client_config, handshake};
pub(crate) use refusal::{LinkVariables, refusal};

/// The files of a link. Clients read them again for each connection, so that a renewed certificate needs no
/// restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Who may sign the server's certificate; `None`: whom this system trusts.
    pub(crate) ca: Option<PathBuf>,
    /// What ganesh shows to the server.
    pub(crate) identity: Option<IdentityFiles>,
}

/// A certificate with its chain, and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdentityFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl TlsFiles {
    pub(crate) fn is_empty(&self) -> bool {
        self.ca.is_none() && self.identity.is_none()
    }
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) from: OffsetDateTime,
    pub(crate) until: OffsetDateTime,
}

impl Validity {
    /// # Errors
    /// When `certificate` is none.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed = Certificate::from_der(certificate);
        let parsed = parsed.map_err(|_| "holds something that is no certificate".to_owned())?;
        let validity = parsed.tbs_certificate().validity();
        let at = |time: &x509_cert::time::Time| {
            let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
            OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };
        Ok(Self {
            from: at(&validity.not_before),
            until: at(&validity.not_after),
        })
    }

    fn check(self) -> Result<(), String> {
        let now = OffsetDateTime::now_utc();
        if now > self.until {
            return Err(format!("expired at {}", rfc3339(self.until)));
        }
        if now < self.from {
            return Err(format!("is not valid before {}", rfc3339(self.from)));
        }
        Ok(())
    }
}

pub(crate) fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// The certificates in a file.
///
/// # Errors
/// Why there are none, in words that follow the file's name.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("has no certificate in PEM".to_owned()),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let none = "has no private key in PEM, or one with a passphrase";
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|_| none.to_owned())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("cannot be read ({error})"))
}

/// Checks that a file holds authorities, of which one at least is valid today.
///
/// # Errors
/// See [`certificates`].
pub(crate) fn check_ca(file: &Path) -> Result<(), String> {
    let mut found = Err(String::new());
    for certificate in certificates(file)? {
        let mut roots = rustls::RootCertStore::empty();
        let validity = Validity::of(&certificate)?;
        let added = roots.add(certificate);
        added.map_err(|_| "holds a certificate that can be no authority".to_owned())?;
        found = found.or_else(|_| validity.check());
    }
    found
}

/// Checks that a file begins with a certificate that is valid today.
///
/// # Errors
/// See [`certificates`].
pub(crate) fn check_certificate(file: &Path) -> Result<(), String> {
    Validity::of(&certificates(file)?[0])?.check()
}

/// Checks that the key is that of the certificate.
///
/// # Errors
/// What is wrong with the key, in words that follow its file's name.
pub(crate) fn check_key(files: &IdentityFiles) -> Result<(), String> {
    let key = private_key(&files.key)?;
    let Ok(certificates) = certificates(&files.certificate) else {
        return Ok(());
    };
    match CertifiedKey::from_der(certificates, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("does not fit the certificate".to_owned()),
        Err(_) => Err("holds a key of a kind that is not supported".to_owned()),
    }
}
