//! A process that may open no more files.

use std::net::TcpStream;
use std::time::Duration;

use crate::support::events::{events, publish};
use crate::support::ganesh::FILES_MAX;
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::stack::kill_sessions;
use crate::support::{Ganesh, Stack};

const REDELIVERED: &str = "ganesh_messages_redelivered_total";

fn open_files(ganesh: &Ganesh) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", ganesh.pid()));
    open.unwrap().count()
}

#[tokio::test]
async fn without_a_free_file_descriptor_events_are_stored_and_what_needs_one_waits() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_ACK_WAIT", "5s")]).await;
    let jetstream = stack.jetstream().await;
    let before = events("before", 100);
    publish(&jetstream, &before).await;
    stack.wait_until_drained().await;

    // Clients of the API take what is left, and would take more.
    ganesh.limit_files(open_files(&ganesh) + 8);
    let api = ganesh.api.trim_start_matches("http://").to_owned();
    let clients: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&api).unwrap()).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let without = events("without", 2_000);
    publish(&jetstream, &without).await;
    stack.wait_for_rows(2_100).await;
    assert!(ganesh.log().contains("connection not accepted; it waits"));

    // Connections that are ended cannot be made again now; their rows wait.
    ganesh.limit_files(3);
    kill_sessions(&stack.pool).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let behind = events("behind", 2_000);
    publish(&jetstream, &behind).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(stack.rows().await, 2_100);
    ganesh.limit_files(FILES_MAX);
    drop(clients);
    stack.wait_until_drained().await;
    let all = [before, without, behind].concat();
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
    ganesh.wait_until_ready().await;
    assert!(ganesh.terminate().await.success());
}
