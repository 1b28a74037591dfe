//! `OTEL_SDK_DISABLED`: with nothing counted, timed or traced the pipeline does its work all the same.

use crate::support::Stack;
use crate::support::collector::Collector;
use crate::support::events::{events, publish, publish_invalid};

#[tokio::test]
async fn without_telemetry_events_are_stored_and_no_span_leaves() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    // Otherwise everything would be kept.
    let settings = [("OTEL_SDK_DISABLED", "True"), ("GANESH_TRACE_SLOW_MS", "0")];
    let ganesh = stack.serve(&collector.settings_with(&settings)).await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &events("off", 500)).await;
    publish_invalid(&jetstream).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 500);
    assert_eq!(stack.dead_letters().await, 1);
    for path in ["/metrics", "/debug/slow"] {
        let (status, body) = ganesh.admin(path).await;
        assert_eq!(status, 404, "{path}: {body}");
        assert!(body.contains("OTEL_SDK_DISABLED"), "{path}: {body}");
    }
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
    assert!(ganesh.log().contains("OTEL_SDK_DISABLED=true"));
    assert!(ganesh.terminate().await.success());
    assert!(!collector.was_asked());
}
