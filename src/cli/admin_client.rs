//! Asking a running `serve` on its admin address, from the same host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use serde::Serialize;

use crate::config::Config;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The answer's status and body.
///
/// # Errors
/// When nobody answers in time.
pub(super) async fn ask(
    config: &Config,
    method: Method,
    path: &str,
    body: Option<&(impl Serialize + Sync)>,
) -> anyhow::Result<(StatusCode, String)> {
    let url = format!("http://{}{path}", reachable(config.http.admin_addr));
    let client = reqwest::Client::builder()
        .timeout(ANSWER_TIMEOUT)
        .no_proxy()
        .build()?;
    let request = client.request(method, &url);
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    let answer = request
        .send()
        .await
        .with_context(|| format!("{url} does not answer"))?;
    let status = answer.status();
    Ok((status, answer.text().await.unwrap_or_default()))
}

/// A server that listens on all addresses is asked on loopback.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
