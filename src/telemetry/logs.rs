//! Structured logs, and the subscriber that logs and spans share.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use super::traces;
use crate::config::{LogFormat, TelemetryConfig};

/// Installs the process's subscriber: log lines on standard error (standard
/// output belongs to what a command prints), spans to `provider` if there is one.
///
/// # Errors
/// When a subscriber is installed already.
pub fn install(
    config: &TelemetryConfig,
    provider: Option<&SdkTracerProvider>,
) -> Result<(), TryInitError> {
    Registry::default()
        .with(log_layer(config))
        .with(provider.map(traces::layer))
        .try_init()
}

fn log_layer<S>(config: &TelemetryConfig) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse_lossy(&config.log_filter)
        // The exporter complains at every batch while no collector listens;
        // running without one is a supported way to run.
        .add_directive("opentelemetry=off".parse().expect("a valid directive"))
        .add_directive("opentelemetry_sdk=off".parse().expect("a valid directive"))
        .add_directive("opentelemetry_otlp=off".parse().expect("a valid directive"));
    let text = match config.log_format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let layer = fmt::layer().with_writer(std::io::stderr);
    if text {
        layer.with_target(false).with_filter(filter).boxed()
    } else {
        layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_filter(filter)
            .boxed()
    }
}

/// Lets a repeated message through a few times a second, and counts the rest: what
/// happens at the rate of messages must not fill a disk.
#[derive(Debug, Default)]
pub struct RateLimit(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    said: u32,
    suppressed: u64,
}

/// Lines of one kind in a second, at most.
const LINES_A_SECOND: u32 = 10;

impl RateLimit {
    /// Whether to log now: then the number of lines that were suppressed since the
    /// last one.
    pub fn allow(&self) -> Option<u64> {
        let mut window = self
            .0
            .lock()
            .expect("nothing panics while it holds this lock");
        let over = |began: Instant| began.elapsed() >= Duration::from_secs(1);
        if window.began.is_none_or(over) {
            window.began = Some(Instant::now());
            window.said = 0;
        }
        if window.said >= LINES_A_SECOND {
            window.suppressed += 1;
            return None;
        }
        window.said += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}
