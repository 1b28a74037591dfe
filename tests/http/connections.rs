//! Connections that take a place and ask for nothing.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::get;
use crate::support::ganesh::run;
use crate::support::{Ganesh, Stack};

/// A kubelet waits so long for each probe, and gives up after so many.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
const PROBES: usize = 3;

fn api_address(ganesh: &Ganesh) -> String {
    ganesh.api.trim_start_matches("http://").to_owned()
}

/// So many connections that begin with `head`, oldest first.
async fn connections(address: &str, count: usize, head: &str) -> Vec<TcpStream> {
    let mut connections = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        connections.push(stream);
    }
    connections
}

async fn assert_probe_is_answered(ganesh: &Ganesh) {
    for _ in 0..PROBES {
        let probe = reqwest::Client::builder().timeout(PROBE_TIMEOUT).build();
        let probe = probe.unwrap().get(ganesh.admin_url("/readyz")).send().await;
        if probe.is_ok_and(|answer| answer.status() == 200) {
            return;
        }
    }
    panic!("no probe is answered");
}

#[tokio::test]
async fn connections_to_the_admin_port_that_ask_nothing_keep_no_probe_out() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let address = ganesh.admin_address();
    for head in [
        "",
        "GET /livez HTTP/1.1\r\n",
        "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        let mut idle = connections(&address, 200, head).await;
        assert_probe_is_answered(&ganesh).await;
        let healthcheck = [("GANESH_ADMIN_ADDR", address.as_str())];
        assert!(run(None, &["healthcheck"], &healthcheck).status.success());
        // The oldest ones made room.
        assert!(drained(&mut idle[0]).await, "{head:?}");
        assert!(!drained(&mut idle[199]).await, "{head:?}");
    }
}

/// Reads what came, and says whether the server has ended the connection.
async fn drained(stream: &mut TcpStream) -> bool {
    let mut taken = Vec::new();
    let read = stream.read_to_end(&mut taken);
    tokio::time::timeout(Duration::from_millis(300), read)
        .await
        .is_ok()
}

#[tokio::test]
async fn requests_whose_bodies_never_come_keep_no_probe_out() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let head = "PUT /log-level HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\n";
    let mut waiting = connections(&ganesh.admin_address(), 60, head).await;
    assert_probe_is_answered(&ganesh).await;
    // Others than the first ones are not waited for.
    let mut answer = [0; 12];
    waiting[50].read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
}

#[tokio::test]
async fn an_idle_connection_to_the_admin_port_ends_soon() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut idle = TcpStream::connect(ganesh.admin_address()).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(15), idle.read(&mut [0; 1])).await;
    assert!(end.is_ok_and(|read| read.is_ok_and(|bytes| bytes == 0)));
    assert!(!ganesh.log().contains("WARN"));
}

#[tokio::test]
async fn connections_to_the_api_that_ask_nothing_keep_no_read_out() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let _idle = connections(&api_address(&ganesh), 1_050, "").await;
    let read = get(&ganesh, "/v1/events/unknown");
    let answer = tokio::time::timeout(Duration::from_secs(5), read).await;
    assert_eq!(answer.expect("an answer in time").status, 404);
}
