//! What each link negotiated, until when its certificate is valid, and whether it leaves this machine in plain text.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgSslMode;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::Findings;
use crate::config::{Config, NatsConfig, TracesExporter, files_of_postgres};
use crate::storage::pool;
use crate::telemetry::collector;
use crate::tls::{self, Peer, rfc3339};

/// For one server; the clients have answered before.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const NATS_PORT: u16 = 4222;
const REDIS_PORT: u16 = 6379;
/// Postgres's protocol, "SSLRequest": the length, and 1234 and 5679 in place of a version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// A certificate that ends earlier is worth a warning.
const RENEW_BEFORE: time::Duration = time::Duration::days(14);

/// `server_has_tls`: the server asks for TLS, whatever the URL says.
pub(super) async fn nats(config: &NatsConfig, server_has_tls: bool, findings: &Findings) {
    let login = config.login.in_words();
    for url in config
        .url
        .expose_each()
        .filter_map(|url| Url::parse(url).ok())
    {
        if !config.needs_tls() && !server_has_tls {
            plain(&url, "NATS_URL=tls://…", findings).await;
            continue;
        }
        let shaking = async {
            let mut stream = connect(&url, NATS_PORT).await?;
            if !config.tls_first {
                skip_line(&mut stream).await?;
            }
            tls::handshake(
                stream,
                url.host_str().unwrap_or_default(),
                &config.tls,
                None,
            )
            .await
        };
        // One of several may be away.
        if let Ok(Ok(peer)) = timeout(ANSWER_LIMIT, shaking).await {
            say(&peer, findings);
        }
    }
    if let Some(login) = login {
        findings.ok(format_args!("logged in {login}"));
    }
}

pub(super) async fn cache(config: &Config, findings: &Findings) {
    let config = &config.cache;
    let Ok(url) = Url::parse(config.url.expose()) else {
        return;
    };
    if url.scheme() != "rediss" {
        return plain(&url, "REDIS_URL=rediss://…", findings).await;
    }
    let shaking = async {
        let stream = connect(&url, REDIS_PORT).await?;
        tls::handshake(
            stream,
            url.host_str().unwrap_or_default(),
            &config.tls,
            None,
        )
        .await
    };
    if let Ok(Ok(peer)) = timeout(ANSWER_LIMIT, shaking).await {
        say(&peer, findings);
    }
}

/// What the session of `pool` has, which may lead to a pooler.
pub(super) async fn postgres(
    config: &Config,
    pool: &PgPool,
    findings: &Findings,
) -> Result<(), sqlx::Error> {
    let url = &config.postgres.url;
    let options = pool::options(url)?;
    if options.get_socket().is_some() {
        return Ok(());
    }
    let is_encrypted: Option<bool> =
        sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            .fetch_optional(pool)
            .await?;
    let host = options.get_host();
    let mode = options.get_ssl_mode();
    let verifies = matches!(mode, PgSslMode::VerifyFull | PgSslMode::VerifyCa);
    if is_encrypted != Some(true) || !verifies {
        if !is_loopback(host).await {
            findings.warning(format_args!(
                "the link to {host} is not verified TLS: others on the way can read and change what is sent; \
                 set PGSSLMODE=verify-full and PGSSLROOTCERT"
            ));
        }
        return Ok(());
    }
    let files = files_of_postgres(url);
    let shaking = async {
        let mut stream = TcpStream::connect((host, options.get_port())).await?;
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await?;
        tls::handshake(stream, host, &files, None).await
    };
    if let Ok(Ok(peer)) = timeout(ANSWER_LIMIT, shaking).await {
        say(&peer, findings);
    }
    Ok(())
}

/// A collector may be away.
pub(super) async fn collector(config: &Config, findings: &Findings) {
    let telemetry = &config.telemetry;
    let Ok(url) = Url::parse(telemetry.otlp.endpoint.expose()) else {
        return;
    };
    if telemetry.traces_of_service == TracesExporter::None {
        return;
    }
    if !telemetry.otlp.is_encrypted() {
        return plain(&url, "OTEL_EXPORTER_OTLP_ENDPOINT=https://…", findings).await;
    }
    match collector::peer(&telemetry.otlp).await {
        Ok(peer) => say(&peer, findings),
        Err(why) => findings.warning(format_args!(
            "{} does not take traces ({why})",
            telemetry.otlp.endpoint
        )),
    }
}

fn say(peer: &Peer, findings: &Findings) {
    let (names, until) = (peer.names.join(", "), rfc3339(peer.until));
    let found = format!("{}, certificate for {names} until {until}", peer.version);
    if peer.until < OffsetDateTime::now_utc() + RENEW_BEFORE {
        findings.warning(format_args!("{found}: renew it"));
    } else {
        findings.ok(found);
    }
}

/// Warns of a link that is not encrypted, unless it stays on this machine.
async fn plain(url: &Url, fix: &str, findings: &Findings) {
    let host = url.host_str().unwrap_or_default();
    if !is_loopback(host).await {
        findings.warning(format_args!(
            "no TLS to {host}: others on the way can read and change what is sent; set {fix}"
        ));
    }
}

async fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return ip.is_loopback();
    }
    match timeout(ANSWER_LIMIT, tokio::net::lookup_host((host, 0))).await {
        Ok(Ok(mut found)) => found.all(|address| address.ip().is_loopback()),
        _ => host == "localhost",
    }
}

async fn connect(url: &Url, port: u16) -> io::Result<TcpStream> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    TcpStream::connect((host, url.port().unwrap_or(port))).await
}

/// The server's first words, which come before TLS.
async fn skip_line(stream: &mut TcpStream) -> io::Result<()> {
    while stream.read_u8().await? != b'\n' {}
    Ok(())
}
