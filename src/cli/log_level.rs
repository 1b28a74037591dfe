//! `ganesh log-level`: shows, or changes for a while, what a running `serve` logs.

use std::ffi::OsString;

use anyhow::{Context as _, anyhow};
use clap::{Arg, ArgMatches, Command, value_parser};
use reqwest::{Method, StatusCode};

use super::{Failure, admin_client, say};
use crate::api::log_level::{Change, FOR};
use crate::config::{Config, given};
use crate::telemetry::logs::FilterState;

/// The name of the positional argument.
const FILTER: &str = "filter";

pub(super) fn command() -> Command {
    Command::new("log-level")
        .about("Show what a running serve logs, or change that for a while")
        .long_about(
            "Shows what a running serve logs, or changes that for a while.\n\n\
             Asks GANESH_ADMIN_ADDR, which takes a change from the same host only: in a container, \
             run this in the container. GANESH_LOG comes back by itself.",
        )
        .arg(
            Arg::new(FILTER).value_name("FILTER").help(
                "A level, or directives such as ganesh=debug,info; without it nothing changes",
            ),
        )
        .arg(
            Arg::new(FOR.env)
                .long("for")
                .env(FOR.env)
                .value_parser(value_parser!(OsString))
                .value_name("DURATION")
                .default_value(FOR.default)
                .help(FOR.help),
        )
}

pub(super) async fn run(config: Config, matches: &ArgMatches) -> Result<(), Failure> {
    let change = change(matches).map_err(Failure::Usage)?;
    let method = match change {
        Some(_) => Method::PUT,
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

/// What was asked for, if it makes sense.
fn change(matches: &ArgMatches) -> Result<Option<Change>, String> {
    let lasting = given(&FOR, matches, |variable| std::env::var_os(variable))?;
    let Some(filter) = matches.get_one::<String>(FILTER) else {
        return Ok(None);
    };
    let change = Change {
        filter: filter.clone(),
        lasting: lasting.unwrap_or_else(|| FOR.default.to_owned()),
    };
    change.lasting()?;
    Ok(Some(change))
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
        Some(until) => say(format_args!(
            "{} until {until}, then {}",
            state.filter, state.configured
        )),
        None => say(&state.filter),
    }
}
