//! What the process tells about itself: metrics, logs, spans, and the record
//! that every message carries.

pub(crate) mod budget;
pub(crate) mod collector;
pub(crate) mod export;
mod exporter;
pub(crate) mod health;
pub mod histogram;
pub(crate) mod logs;
pub mod metrics;
pub mod openmetrics;
pub(crate) mod root_sampler;
pub(crate) mod runtime;
pub(crate) mod semconv;
pub(crate) mod span_queue;
pub(crate) mod spans;
pub mod traces;

pub use health::Health;
pub use metrics::Metrics;
