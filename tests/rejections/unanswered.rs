//! Statements that break their connection, each time: a gateway that cuts large ones stands for it. A batch
//! passes in pieces, and a row that never passes keeps no writer.

use bytes::Bytes;
use ganesh::event::Data;
use url::Url;

use crate::support::events::{events, publish};
use crate::support::keys::publish_in_one_batch;
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::proxy::Proxy;
use crate::support::{Ganesh, Stack, eventually};

const STATEMENT_BYTES_MAX: usize = 20_000;
const REDELIVERED: &str = "ganesh_messages_redelivered_total";
const BROKEN: &str = "ganesh_dependency_errors_total{dependency=\"postgres\",code=\"connection\"}";

/// A `serve` that reaches Postgres through a gateway.
async fn behind_a_gateway(stack: &Stack, settings: &[(&str, &str)]) -> (Proxy, Ganesh) {
    let mut url = Url::parse(&stack.database_url).unwrap();
    let proxy = Proxy::start(url.port().unwrap()).await;
    url.set_port(Some(proxy.port)).unwrap();
    let mut settings = settings.to_vec();
    settings.push(("POSTGRES_URL", url.as_str()));
    let ganesh = stack.serve(&settings).await;
    (proxy, ganesh)
}

#[tokio::test]
async fn a_batch_whose_statement_breaks_its_connection_is_stored_in_pieces() {
    let stack = Stack::start().await;
    let settings = [("GANESH_BATCH_MAX_EVENTS", "1000"), ("GANESH_WRITERS", "1")];
    let (gateway, ganesh) = behind_a_gateway(&stack, &settings).await;
    gateway.cut_statements_above(STATEMENT_BYTES_MAX);
    let mut all = events("e", 900);
    all.push(publish_in_one_batch(&stack, &ganesh, &all).await);
    stack.wait_until_drained().await;
    assert!(ganesh.metric(BROKEN).await >= 1.0, "nothing was cut");
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

/// More of them than writers.
#[tokio::test]
async fn rows_that_always_break_the_connection_keep_no_writer_and_wait_while_others_are_stored() {
    let stack = Stack::start().await;
    let settings = [("GANESH_BATCH_MAX_EVENTS", "1"), ("GANESH_WRITERS", "2")];
    let (gateway, ganesh) = behind_a_gateway(&stack, &settings).await;
    gateway.cut_statements_above(STATEMENT_BYTES_MAX);
    let mut all = events("too large", 4);
    for event in &mut all {
        let long = format!("\"{}\"", "x".repeat(STATEMENT_BYTES_MAX));
        event.data = Data::Json(Bytes::from(long));
    }
    all.extend(events("behind them", 20));
    publish(&stack.jetstream().await, &all).await;
    stack.wait_for_rows(20).await;
    eventually("the others are settled", || async {
        stack.backlog().await == 4
    })
    .await;
    // An hour of that would blame them.
    assert_eq!(stack.dead_letters().await, 0);
    gateway.cut_statements_above(usize::MAX);
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}
