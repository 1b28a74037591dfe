//! The exporter of spans: gRPC or HTTP, with TLS, headers and compression as they are configured.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hyper::header::{HeaderMap, HeaderName};
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{
    Compression, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};

use crate::config::{OtlpConfig, OtlpProtocol};
use crate::tls::{self, TlsFiles};

/// Attempts after the first one, as long as the timeout has not passed.
const RETRIES_MAX: usize = 3;
/// The pause before the first of them; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// No collector has to be there: the exporter connects when it has something.
///
/// # Errors
/// When the endpoint or a file cannot be used.
pub(super) fn build(config: &OtlpConfig) -> anyhow::Result<SpanExporter> {
    match config.protocol {
        OtlpProtocol::Grpc => over_grpc(config),
        OtlpProtocol::Http => over_http(config),
    }
}

fn retries() -> RetryPolicy {
    RetryPolicy::recommended()
        .with_max_retries(RETRIES_MAX)
        .with_initial_delay(RETRY_PAUSE)
}

fn over_grpc(config: &OtlpConfig) -> anyhow::Result<SpanExporter> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).context("a header's name")?;
        headers.insert(name, value.expose().parse().context("a header's value")?);
    }
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(config.endpoint.expose())
        .with_timeout(config.timeout)
        .with_metadata(MetadataMap::from_headers(headers))
        .with_retry_policy(retries());
    if config.has_gzip {
        exporter = exporter.with_compression(Compression::Gzip);
    }
    if config.is_encrypted() {
        exporter = exporter.with_tls_config(tls_of_tonic(&config.tls)?);
    }
    Ok(exporter.build()?)
}

fn tls_of_tonic(files: &TlsFiles) -> anyhow::Result<ClientTlsConfig> {
    let mut tls = ClientTlsConfig::new();
    tls = match &files.ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => tls.with_native_roots(),
    };
    if let Some(identity) = &files.identity {
        let (certificate, key) = (read(&identity.certificate)?, read(&identity.key)?);
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(tls)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| file.display().to_string())
}

fn over_http(config: &OtlpConfig) -> anyhow::Result<SpanExporter> {
    let tls = tls::client_config(&config.tls).map_err(anyhow::Error::msg)?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    let client = HyperClient::new(connector, config.timeout, None);
    let headers = config.headers.iter();
    let headers = headers.map(|(name, value)| (name.clone(), value.expose().to_owned()));
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(config.endpoint.expose())
        .with_timeout(config.timeout)
        .with_headers(headers.collect::<HashMap<_, _>>())
        .with_retry_policy(retries());
    if config.has_gzip {
        exporter = exporter.with_compression(Compression::Gzip);
    }
    Ok(exporter.build()?)
}
