//! The CloudEvent (interim: the codec's branch replaces this file).

mod error;
mod timestamp;
mod trace_context;

pub use error::{DecodeError, DecodeReason};
pub use timestamp::Timestamp;
pub use trace_context::{TraceContext, trace_context};
