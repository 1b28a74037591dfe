//! The command line: one file per subcommand, and what they share.

mod admin_client;
pub mod dlq;
mod doctor;
mod ending;
mod healthcheck;
mod log_level;
mod migrate;
mod produce;
mod serve;
mod startup;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use tokio_util::sync::CancellationToken;

use self::ending::{Ending, Step};
use crate::config::{Config, ConfigErrors, Setting, TracesExporter, arguments, reader};
use crate::telemetry::logs::{self, LogFile};
use crate::telemetry::{Metrics, recorder, traces};

/// How long the end waits for tasks in the background, which usually takes less than a millisecond.
const TASKS_END_TIMEOUT: Duration = Duration::from_millis(100);

/// How a command ends when it does not end well.
#[derive(Debug)]
pub enum Failure {
    /// Bad usage or configuration, or something that exists with settings that
    /// break a promise. Nothing was changed. Exit code 2.
    Usage(String),
    /// Something failed while running. Exit code 1.
    Running(anyhow::Error),
    /// The NATS client has broken down, which nothing in this process can mend: the process
    /// starts again, and looks for the message that did it.
    ClientLost {
        /// Told to stop meanwhile, it does that.
        stop: CancellationToken,
    },
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
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve::command().args(arguments()))
        .subcommand(produce::with_settings(produce::command(), arguments()))
        .subcommand(migrate::command().args(arguments()))
        .subcommand(dlq::command())
        .subcommand(doctor::command().args(arguments()))
        .subcommand(healthcheck::command().args(arguments()))
        .subcommand(log_level::command().args(arguments()))
}

/// An option of one subcommand, as a flag and an environment variable.
fn option_argument(option: &Setting, flag: String, heading: &'static str) -> Arg {
    let arg = Arg::new(option.env)
        .long(flag)
        .env(option.env)
        .value_parser(value_parser!(OsString))
        .value_name("VALUE")
        .help(option.help)
        // A negative number is a mistake to be explained, not an unknown flag.
        .allow_negative_numbers(true)
        .help_heading(heading);
    match option.default {
        "" => arg,
        // A switch: the flag alone is true.
        "false" => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        default => arg.default_value(default),
    }
}

/// Runs the subcommand that the process was started with.
pub fn main() -> ExitCode {
    if let Err(mistake) = read_dotenv() {
        eprintln!("ganesh: {mistake}");
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
        Err(Failure::ClientLost { stop }) if stop.is_cancelled() => ExitCode::SUCCESS,
        Err(Failure::ClientLost { .. }) => start_again(),
    }
}

/// Prints a line. Whoever closed the other end wants no more of it, which is no reason to stop in the
/// middle of work.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Becomes a new process under the same id. Whatever had a part in the old one is gone, as after a
/// crash: connections in the middle of something, and what waits for the client.
fn start_again() -> ExitCode {
    let mut again = match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program),
        Err(error) => return not_started_again(&error),
    };
    again.args(std::env::args_os().skip(1));
    again.env(serve::CLIENT_WAS_LOST, "true");
    not_started_again(&again.exec())
}

fn not_started_again(error: &std::io::Error) -> ExitCode {
    eprintln!("ganesh: the NATS client broke down, and ganesh cannot start itself again: {error}");
    ExitCode::FAILURE
}

/// Adds what the working directory's `.env` says to the environment, which wins.
fn read_dotenv() -> Result<(), String> {
    match dotenvy::from_path(".env") {
        Err(error) if error.not_found() => Ok(()),
        // Without the line itself: a password may stand in it.
        Err(dotenvy::Error::LineParse(line, _)) => {
            // What the library calls the line may be the value alone.
            let found = line.lines().next().unwrap_or_default().trim();
            let text = std::fs::read_to_string(".env").unwrap_or_default();
            let number = text
                .lines()
                .position(|line| !line.trim_start().starts_with('#') && line.contains(found));
            let place = number.map_or_else(String::new, |number| format!(" line {}", number + 1));
            Err(format!(
                ".env{place}: expected NAME=value, in quotes when the value holds spaces, quotes or #"
            ))
        }
        Err(error) => Err(format!(".env: {error}: expected a readable file, or none")),
        Ok(()) => Ok(()),
    }
}

fn run(name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let config = read_config(name, matches).map_err(|errors| Failure::Usage(errors.to_string()))?;
    let log_file = open_log_file(&config)?;
    let ending = Ending::new(config.shutdown_grace);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let metrics = match name {
            "serve" if config.telemetry.enabled => Metrics::recorded_by(recorder::install()?),
            _ => Metrics::unrecorded(),
        };
        let tracing = traces::start(&config.telemetry, metrics.clone())?;
        let provider = tracing.as_ref().map(|tracing| &tracing.provider);
        let log_filter = logs::install(&config.telemetry, provider, log_file.clone())?;
        let spans = tracing.as_ref().map(|tracing| tracing.queue.clone());
        let result = match name {
            "serve" => serve::run(config, metrics, spans, log_filter, &ending).await,
            "produce" => produce::run(config, matches, spans).await,
            "migrate" => migrate::run(config).await,
            "dlq" => Box::pin(dlq::run(config, matches)).await,
            "doctor" => doctor::run(config).await,
            "healthcheck" => healthcheck::run(config).await,
            "log-level" => log_level::run(config, matches).await,
            _ => unreachable!("clap knows no other subcommand"),
        };
        if let Some(tracing) = tracing {
            tracing.shutdown(ending.until(Step::Spans)).await;
        }
        result
    });
    // Tasks in the background are over before the log is, so that it has their last lines too.
    // Not `drop`, which waits for what cannot be cancelled: a look-up of a host's name.
    runtime.shutdown_timeout(TASKS_END_TIMEOUT);
    if let Some(log_file) = log_file {
        log_file.flush(ending.until(Step::Log));
    }
    result
}

fn read_config(name: &str, matches: &ArgMatches) -> Result<Config, ConfigErrors> {
    // The commands of dlq have the settings.
    let matches = matches.subcommand().map_or(matches, |(_, nested)| nested);
    let mut reader = reader(matches, |variable| std::env::var_os(variable));
    if name == "produce" {
        reader.set_default("OTEL_SERVICE_NAME", "ganesh-produce");
    }
    // What they find is their output; the way there is not.
    let asks = matches!(name, "dlq" | "doctor" | "healthcheck" | "log-level");
    if asks {
        reader.set_default("GANESH_LOG", "error");
    }
    let mut config = Config::read(reader)?;
    if asks {
        // Who looks at a process, as another user perhaps, has no business in its log.
        config.telemetry.log_dir = None;
        // And nothing to say to a collector.
        config.telemetry.traces = TracesExporter::None;
    }
    Ok(config)
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
