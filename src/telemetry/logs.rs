//! Structured logs, and the subscriber that logs and spans share.

mod rate_limit;

use std::io::IsTerminal;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use super::traces;
use crate::config::{LogFormat, TelemetryConfig};
pub use rate_limit::RateLimit;

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
