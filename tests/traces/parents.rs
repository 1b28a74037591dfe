//! Under the producer's span when it was sampled, otherwise with a link to it.

use std::collections::BTreeMap;

use async_nats::HeaderMap;

use super::shape::{PROCESS, wait_for_traces};
use crate::support::Stack;
use crate::support::collector::Collector;
use crate::support::events::event;
use crate::support::ganesh::run;

const PRODUCER: i32 = 4;

async fn publish_with_traceparent(stack: &Stack, id: &str, traceparent: &str) {
    let (mut headers, body) = ganesh::event::encode_binary(&event(id));
    headers.insert("traceparent", traceparent);
    let jetstream = stack.jetstream().await;
    let sent: HeaderMap = headers;
    let acknowledgement = jetstream
        .publish_with_headers("events.test", sent, body)
        .await;
    acknowledgement.unwrap().await.unwrap();
}

#[tokio::test]
async fn a_sampled_producer_is_the_parent_and_an_unsampled_one_is_linked_to() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[
        ("GANESH_TRACE_SLOW_MS", "600000"),
        ("GANESH_TRACE_BASELINE", "1"),
    ]);
    let _ganesh = stack.serve(&settings).await;
    let (trace, span) = ("ab".repeat(16), "12".repeat(8));
    publish_with_traceparent(&stack, "sampled", &format!("00-{trace}-{span}-01")).await;
    let (other, of_other) = ("cd".repeat(16), "34".repeat(8));
    publish_with_traceparent(&stack, "unsampled", &format!("00-{other}-{of_other}-00")).await;
    let arrived = wait_for_traces(&collector, 2).await;
    let by_event: BTreeMap<&str, _> = arrived.iter().map(|w| (w.event(), w)).collect();

    let sampled = by_event["sampled"];
    assert_eq!(sampled.keep_reason(), "upstream");
    assert_eq!(sampled.process.trace_id, trace);
    assert_eq!(sampled.process.parent, span);
    assert!(sampled.process.links.is_empty());

    let unsampled = by_event["unsampled"];
    assert_eq!(unsampled.keep_reason(), "baseline");
    assert_ne!(unsampled.process.trace_id, other);
    assert_eq!(unsampled.process.parent, "");
    assert_eq!(unsampled.process.links, [(other, of_other)]);
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT id, trace_id FROM events")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    for (id, trace_id) in rows {
        assert_eq!(by_event[id.as_str()].process.trace_id, trace_id);
    }
}

// The collector has to answer while this waits for the producer.
#[tokio::test(flavor = "multi_thread")]
async fn our_producer_sends_the_span_that_its_sampled_messages_name() {
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let settings = collector.settings_with(&[("GANESH_TRACE_SLOW_MS", "600000")]);
    let _ganesh = stack.serve(&settings).await;
    let arguments = ["produce", "--count", "40", "--rate", "200", "--sample", "4"];
    let output = run(Some(&stack), &arguments, &collector.settings());
    assert!(output.status.success(), "{output:?}");
    let arrived = wait_for_traces(&collector, 10).await;
    assert_eq!(arrived.len(), 10, "one in four");
    let sends = collector.named("send events.>");
    assert_eq!(sends.len(), 10);
    for whole in &arrived {
        let of_parent = |send: &&_| -> bool {
            let send: &crate::support::collector::Seen = send;
            send.trace_id == whole.process.trace_id && send.id == whole.process.parent
        };
        let send = sends.iter().find(of_parent).expect("the parent was sent");
        assert_eq!(send.service, "ganesh-produce");
        assert_eq!(send.kind, PRODUCER);
        assert_eq!(send.attribute("messaging.operation.type"), "send");
        assert_eq!(send.attribute("cloudevents.event_id"), whole.event());
        assert_eq!(whole.process.name, PROCESS);
        // The names of the CloudEvents conventions.
        for name in ["id", "source", "type", "subject", "spec_version"] {
            let attribute = whole
                .process
                .attribute(&format!("cloudevents.event_{name}"));
            assert!(!attribute.is_empty(), "{name}");
        }
    }
}
