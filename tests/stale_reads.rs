//! `--read-rate`, with a service and with somebody who answers in its place.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::support::ganesh::run;
use crate::support::{Ganesh, Stack};

/// Answers every request that a subject has no state; its address.
fn nobody_knows_anything() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = BufReader::new(client.unwrap());
            let mut line = String::new();
            // A request without a body ends with an empty line.
            while client.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            let answer =
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            client.get_mut().write_all(answer).unwrap();
        }
    });
    format!("http://{address}")
}

/// What a producer with reads at this address reports.
fn produce(stack: &Stack, api_url: &str) -> Value {
    let arguments = [
        "produce",
        "--rate",
        "200",
        "--duration",
        "6s",
        "--subject-count",
        "10",
        "--read-rate",
        "50",
        "--api-url",
        api_url,
        "--json",
    ];
    let output = run(Some(stack), &arguments, &[]);
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn served() -> (Stack, Ganesh) {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    (stack, ganesh)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_of_what_was_acknowledged_is_stale() {
    let (stack, ganesh) = served().await;
    let report = produce(&stack, &ganesh.api);
    assert!(report["reads"].as_u64().unwrap() > 100, "{report}");
    assert_eq!(report["stale_reads"], 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_forgets_what_was_acknowledged_answers_stale_reads() {
    let (stack, _ganesh) = served().await;
    let report = produce(&stack, &nobody_knows_anything());
    // Each of ten subjects comes many times a second; the first second settles nothing.
    let (reads, stale) = (&report["reads"], &report["stale_reads"]);
    let (reads, stale) = (reads.as_u64().unwrap(), stale.as_u64().unwrap());
    assert!(reads > 100 && stale > reads / 4, "{report}");
}
