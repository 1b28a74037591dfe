//! The command line: one file per subcommand, and what they share.

mod admin_client;
pub(crate) mod dlq;
mod doctor;
mod dotenv;
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
use crate::config::{Config, ConfigErrors, Reader, TracesExporter};
use crate::produce::options::Options;
use crate::telemetry::logs::{self, LogFile};
use crate::telemetry::{Metrics, traces};

/// How long the end waits for tasks in the background, which usually takes less than a millisecond.
const TASKS_END_TIMEOUT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) enum Failure {
    /// Bad usage or configuration, or something that exists with settings that
    /// break a promise. Nothing was changed. Exit code 2.
    Usage(String),
    /// Something failed while running. Exit code 1.
    Running(anyhow::Error),
    /// The NATS client has broken down (<https://github.com/nats-io/nats.rs/pull/1612>), which nothing
    /// in this process can mend: the process starts again, and looks for the message that did it.
    ClientLost {
        /// Told to stop meanwhile, it does that.
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
        .subcommand(migrate::command())
        .subcommand(dlq::command())
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
enum Job<'a> {
    Serve,
    Produce(Options),
    Migrate,
    Dlq(&'a ArgMatches),
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
        Err(Failure::ClientLost { stop, .. }) if stop.is_cancelled() => ExitCode::SUCCESS,
        Err(Failure::ClientLost { readable, .. }) => start_again(&readable),
    }
}

/// Prints a line. A closed pipe is no error: its reader wants no more.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Replaces this process by a new one under the same id. Connections and queues are gone, as after
/// a crash.
fn start_again(readable: &str) -> ExitCode {
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
    let (config, job) = read_settings(name, matches).map_err(Failure::usage)?;
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
        let result = match job {
            Job::Serve => serve::run(config, metrics, spans, log_filter, &shutdown).await,
            Job::Produce(options) => Box::pin(produce::run(config, options, spans)).await,
            Job::Migrate => migrate::run(config).await,
            Job::Dlq(matches) => Box::pin(dlq::run(config, matches)).await,
            Job::Doctor => doctor::run(config).await,
            Job::Healthcheck => healthcheck::run(config).await,
            Job::LogLevel(change) => log_level::run(config, change).await,
        };
        if let Some(tracing) = tracing {
            tracing.shutdown(shutdown.until(Step::Spans)).await;
        }
        result
    });
    // Tasks in the background are over before the log is, so that it has their last lines too.
    // Not `drop`, which waits for what cannot be cancelled: a look-up of a host's name.
    runtime.shutdown_timeout(TASKS_END_TIMEOUT);
    if let Some(log_file) = log_file {
        log_file.flush(shutdown.until(Step::Log));
    }
    result
}

fn read_settings<'a>(
    name: &str,
    matches: &'a ArgMatches,
) -> Result<(Config, Job<'a>), ConfigErrors> {
    // The commands of dlq have the settings.
    let nested = matches.subcommand().map_or(matches, |(_, nested)| nested);
    let mut reader = Reader::new(nested, std::env::vars_os());
    reader.refuse_unknown(&[serve::CLIENT_WAS_LOST]);
    if name == "produce" {
        reader.set_default("OTEL_SERVICE_NAME", "ganesh-produce");
    }
    // What they find is their output; the way there is not.
    let asks = matches!(name, "dlq" | "doctor" | "healthcheck" | "log-level");
    if asks {
        reader.set_default("GANESH_LOG", "error");
    }
    let mut config = Config::read_from(&mut reader);
    if asks {
        // Who looks at a process, as another user perhaps, has no business in its log.
        config.telemetry.log_dir = None;
        // And nothing to say to a collector.
        config.telemetry.traces = TracesExporter::None;
    }
    let job = match name {
        "serve" => Job::Serve,
        "produce" => Job::Produce(Options::read(&mut reader)),
        "migrate" => Job::Migrate,
        "dlq" => Job::Dlq(matches),
        "doctor" => Job::Doctor,
        "healthcheck" => Job::Healthcheck,
        "log-level" => Job::LogLevel(log_level::change(&mut reader, matches)),
        _ => unreachable!("clap knows no other subcommand"),
    };
    reader.finish((config, job))
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
