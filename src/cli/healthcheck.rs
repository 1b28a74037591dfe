//! `ganesh healthcheck`: asks the admin port, for container health checks: the image
//! then needs no other program.

use anyhow::anyhow;
use clap::Command;
use reqwest::Method;

use super::{Failure, LOG_SETTINGS, admin_client, print_line};
use crate::config::{Config, flags};

pub(super) fn command() -> Command {
    Command::new("healthcheck")
        .about("Ask a running serve whether it is ready (exit code 0) or not (1)")
        .args(flags(["GANESH_ADMIN_ADDR"]))
        .args(flags(LOG_SETTINGS))
}

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    let (status, body) = admin_client::ask(&config, Method::GET, "/readyz", None::<&()>).await?;
    if !status.is_success() {
        return Err(Failure::Running(anyhow!("not ready: {body}")));
    }
    print_line("ready");
    Ok(())
}
