//! The two formats, rendered from a recorder of the test's own.

use ganesh::event::Timestamp;
use ganesh::event::TraceId;
use ganesh::telemetry::Metrics;
use ganesh::labels::Stage;
use ganesh::telemetry::histogram::Exemplar;
use ganesh::telemetry::openmetrics::{Format, render};
use ganesh::telemetry::recorder::{CatalogueRecorder, Recorded};
use metrics::with_local_recorder;

use crate::support::exposition::{names_in_openmetrics, names_in_text, parse};

/// A recorder with the whole catalogue in it, and its handles.
fn registered() -> (CatalogueRecorder, Recorded, Metrics) {
    let recorder = CatalogueRecorder::new();
    let shown = recorder.recorded();
    let handles = with_local_recorder(&recorder, || Metrics::register(&shown.histograms));
    (recorder, shown, handles)
}

#[test]
fn both_formats_have_the_same_series_and_only_openmetrics_has_exemplars() {
    let (_, shown, metrics) = registered();
    metrics.received.increment(7);
    metrics.stage_seconds(Stage::Store).record(0.2);
    let at = Timestamp::from_micros(1_700_000_000_250_000);
    let trace_id = TraceId::of_message(None, "EVENTS", 1, at);
    let exemplar = Exemplar {
        trace_id,
        value: 0.2,
        at,
    };
    metrics
        .stage_seconds(Stage::Store)
        .attach_exemplar(exemplar);
    let open_metrics = render(&shown, Format::OpenMetrics);
    let text = render(&shown, Format::Text);
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
fn what_libraries_count_gets_the_names_and_escapes_of_both_formats() {
    let (recorder, shown, _) = registered();
    with_local_recorder(&recorder, || {
        metrics::describe_counter!("library_things", "Things, \"so\" to say\nand \\ more.");
        metrics::counter!("library_things", "path" => "a \"b\"\n{c, d=\"e\"}").increment(2);
        metrics::counter!("library_rest_total").increment(3);
        metrics::gauge!("library_share").set(f64::INFINITY);
        // Without buckets it would be a summary, and its observations pile up.
        metrics::histogram!("library_seconds").record(1.0);
    });
    let open_metrics = render(&shown, Format::OpenMetrics);
    let text = render(&shown, Format::Text);
    assert_eq!(names_in_openmetrics(&open_metrics), names_in_text(&text));
    let families = parse(&open_metrics).unwrap();
    let family = |name: &str| families.iter().find(|family| family.name == name);
    let things = family("library_things").unwrap();
    let help = "Things, \"so\" to say\nand \\ more.";
    assert_eq!(things.help.as_deref(), Some(help));
    assert_eq!(things.samples[0].name, "library_things_total");
    assert_eq!(things.samples[0].labels["path"], "a \"b\"\n{c, d=\"e\"}");
    assert!(family("library_rest").is_some());
    assert!(
        family("library_share").unwrap().samples[0]
            .value
            .is_infinite()
    );
    assert!(family("library_seconds").is_none());
    assert!(
        text.contains("# TYPE library_things_total counter\n"),
        "{text}"
    );
    assert!(text.contains("# HELP library_things_total Things, \"so\" to say\\nand \\\\ more.\n"));
}

#[test]
fn a_counter_of_fractions_is_a_counter_in_both_formats() {
    let (_, shown, metrics) = registered();
    metrics.process.cpu_seconds.set(1.25);
    let open_metrics = render(&shown, Format::OpenMetrics);
    let text = render(&shown, Format::Text);
    assert!(open_metrics.contains("# TYPE process_cpu_seconds counter\n"));
    assert!(open_metrics.contains("# UNIT process_cpu_seconds seconds\n"));
    assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"));
    for rendered in [open_metrics, text] {
        assert!(rendered.contains("\nprocess_cpu_seconds_total 1.25\n"));
    }
}
