//! Tracing of a process: the queue that all spans go into, the task that exports them over
//! OTLP, and the tracer for what is not per message: start-up, HTTP requests, maintenance.

use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter as _};
use tokio::task::JoinHandle;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::root_sampler::RootSampler;
use super::span_queue::SpanQueue;
use super::{Metrics, exporter};
use crate::config::{TelemetryConfig, TracesExporter};

/// How long the last spans may take at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The tracing of a process.
pub struct Tracing {
    pub(crate) provider: SdkTracerProvider,
    /// Takes ganesh's own spans.
    pub queue: SpanQueue,
    task: JoinHandle<()>,
}

/// Starts the export, or nothing when the configuration says so. Must be called inside the
/// tokio runtime. No collector has to be there: the exporter connects when it has something.
///
/// # Errors
/// When the exporter cannot be built from its endpoint and files.
pub fn start(config: &TelemetryConfig, metrics: Metrics) -> anyhow::Result<Option<Tracing>> {
    if config.traces == TracesExporter::None {
        return Ok(None);
    }
    let mut exporter = exporter::build(&config.otlp)?;
    let resource = resource(config);
    // Without it the spans would belong to no service.
    exporter.set_resource(&resource);
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let (queue, task) = SpanQueue::new(metrics);
    let provider = SdkTracerProvider::builder()
        .with_span_processor(queue.clone())
        .with_sampler(RootSampler::new(config.trace_baseline))
        .with_resource(resource)
        .build();
    Ok(Some(Tracing {
        provider,
        queue,
        task: tokio::spawn(task.run(exporter, config.otlp.clone())),
    }))
}

impl Tracing {
    /// Exports the last spans, no longer than `until`: a collector that hangs must not hold
    /// up the exit.
    pub(crate) async fn shutdown(mut self, until: Instant) {
        self.queue.close();
        let until = until.min(Instant::now() + FLUSH_TIMEOUT);
        let flushed = tokio::time::timeout_at(until.into(), &mut self.task).await;
        if flushed.is_err() {
            self.task.abort();
            // At once: it only waits. Once it is gone, every span is counted.
            let _ = self.task.await;
        }
        self.queue.report_loss();
    }
}

/// The layer that turns the spans of this crate, and of no library, into OpenTelemetry's.
pub(crate) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("ganesh"))
        // Spans of tonic, hyper and h2 would trace the export of spans.
        .with_filter(Targets::new().with_target("ganesh", tracing::Level::INFO))
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
