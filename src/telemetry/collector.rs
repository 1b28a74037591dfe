//! A look at the collector's TLS, beside the exporter, which says little of why a handshake failed.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::config::{OtlpConfig, OtlpProtocol};
use crate::tls::{self, LinkVariables, Peer};

const VARIABLES: LinkVariables = LinkVariables {
    url: "OTEL_EXPORTER_OTLP_ENDPOINT",
    ca: "OTEL_EXPORTER_OTLP_CERTIFICATE",
    certificate: "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    key: "OTEL_EXPORTER_OTLP_CLIENT_KEY",
};
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Shakes hands with a collector that is asked over TLS.
///
/// # Errors
/// Why there is no connection, in words that name the variable to correct.
pub(crate) async fn peer(config: &OtlpConfig) -> Result<Peer, String> {
    let shaken = timeout(ANSWER_LIMIT, handshake(config)).await;
    let shaken = shaken.map_err(|_| "no answer in time".to_owned())?;
    shaken.map_err(|error| {
        tls::refusal(&error, &config.tls, VARIABLES).unwrap_or_else(|| error.to_string())
    })
}

async fn handshake(config: &OtlpConfig) -> io::Result<Peer> {
    let url = Url::parse(config.endpoint.expose()).map_err(io::Error::other)?;
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let address = (host.trim_matches(['[', ']']), port);
    let protocol: &[u8] = match config.protocol {
        OtlpProtocol::Grpc => b"h2",
        OtlpProtocol::Http => b"http/1.1",
    };
    let stream = TcpStream::connect(address).await?;
    tls::handshake(stream, host, &config.tls, Some(protocol)).await
}
