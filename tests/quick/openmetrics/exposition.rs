//! The two formats, rendered from metrics of the test's own.

use ganesh::event::Timestamp;
use ganesh::event::TraceId;
use ganesh::labels::Stage;
use ganesh::telemetry::Metrics;
use ganesh::telemetry::histogram::Exemplar;
use ganesh::telemetry::openmetrics::{Format, render};

use crate::support::exposition::{names_in_openmetrics, names_in_text};

#[test]
fn both_formats_have_the_same_series_and_only_openmetrics_has_exemplars() {
    let metrics = Metrics::default();
    metrics.received.increment(7);
    metrics.stage_seconds[Stage::Store].record(0.2);
    let at = Timestamp::from_micros(1_700_000_000_250_000);
    let trace_id = TraceId::of_message(None, "EVENTS", 1, at);
    let exemplar = Exemplar {
        trace_id,
        value: 0.2,
        at,
    };
    metrics.stage_seconds[Stage::Store].attach_exemplar(exemplar);
    let open_metrics = render(&metrics, Format::OpenMetrics);
    let text = render(&metrics, Format::Text);
    assert_eq!(names_in_openmetrics(&open_metrics), names_in_text(&text));
    let bucket = "ganesh_stage_seconds_bucket{stage=\"store\",le=\"0.25\"} 1";
    let with_exemplar = format!("{bucket} # {{trace_id=\"{trace_id}\"}} 0.2 1700000000.250000\n");
    assert!(open_metrics.contains(&with_exemplar), "{open_metrics}");
    assert!(text.contains(&format!("{bucket}\n")), "{text}");
    assert!(open_metrics.contains("# TYPE ganesh_messages_received counter\n"));
    assert!(text.contains("# TYPE ganesh_messages_received_total counter\n"));
    for rendered in [&open_metrics, &text] {
        assert!(rendered.contains("\nganesh_messages_received_total 7\n"));
    }
}

#[test]
fn values_are_exact() {
    let metrics = Metrics::default();
    metrics.received.increment(u64::MAX);
    metrics.clock_skew.set(f64::INFINITY);
    metrics.consumer_oldest_pending.set(f64::NEG_INFINITY);
    metrics.stream_gone.set(f64::NAN);
    metrics.in_flight_bytes.set(1e15 + 0.125);
    for format in [Format::Text, Format::OpenMetrics] {
        let rendered = render(&metrics, format);
        for line in [
            "ganesh_messages_received_total 18446744073709551615",
            "ganesh_clock_skew_seconds +Inf",
            "ganesh_consumer_oldest_pending_seconds -Inf",
            "ganesh_stream_gone NaN",
            "ganesh_in_flight_bytes 1000000000000000.1",
        ] {
            assert!(rendered.contains(&format!("\n{line}\n")), "{rendered}");
        }
    }
}

#[test]
fn a_counter_of_fractions_is_a_counter_in_both_formats() {
    let metrics = Metrics::default();
    metrics.process_cpu.set(1.25);
    let open_metrics = render(&metrics, Format::OpenMetrics);
    let text = render(&metrics, Format::Text);
    assert!(open_metrics.contains("# TYPE process_cpu_seconds counter\n"));
    assert!(open_metrics.contains("# UNIT process_cpu_seconds seconds\n"));
    assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"));
    for rendered in [open_metrics, text] {
        assert!(rendered.contains("\nprocess_cpu_seconds_total 1.25\n"));
    }
}
