//! P2 on the wire: a proxy before Postgres and one before NATS say in which order a commit's
//! answer and the acknowledgements of its messages passed.

use std::time::Duration;

use crate::support::Stack;
use crate::support::events::{events, publish};
use crate::support::proxy::{Manner, Passed, Proxy, Way};

/// The moments at which Postgres's answers to commits reached ganesh, with their rows.
fn commits(passed: &[Passed]) -> Vec<(u64, u64)> {
    let to_client = passed.iter().filter(|passed| passed.way == Way::ToClient);
    let tags = to_client.flat_map(|passed| passed.find(b"COPY "));
    tags.filter_map(|(moment, rest)| {
        let digits: String = rest
            .iter()
            .map_while(|byte| byte.is_ascii_digit().then_some(char::from(*byte)))
            .collect();
        Some((moment, digits.parse().ok()?))
    })
    .collect()
}

/// The moments at which messages were acknowledged.
fn acknowledgements(passed: &[Passed]) -> Vec<u64> {
    let to_server = passed.iter().filter(|passed| passed.way == Way::ToServer);
    let acks = to_server.flat_map(|passed| passed.find(b"+ACK\r\n"));
    acks.map(|(moment, _)| moment).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_acknowledged_before_the_answer_to_the_commit_of_its_row() {
    const EVENTS: usize = 3_000;
    let stack = Stack::start().await;
    stack.make_streams().await;
    publish(&stack.jetstream().await, &events("e", EVENTS)).await;
    let postgres_port = url::Url::parse(&stack.database_url)
        .unwrap()
        .port()
        .unwrap();
    let postgres = Proxy::start(postgres_port).await;
    let nats = Proxy::start(stack.nats.port()).await;
    // So that whoever does not wait for the answer is seen not to.
    postgres.behave_one_way(Way::ToClient, Manner::Delay(Duration::from_millis(30)));
    let postgres_url = stack.database_url.replace(
        &format!(":{postgres_port}/"),
        &format!(":{}/", postgres.port),
    );
    let nats_url = format!("nats://127.0.0.1:{}", nats.port);
    let settings = [
        ("POSTGRES_URL", postgres_url.as_str()),
        ("NATS_URL", nats_url.as_str()),
        ("GANESH_BATCH_MAX_EVENTS", "100"),
        ("GANESH_WRITERS", "1"),
    ];
    let ganesh = stack.serve(&settings).await;
    stack.wait_until_drained().await;
    assert!(ganesh.terminate().await.success());

    let (commits, mut acknowledged) = (
        commits(&postgres.passed()),
        acknowledgements(&nats.passed()),
    );
    acknowledged.sort_unstable();
    let rows: u64 = commits.iter().map(|(_, rows)| rows).sum();
    assert_eq!((rows, acknowledged.len()), (EVENTS as u64, EVENTS));
    assert!(commits.len() >= EVENTS / 100, "{} commits", commits.len());
    for (before, moment) in acknowledged.iter().enumerate() {
        let committed = commits.iter().filter(|(at, _)| at < moment);
        let committed: u64 = committed.map(|(_, rows)| rows).sum();
        assert!(
            committed > before as u64,
            "acknowledgement {before}, and {committed} rows were committed by then"
        );
    }
}
