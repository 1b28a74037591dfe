//! What the process tells about itself: metrics, logs, spans, and the record
//! that every message carries.

pub mod budget;
pub mod export;
pub mod health;
pub mod histogram;
pub mod logs;
pub mod metrics;
pub mod openmetrics;
pub mod processor;
pub mod recorder;
pub mod root_sampler;
pub mod runtime;
pub mod semconv;
mod span_bytes;
pub mod span_queue;
mod span_totals;
pub mod spans;
pub mod traces;

pub use health::Health;
pub use metrics::Metrics;
