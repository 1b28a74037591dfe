//! `ganesh produce`.

use clap::{ArgMatches, Command};

use super::Failure;
use crate::config::Config;

pub(super) fn command() -> Command {
    Command::new("produce")
}

pub(super) async fn run(_config: Config, _matches: &ArgMatches) -> Result<(), Failure> {
    Ok(())
}
