//! Why a handshake failed, in words that name the variable to correct.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError};
use time::OffsetDateTime;

use super::{TlsFiles, rfc3339};

/// The variables of a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkVariables {
    pub(crate) url: &'static str,
    pub(crate) ca: &'static str,
    pub(crate) certificate: &'static str,
    pub(crate) key: &'static str,
}

/// Returns what one side did not accept in the other; `None` when the error is about something else, such as a
/// connection that broke. Trying again does not help.
pub(crate) fn refusal(
    error: &(dyn Error + 'static),
    files: &TlsFiles,
    names: LinkVariables,
) -> Option<String> {
    let words = match find(error)? {
        rustls::Error::InvalidCertificate(error) => of_server(error, files, names),
        rustls::Error::AlertReceived(alert) => of_client(*alert, files, names)?,
        rustls::Error::InvalidMessage(_) => {
            format!("no TLS is spoken there: correct {}", names.url)
        }
        rustls::Error::PeerIncompatible(why) => {
            format!("the server's TLS does not go with ours ({why:?}): allow TLS 1.2 or 1.3 there")
        }
        _ => return None,
    };
    Some(format!("TLS: {words}"))
}

/// What clients wrap causes in.
type Shared = Arc<dyn Error + Send + Sync>;

/// The first error of rustls among the causes. An `io::Error` and an `Arc` hide what they were made of.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>();
        let inner = inner.and_then(io::Error::get_ref);
        let shared = error.downcast_ref::<Shared>();
        cause = match (inner, shared) {
            (Some(inner), _) => Some(inner as &(dyn Error + 'static)),
            (None, Some(shared)) => Some(shared.as_ref() as &(dyn Error + 'static)),
            (None, None) => error.source(),
        };
    }
    None
}

fn of_server(error: &CertificateError, files: &TlsFiles, names: LinkVariables) -> String {
    let LinkVariables { url, ca, .. } = names;
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => match &files.ca {
            Some(_) => {
                format!("no authority in {ca} signed the server's certificate: correct {ca}")
            }
            None => format!(
                "no authority that this system trusts signed the server's certificate: set or correct {ca}"
            ),
        },
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "the server's certificate, or that of its authority, expired at {}: renew it",
            at(not_after.as_secs())
        ),
        CertificateError::Expired => {
            "the server's certificate, or that of its authority, expired: renew it".to_owned()
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the server's certificate is not valid before {}: correct it, or the clock",
            at(not_before.as_secs())
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            // A name without its wrapping, such as DnsName("db.example").
            let presented: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            format!(
                "the server's certificate is for {}, not for {}: name that host in {url}, or give the server another certificate",
                if presented.is_empty() {
                    "no host".to_owned()
                } else {
                    presented.join(", ")
                },
                expected.to_str()
            )
        }
        CertificateError::NotValidForName => {
            format!("the server's certificate is for another host than that in {url}")
        }
        other => format!("the server's certificate is not accepted ({other})"),
    }
}

fn bare(name: &str) -> &str {
    let inside = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(name).trim_matches('"')
}

/// What the server says of our certificate.
fn of_client(alert: AlertDescription, files: &TlsFiles, names: LinkVariables) -> Option<String> {
    let is_about_certificate = matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // An authority of that name has another key.
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure
    );
    let LinkVariables {
        certificate, key, ..
    } = names;
    // Others say that there was one.
    let may_lack_one = matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::HandshakeFailure
            | AlertDescription::AccessDenied
    );
    is_about_certificate.then(|| match &files.identity {
        None if may_lack_one => format!(
            "the server wants a client certificate ({alert:?}): set or correct {certificate} and {key}"
        ),
        _ => format!(
            "the server does not accept the client certificate ({alert:?}): correct {certificate} and {key}"
        ),
    })
}

fn at(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).map_or_else(|_| "?".to_owned(), rfc3339)
}
