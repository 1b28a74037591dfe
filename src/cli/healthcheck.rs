//! `ganesh healthcheck`: asks the admin port, for container health checks: the image
//! then needs no other program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Command;

use super::Failure;
use crate::config::Config;

/// How long the answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn command() -> Command {
    Command::new("healthcheck").about(
        "Ask a running serve on GANESH_ADMIN_ADDR whether it is ready (exit code 0) or not (1)",
    )
}

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    let url = format!("http://{}/readyz", reachable(config.http.admin_addr));
    let client = reqwest::Client::builder()
        .timeout(ANSWER_TIMEOUT)
        .no_proxy()
        .build()?;
    let answer = client
        .get(&url)
        .send()
        .await
        .with_context(|| format!("{url} does not answer"))?;
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    if !status.is_success() {
        return Err(Failure::Running(anyhow!("not ready: {body}")));
    }
    println!("ready");
    Ok(())
}

/// Who listens on all addresses is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
