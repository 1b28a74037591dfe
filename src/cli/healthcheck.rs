//! `ganesh healthcheck`: asks the admin port, for container health checks: the image
//! then needs no other program.

use anyhow::anyhow;
use clap::Command;
use reqwest::Method;

use super::{Failure, admin_client, say};
use crate::config::Config;

pub(super) fn command() -> Command {
    Command::new("healthcheck").about(
        "Ask a running serve on GANESH_ADMIN_ADDR whether it is ready (exit code 0) or not (1)",
    )
}

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    let (status, body) = admin_client::ask(&config, Method::GET, "/readyz", None::<&()>).await?;
    if !status.is_success() {
        return Err(Failure::Running(anyhow!("not ready: {body}")));
    }
    say("ready");
    Ok(())
}
