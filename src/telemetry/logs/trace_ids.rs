//! The trace and the span in which a line was logged, on the line.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::{SpanId, TraceContextExt, TraceId};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The field of a line about a message: the message's own trace id.
const TRACE_ID: &str = "trace_id";

/// Adds `trace_id` and `span_id` to what `F` writes: text, or one JSON object a line, which has a
/// member at least.
pub(super) struct WithTraceIds<F> {
    pub(super) format: F,
    pub(super) is_json: bool,
}

impl<S, N, F> FormatEvent<S, N> for WithTraceIds<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some((trace, span)) = current(event) else {
            return self.format.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.format
            .format_event(context, Writer::new(&mut line), event)?;
        let end = if self.is_json { "}\n" } else { "\n" };
        let line = line.strip_suffix(end).ok_or(fmt::Error)?;
        if self.is_json {
            write!(
                writer,
                r#"{line},"{TRACE_ID}":"{trace}","span_id":"{span}"{end}"#
            )
        } else {
            write!(writer, "{line} {TRACE_ID}={trace} span_id={span}{end}")
        }
    }
}

/// The ids of the span that this thread is in, whether it is sampled or not; none for a line
/// that brings the trace id of its message.
fn current(event: &Event<'_>) -> Option<(TraceId, SpanId)> {
    if event.metadata().fields().field(TRACE_ID).is_some() {
        return None;
    }
    Context::map_current(|context| {
        let span = context.span();
        let context = span.span_context();
        context
            .is_valid()
            .then(|| (context.trace_id(), context.span_id()))
    })
}
