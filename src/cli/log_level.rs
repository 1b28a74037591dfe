//! `ganesh log-level`: shows, or changes for a while, what a running `serve` logs.

use anyhow::{Context as _, anyhow};
use clap::{Arg, ArgMatches, Command};
use reqwest::{Method, StatusCode};

use super::{Failure, LOG_SETTINGS, admin_client, print_line};
use crate::api::log_level::LevelChange;
use crate::config::{Config, Group, Reader, flags, group_flags};
use crate::telemetry::logs::FilterState;

const FILTER: &str = "filter";

pub(super) fn command() -> Command {
    Command::new("log-level")
        .about("Show what a running serve logs, or change that for a while")
        .after_help(
            "Shows what a running serve logs, or changes that for a while.\n\n\
             Asks GANESH_ADMIN_ADDR, which takes a change from the same host only: in a container, \
             run this in the container. GANESH_LOG comes back by itself.",
        )
        .arg(
            Arg::new(FILTER).value_name("FILTER").help(
                "A level, or directives such as ganesh=debug,info; without it nothing changes",
            ),
        )
        .args(group_flags(Group::LogLevel))
        .args(flags(["GANESH_ADMIN_ADDR"]))
        .args(flags(LOG_SETTINGS))
}

pub(super) async fn run(config: Config, change: Option<LevelChange>) -> Result<(), Failure> {
    let method = match &change {
        Some(change) => {
            change.lasting().map_err(Failure::Usage)?;
            Method::PUT
        }
        None => Method::GET,
    };
    let (status, body) = admin_client::ask(&config, method, "/log-level", change.as_ref()).await?;
    match status {
        StatusCode::OK => {
            let state = serde_json::from_str(&body).context("an answer of another version")?;
            print(&state);
            Ok(())
        }
        StatusCode::BAD_REQUEST => Err(Failure::Usage(detail(&body))),
        _ => Err(Failure::Running(anyhow!("{status}: {}", detail(&body)))),
    }
}

pub(super) fn change(reader: &mut Reader, matches: &ArgMatches) -> Option<LevelChange> {
    let lasting = reader.duration("GANESH_LOG_LEVEL_FOR", "1s", "1d");
    let filter = matches.get_one::<String>(FILTER)?;
    Some(LevelChange {
        filter: filter.clone(),
        lasting: format!("{}ms", lasting.as_millis()),
    })
}

/// The words of a problem's details, or all of an answer that is none.
fn detail(body: &str) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let detail = problem
        .as_ref()
        .and_then(|problem| problem["detail"].as_str());
    detail.unwrap_or(body).to_owned()
}

fn print(state: &FilterState) {
    match &state.until {
        Some(until) => print_line(format_args!(
            "{} until {until}, then {}",
            state.filter, state.configured
        )),
        None => print_line(&state.filter),
    }
}
