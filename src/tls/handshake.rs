//! A handshake for its own sake: what the server shows, and whether it accepts us. The clients do not tell.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::{TlsFiles, Validity, certificates};

/// With TLS 1.3 a server looks at our certificate after the handshake has ended here.
const REFUSAL_LIMIT: Duration = Duration::from_millis(300);

/// What a server showed.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) version: &'static str,
    /// Hosts that its certificate is for.
    pub(crate) names: Vec<String>,
    /// The end of its certificate.
    pub(crate) until: OffsetDateTime,
}

/// The files as they are at the moment, for clients that take the library's own type.
///
/// # Errors
/// When a file cannot be used.
pub(crate) fn client_config(files: &TlsFiles) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut roots = rustls::RootCertStore::empty();
    let trusted = match &files.ca {
        Some(ca) => certificates(ca).map_err(|why| format!("{} {why}", ca.display()))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(trusted);
    let builder = builder.with_root_certificates(roots);
    let Some(identity) = &files.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let (certificate, key) = (&identity.certificate, &identity.key);
    let chain =
        certificates(certificate).map_err(|why| format!("{} {why}", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| error.to_string());
    let private = private.map_err(|why| format!("{}: {why}", key.display()))?;
    let client = builder.with_client_auth_cert(chain, private);
    client.map_err(|error| error.to_string())
}

/// Shakes hands, and waits whether the server refuses us.
///
/// # Errors
/// Those of `rustls` are inside.
pub(crate) async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    files: &TlsFiles,
    protocol: Option<&[u8]>,
) -> io::Result<Peer> {
    let mut config = client_config(files).map_err(io::Error::other)?;
    config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await?;
    let answer = tokio::time::timeout(REFUSAL_LIMIT, stream.read(&mut [0])).await;
    if let Ok(Err(error)) = answer {
        return Err(error);
    }
    let (_, connection) = stream.get_ref();
    let shown = connection.peer_certificates().unwrap_or_default();
    let first = shown
        .first()
        .ok_or_else(|| io::Error::other("no certificate"))?;
    Ok(Peer {
        version: match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS 1.3",
        },
        names: names(first),
        until: Validity::of(first).map_err(io::Error::other)?.until,
    })
}

fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let of_hosts = parsed.tbs_certificate().get_extension::<SubjectAltName>();
    let Ok(Some((_, of_hosts))) = of_hosts else {
        return vec![parsed.tbs_certificate().subject().to_string()];
    };
    let name = |name: GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => ip(bytes.as_bytes()),
        _ => None,
    };
    of_hosts.0.into_iter().filter_map(name).collect()
}

fn ip(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
    let v6 =
        || <[u8; 16]>::try_from(bytes).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string());
    v4.or_else(|_| v6()).ok()
}
