//! The command line: one file per subcommand, and what they share.

mod doctor;
mod healthcheck;
mod migrate;
mod produce;
mod serve;
mod startup;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use crate::config::{Config, ConfigErrors, Reader, arguments, read_values};
use crate::telemetry::{logs, traces};

/// How a command ends when it does not end well.
#[derive(Debug)]
pub enum Failure {
    /// Bad usage or configuration, or something that exists with settings that
    /// break a promise. Nothing was changed. Exit code 2.
    Usage(String),
    /// Something failed while running. Exit code 1.
    Running(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Running(error.into())
    }
}

/// The whole command line.
pub fn command() -> Command {
    Command::new("ganesh")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .after_help(
            "Every flag has an environment variable; .env is read when present.\n\
             VARIABLE_FILE names a file with the value of VARIABLE.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve::command().args(arguments()))
        .subcommand(produce::with_settings(produce::command(), arguments()))
        .subcommand(migrate::command().args(arguments()))
        .subcommand(doctor::command().args(arguments()))
        .subcommand(healthcheck::command().args(arguments()))
}

/// Runs the subcommand that the process was started with.
pub fn main() -> ExitCode {
    if let Err(error) = dotenvy::dotenv()
        && !error.not_found()
    {
        eprintln!("ganesh: .env: {error}");
        return ExitCode::from(2);
    }
    // clap prints what is wrong with the usage and exits with 2 by itself.
    let matches = command().get_matches();
    let (name, matches) = matches
        .subcommand()
        .expect("clap refuses a command line without subcommand");
    match run(name, matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(what)) => {
            for line in what.lines() {
                eprintln!("ganesh: {line}");
            }
            ExitCode::from(2)
        }
        Err(Failure::Running(error)) => {
            eprintln!("ganesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let config = read_config(name, matches).map_err(|errors| Failure::Usage(errors.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let provider = traces::provider(&config.telemetry)?;
        logs::install(&config.telemetry, provider.as_ref())?;
        let result = match name {
            "serve" => serve::run(config).await,
            "produce" => produce::run(config, matches).await,
            "migrate" => migrate::run(config).await,
            "doctor" => doctor::run(config).await,
            "healthcheck" => healthcheck::run(config).await,
            _ => unreachable!("clap knows no other subcommand"),
        };
        if let Some(provider) = provider {
            flush_traces(provider).await;
        }
        result
    })
}

fn read_config(name: &str, matches: &ArgMatches) -> Result<Config, ConfigErrors> {
    let environment = |variable: &str| std::env::var(variable).ok();
    let mut values = read_values(matches, environment)?;
    let mut default_for_this_command = |variable, value: &str| {
        if matches.value_source(variable) == Some(ValueSource::DefaultValue) {
            values.insert(variable, value.to_owned());
        }
    };
    match name {
        "produce" => default_for_this_command("OTEL_SERVICE_NAME", "ganesh-produce"),
        // What they find is their output; the way there is not.
        "doctor" | "healthcheck" => default_for_this_command("GANESH_LOG", "error"),
        _ => {}
    }
    Config::read(Reader::new(values))
}

/// Exports the last spans. Blocking, and bounded: a collector that hangs must
/// not hold up the exit.
async fn flush_traces(provider: opentelemetry_sdk::trace::SdkTracerProvider) {
    const FLUSH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
    let flush = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT));
    if let Ok(Err(error)) = flush.await {
        tracing::debug!(%error, "spans were not flushed");
    }
}
