//! The command line: one file per subcommand, and what they share.

mod admin_client;
mod bench;
pub(crate) mod dlq;
mod doctor;
mod dotenv;
mod explain;
mod forget;
mod shutdown;
mod healthcheck;
mod log_level;
mod migrate;
mod produce;
mod serve;
mod startup;
mod usage;

use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Command};
use tokio_util::sync::CancellationToken;

use self::shutdown::{Shutdown, Step};
use crate::api::log_level::LevelChange;
use crate::bench::BenchOptions;
use crate::config::{Config, ConfigErrors, Reader, TracesExporter};
use crate::produce::options::Options;
use crate::telemetry::logs::{self, LogFile};
use crate::telemetry::{Metrics, traces};

/// Longest wait for background tasks at the end; usually less than a millisecond.
const TASKS_END_TIMEOUT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad usage or configuration, or something that exists with settings that
    /// break a promise. Nothing was changed. Exit code 2.
    Usage(String),
    /// Something failed while running. Exit code 1.
    Running(anyhow::Error),
    /// The NATS client crashed (<https://github.com/nats-io/nats.rs/pull/1612>). The process restarts and
    /// searches for the message that caused it.
    ClientCrashed {
        /// If cancelled, the process exits instead.
        stop: CancellationToken,
        /// The messages that no search has to look at, for the next process.
        readable: String,
    },
}

impl Failure {
    fn usage(mistakes: impl Display) -> Self {
        Self::Usage(mistakes.to_string())
    }
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
            "Every flag has an environment variable; .env in the working directory is read when present.\n\
             For each of the settings, VARIABLE_FILE names a file with the value of VARIABLE.",
        )
        // Each setting on one line, however long.
        .term_width(0)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve::command())
        .subcommand(produce::command())
        .subcommand(bench::command())
        .subcommand(migrate::command())
        .subcommand(dlq::command())
        .subcommand(explain::command())
        .subcommand(forget::command())
        .subcommand(doctor::command())
        .subcommand(healthcheck::command())
        .subcommand(log_level::command())
}

const LOG_SETTINGS: [&str; 2] = ["GANESH_LOG", "GANESH_LOG_FORMAT"];
const TELEMETRY_SETTINGS: [&str; 9] = [
    "GANESH_LOG",
    "GANESH_LOG_FORMAT",
    "GANESH_LOG_DIR",
    "GANESH_TRACE_BASELINE",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
];

/// A subcommand, with the options that only it has.
enum Subcommand<'a> {
    Serve,
    Produce(Options),
    Bench(BenchOptions),
    Migrate,
    Dlq(&'a ArgMatches),
    Explain(explain::Request),
    Forget(Option<String>),
    Doctor,
    Healthcheck,
    LogLevel(Option<LevelChange>),
}

/// Runs the subcommand that the process was started with.
pub fn main() -> ExitCode {
    if let Err(mistake) = dotenv::read() {
        eprintln!("ganesh: {mistake}");
        return ExitCode::from(2);
    }
    // clap prints what is wrong with the usage and exits with 2 by itself.
    let matches = command()
        .try_get_matches()
        .unwrap_or_else(|error| usage::without_values(error).exit());
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
        Err(Failure::ClientCrashed { stop, .. }) if stop.is_cancelled() => ExitCode::SUCCESS,
        Err(Failure::ClientCrashed { readable, .. }) => restart_process(&readable),
    }
}

/// Prints a line. A closed pipe is no error: its reader wants no more.
fn print_line(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Replaces this process by a new one under the same id. Connections and queues are gone, as after
/// a crash.
fn restart_process(readable: &str) -> ExitCode {
    let error = match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(serve::CLIENT_WAS_LOST, readable)
            .exec(),
        Err(error) => error,
    };
    eprintln!("ganesh: the NATS client broke down, and ganesh cannot start itself again: {error}");
    ExitCode::FAILURE
}

fn run(name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let (config, subcommand) = read_settings(name, matches).map_err(Failure::usage)?;
    let log_file = open_log_file(&config)?;
    let shutdown = Shutdown::new(config.shutdown_grace);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let metrics = Metrics::default();
        let tracing = traces::start(&config.telemetry, metrics.clone())?;
        let provider = tracing.as_ref().map(|tracing| &tracing.provider);
        let log_filter = logs::install(&config.telemetry, provider, log_file.clone())?;
        for variable in &config.telemetry.unread_variables {
            tracing::warn!(variable, "ganesh does not read this variable");
        }
        let spans = tracing.as_ref().map(|tracing| tracing.queue.clone());
        let result = match subcommand {
            Subcommand::Serve => {
                Box::pin(serve::run(config, metrics, spans, log_filter, &shutdown)).await
            }
            Subcommand::Produce(options) => Box::pin(produce::run(config, options, spans)).await,
            Subcommand::Bench(options) => Box::pin(bench::run(config, options)).await,
            Subcommand::Migrate => migrate::run(config).await,
            Subcommand::Dlq(matches) => Box::pin(dlq::run(config, matches)).await,
            Subcommand::Explain(request) => Box::pin(explain::run(config, request)).await,
            Subcommand::Forget(subject) => forget::run(config, subject).await,
            Subcommand::Doctor => doctor::run(config).await,
            Subcommand::Healthcheck => healthcheck::run(config).await,
            Subcommand::LogLevel(change) => log_level::run(config, change).await,
        };
        if let Some(tracing) = tracing {
            tracing.shutdown(shutdown.deadline(Step::Spans)).await;
        }
        result
    });
    // End background tasks before the log is flushed, so that it has their last lines. `drop` would wait
    // for DNS lookups.
    runtime.shutdown_timeout(TASKS_END_TIMEOUT);
    if let Some(log_file) = log_file {
        log_file.flush(shutdown.deadline(Step::Log));
    }
    result
}

fn read_settings<'a>(
    name: &str,
    matches: &'a ArgMatches,
) -> Result<(Config, Subcommand<'a>), ConfigErrors> {
    // The flags belong to the subcommands of dlq.
    let nested = matches.subcommand().map_or(matches, |(_, nested)| nested);
    let mut reader = Reader::new(nested, std::env::vars_os());
    reader.refuse_unknown(&[serve::CLIENT_WAS_LOST]);
    if name == "produce" {
        reader.set_default("OTEL_SERVICE_NAME", "ganesh-produce");
    }
    // These commands print results: their log would stand in between.
    let is_query = matches!(
        name,
        "bench" | "dlq" | "explain" | "forget" | "doctor" | "healthcheck" | "log-level"
    );
    if is_query {
        reader.set_default("GANESH_LOG", "error");
    }
    let mut config = Config::read_from(&mut reader);
    if is_query {
        // Another user may run these commands: keep out of the log of the service.
        config.telemetry.log_dir = None;
        config.telemetry.traces = TracesExporter::None;
    }
    let subcommand = match name {
        "serve" => Subcommand::Serve,
        "produce" => Subcommand::Produce(Options::read(&mut reader)),
        "bench" => Subcommand::Bench(BenchOptions::read(&mut reader)),
        "migrate" => Subcommand::Migrate,
        "dlq" => Subcommand::Dlq(matches),
        "explain" => Subcommand::Explain(explain::request(&mut reader, matches)),
        "forget" => Subcommand::Forget(forget::subject(&mut reader)),
        "doctor" => Subcommand::Doctor,
        "healthcheck" => Subcommand::Healthcheck,
        "log-level" => Subcommand::LogLevel(log_level::change(&mut reader, matches)),
        _ => unreachable!("clap knows no other subcommand"),
    };
    reader.finish((config, subcommand))
}

fn open_log_file(config: &Config) -> Result<Option<LogFile>, Failure> {
    let Some(folder) = &config.telemetry.log_dir else {
        return Ok(None);
    };
    LogFile::open(folder).map(Some).map_err(|error| {
        Failure::Usage(format!(
            "GANESH_LOG_DIR={}: {error}: expected a folder that is there or can be made, and in \
             which app.log can be written",
            folder.display()
        ))
    })
}
