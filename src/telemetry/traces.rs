//! The OTLP tracer for what is not per message: start-up, HTTP requests, maintenance.

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::config::{TelemetryConfig, TracesExporter};

/// A provider that exports over OTLP, or none when the configuration says so.
/// Must be called inside the tokio runtime, whose reactor the exporter uses.
///
/// # Errors
/// When the exporter cannot be built from its endpoint.
pub fn provider(config: &TelemetryConfig) -> Result<Option<SdkTracerProvider>, ExporterBuildError> {
    if config.traces == TracesExporter::None {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(config.otlp_endpoint.expose())
        .build()?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler(config.trace_baseline))
        .with_resource(resource(config))
        .build();
    Ok(Some(provider))
}

/// The layer that turns the spans of this crate, and of no library, into OpenTelemetry's.
pub fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("ganesh"))
        // Spans of tonic, hyper and h2 would trace the export of spans.
        .with_filter(Targets::new().with_target("ganesh", tracing::Level::INFO))
}

/// The caller's flag decides; without a caller, one in `baseline`.
fn sampler(baseline: u32) -> Sampler {
    let root = match baseline {
        0 => Sampler::AlwaysOff,
        n => Sampler::TraceIdRatioBased(1.0 / f64::from(n)),
    };
    Sampler::ParentBased(Box::new(root))
}

fn resource(config: &TelemetryConfig) -> Resource {
    let further = config
        .resource_attributes
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(further)
        // Last: OTEL_SERVICE_NAME wins over a service.name in OTEL_RESOURCE_ATTRIBUTES.
        .with_service_name(config.service_name.clone())
        .build()
}
