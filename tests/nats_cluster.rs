//! A NATS cluster of three servers, with the stream on all of them: leaders change, one is killed.

use std::time::Duration;

use crate::support::cluster::{Cluster, STEPDOWNS, leaders, move_leader};
use crate::support::ganesh::command;
use crate::support::{Stack, eventually};

const EVENTS: i64 = 30_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_leader_and_the_death_of_one_cost_no_event_and_add_no_row() {
    let stack = Stack::start().await;
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    let stream = cluster.make_streams(200 << 20).await;
    let urls = cluster.urls();
    let ganesh = stack
        .serve(&[("NATS_URL", &urls), ("GANESH_ACK_WAIT", "5s")])
        .await;
    let count = EVENTS.to_string();
    let arguments = [
        "produce", "--rate", "2000", "--seed", "1", "--count", &count,
    ];
    let mut producer = command(Some(&stack), &arguments, &[("NATS_URL", &urls)])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..2 {
        for what in STEPDOWNS {
            tokio::time::sleep(Duration::from_secs(1)).await;
            move_leader(&jetstream, &stream, what).await;
        }
    }
    let (leader, _) = leaders(&stream).await.unwrap();
    let leader: usize = leader.trim_start_matches('n').parse().unwrap();
    cluster.servers[leader].kill();
    assert!(stack.rows().await < EVENTS, "too late to prove anything");
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.servers[leader].run();
    let ended = tokio::task::spawn_blocking(move || producer.wait().unwrap());
    assert!(ended.await.unwrap().success());
    eventually("the backlog is empty", || async {
        let info = stream.consumer_info("ganesh").await;
        info.is_ok_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
    })
    .await;
    assert_eq!(stack.rows().await, EVENTS);
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    assert_eq!(letters.cached_info().state.messages, 0);
    ganesh.wait_until_ready().await;
    assert!(ganesh.terminate().await.success());
}
