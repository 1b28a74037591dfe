//! The shape of a message's trace: every trace that a test looks at is checked for it.

use std::collections::BTreeMap;

use crate::support::collector::{Collector, Seen};
use crate::support::eventually;

/// The name of the process span, for the default subjects.
pub const PROCESS: &str = "process events.>";
/// The names of a batch's own span: of many rows, and of few.
pub const BATCH: [&str; 2] = ["COPY events", "INSERT events"];

const STAGES: [&str; 6] = ["stream", "decode", "queue", "store", "cache", "settle"];
const CLIENT: i32 = 3;
const CONSUMER: i32 = 5;

/// One message's trace.
#[derive(Debug, Clone)]
pub struct Whole {
    pub process: Seen,
    /// In the order of time.
    pub stages: Vec<Seen>,
}

impl Whole {
    /// The event's id; empty when there is no event.
    pub fn event(&self) -> &str {
        self.process.attribute("cloudevents.event_id")
    }

    pub fn keep_reason(&self) -> &str {
        self.process.attribute("ganesh.keep_reason")
    }

    pub fn stage(&self, name: &str) -> &Seen {
        let found = self.stages.iter().find(|stage| stage.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    pub fn names(&self) -> Vec<&str> {
        self.stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect()
    }

    pub fn longest(&self) -> &Seen {
        self.stages
            .iter()
            .max_by_key(|stage| stage.duration())
            .unwrap()
    }
}

/// The traces of messages that the collector has accepted, each checked.
pub fn traces(collector: &Collector) -> Vec<Whole> {
    let spans = collector.spans();
    let mut children: BTreeMap<(&str, &str), Vec<&Seen>> = BTreeMap::new();
    for span in &spans {
        let of = (span.trace_id.as_str(), span.parent.as_str());
        children.entry(of).or_default().push(span);
    }
    let process = spans.iter().filter(|span| span.name == PROCESS);
    process
        .map(|process| {
            let of = (process.trace_id.as_str(), process.id.as_str());
            let stages = children.get(&of).map(Vec::as_slice).unwrap_or_default();
            let whole = Whole {
                process: process.clone(),
                stages: stages.iter().map(|stage| (*stage).clone()).collect(),
            };
            assert_well_formed(&whole, &spans);
            whole
        })
        .collect()
}

/// Waits until so many messages' traces have arrived; returns them.
pub async fn wait_for_traces(collector: &Collector, count: usize) -> Vec<Whole> {
    eventually(&format!("{count} traces arrive"), || async {
        collector.named(PROCESS).len() >= count
    })
    .await;
    traces(collector)
}

fn assert_well_formed(whole: &Whole, spans: &[Seen]) {
    let Whole { process, stages } = whole;
    assert_eq!(process.service, "ganesh");
    assert_eq!(process.kind, CONSUMER, "{whole:#?}");
    assert_eq!(process.attribute("messaging.system"), "nats");
    assert!(
        process
            .attribute("messaging.destination.name")
            .starts_with("events.")
    );
    // Whole: it begins and ends with the stages that every message passes, in flow order,
    // without a gap, and they add up to it.
    let names = whole.names();
    assert_eq!(names.first(), Some(&"stream"), "{whole:#?}");
    assert_eq!(names.last(), Some(&"settle"), "{whole:#?}");
    let places: Vec<usize> = names
        .iter()
        .map(|name| STAGES.iter().position(|stage| stage == name).unwrap())
        .collect();
    assert!(places.is_sorted_by(|a, b| a < b), "{names:?}");
    assert_eq!(stages[0].start, process.start);
    assert_eq!(stages[stages.len() - 1].end, process.end);
    for pair in stages.windows(2) {
        assert_eq!(pair[0].end, pair[1].start, "{whole:#?}");
    }
    let longest = process.attribute("ganesh.longest_stage");
    let longest = whole.stage(longest).duration();
    assert_eq!(longest, whole.longest().duration(), "{whole:#?}");
    let sum: u64 = stages.iter().map(Seen::duration).sum();
    assert_eq!(sum, process.duration(), "{whole:#?}");
    for stage in stages {
        assert_eq!(stage.trace_id, process.trace_id);
        let is_store = stage.name == "store";
        assert_eq!(stage.kind == CLIENT, is_store, "{whole:#?}");
        if is_store {
            assert_link_to_batch(stage, spans);
        }
        for event in &stage.events {
            assert!((stage.start..=stage.end).contains(&event.at), "{whole:#?}");
        }
    }
}

/// What the stable conventions of OpenTelemetry ask of a span of a database.
fn assert_names_the_database(span: &Seen) {
    assert_eq!(span.attribute("db.system.name"), "postgresql");
    assert_eq!(span.attribute("db.collection.name"), "events");
    assert_eq!(span.attribute("server.address"), "127.0.0.1");
    let database = span.attribute("db.namespace");
    assert!(
        ["ganesh", "test_"]
            .iter()
            .any(|start| database.starts_with(start)),
        "{database}"
    );
    let operation = span.attribute("db.operation.name");
    assert!(["COPY", "INSERT"].contains(&operation), "{operation}");
}

/// The link of a store span leads to the span of its batch.
fn assert_link_to_batch(store: &Seen, spans: &[Seen]) {
    assert_names_the_database(store);
    let [(trace_id, id)] = store.links.as_slice() else {
        panic!("not one link: {store:#?}");
    };
    let batch = spans
        .iter()
        .find(|span| span.trace_id == *trace_id && span.id == *id);
    let batch = batch.unwrap_or_else(|| panic!("the link leads nowhere: {store:#?}"));
    assert!(BATCH.contains(&batch.name.as_str()), "{batch:#?}");
    assert_ne!(batch.trace_id, store.trace_id);
    assert_eq!(batch.kind, CLIENT);
    let rows: usize = batch.attribute("db.operation.batch.size").parse().unwrap();
    assert!(rows > 0);
    // Both end at the commit. Its times may have been converted at another moment.
    let apart = batch.end.abs_diff(store.end);
    assert!(
        apart < 50_000_000,
        "{apart} ns apart: {store:#?} {batch:#?}"
    );
}
