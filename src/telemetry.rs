//! What the process tells about itself: metrics, logs, spans, and the record
//! that every message carries.

pub mod catalogue;
pub mod health;
pub mod histogram;
pub mod logs;
pub mod metrics;
pub mod openmetrics;
pub mod record;
pub mod recorder;
pub mod runtime;
pub mod trace_id;
pub mod traces;

pub use health::Health;
pub use metrics::Metrics;
pub use recorder::Histograms;
