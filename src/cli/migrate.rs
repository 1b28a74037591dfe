//! `ganesh migrate`.

use clap::Command;

use super::Failure;
use crate::config::Config;

pub(super) fn command() -> Command {
    Command::new("migrate")
}

pub(super) async fn run(_config: Config) -> Result<(), Failure> {
    Ok(())
}
