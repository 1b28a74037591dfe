//! Structured logs, and the subscriber that logs and spans share.
//!
//! A line goes to standard error (standard output belongs to what a command prints): as text on
//! a terminal, as JSON elsewhere, unless `GANESH_LOG_FORMAT` says otherwise. With
//! `GANESH_LOG_DIR` it also goes to `app.log` there, always as JSON.

mod file;
mod filter;
mod rate_limit;
mod trace_ids;

use std::io::{self, IsTerminal};

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Format, JsonFields};
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::traces;
use crate::config::{LogFormat, TelemetryConfig};
pub(crate) use file::LogFile;
pub(crate) use filter::{FilterState, LogFilter};
pub(crate) use rate_limit::{OutageLog, RateLimit};
use trace_ids::WithTraceIds;

/// A destination and how lines look there.
type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// Installs the process's subscriber: log lines to standard error and to `file`, spans to
/// `provider`. The returned filter can be changed.
///
/// # Errors
/// When a subscriber is installed already.
pub(crate) fn install(
    config: &TelemetryConfig,
    provider: Option<&SdkTracerProvider>,
    file: Option<LogFile>,
) -> Result<LogFilter, TryInitError> {
    let (filter, handle) = reload::Layer::new(filter::parse(&config.log_filter));
    let filter = filter.and(filter::ceiling());
    Registry::default()
        .with(lines(config.log_format, file).with_filter(filter))
        .with(provider.map(traces::layer))
        .try_init()?;
    Ok(LogFilter::new(config.log_filter.clone(), handle))
}

/// One layer for each format: two of the same one would both keep a span's fields, and say
/// them twice.
fn lines(format: LogFormat, file: Option<LogFile>) -> Vec<Lines> {
    let terminal = io::stderr().is_terminal();
    let as_text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    match (as_text, file) {
        (true, None) => vec![text(terminal)],
        (true, Some(file)) => vec![text(terminal), json(file)],
        (false, None) => vec![json(io::stderr)],
        (false, Some(file)) => vec![json(io::stderr.and(file))],
    }
}

fn text(terminal: bool) -> Lines {
    // https://no-color.org: whatever its value, if it is not empty.
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let format = Format::default().with_target(false).with_ansi(colour);
    fmt::layer()
        .with_ansi(colour)
        .event_format(WithTraceIds {
            format,
            is_json: false,
        })
        .with_writer(io::stderr)
        .boxed()
}

fn json(writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static) -> Lines {
    let format = Format::default()
        .json()
        .flatten_event(true)
        .with_current_span(false);
    fmt::layer()
        .with_ansi(false)
        .fmt_fields(JsonFields::new())
        .event_format(WithTraceIds {
            format,
            is_json: true,
        })
        .with_writer(writer)
        .boxed()
}
