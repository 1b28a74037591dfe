//! A NATS cluster of three servers, with the stream on all of them: leaders change, one is killed.

use std::time::Duration;

use crate::support::cluster::{Cluster, STEPDOWNS, leaders, move_leader};
use crate::support::ganesh::{command, run};
use crate::support::{Ganesh, Stack, eventually};

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

async fn replicas(jetstream: &async_nats::jetstream::Context, stream: &str) -> usize {
    let stream = jetstream.get_stream(stream).await.unwrap();
    stream.cached_info().config.num_replicas
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ganesh_makes_in_a_cluster_is_on_three_servers_letters_too() {
    let stack = Stack::start().await;
    let cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    let urls = cluster.urls();
    let settings = [
        ("NATS_URL", urls.as_str()),
        ("GANESH_STREAM_MAX_BYTES", "200MiB"),
    ];
    let ganesh = stack.serve(&settings).await;
    for stream in ["EVENTS", "EVENTS_DLQ", "OBJ_EVENTS_DLQ"] {
        assert_eq!(replicas(&jetstream, stream).await, 3, "{stream}");
    }
    assert!(ganesh.terminate().await.success());

    // Letters that a lost server would take with it, while their messages are acknowledged.
    for name in ["OBJ_EVENTS_DLQ", "EVENTS_DLQ"] {
        let stream = jetstream.get_stream(name).await.unwrap();
        let mut config = stream.cached_info().config.clone();
        config.num_replicas = 1;
        jetstream.update_stream(config).await.unwrap();
    }
    let words = [
        "stream EVENTS_DLQ: num_replicas is 1, and that of EVENTS is 3",
        "set num_replicas to 3",
    ];
    let doctor = run(Some(&stack), &["doctor"], &settings);
    let said = String::from_utf8(doctor.stdout).unwrap();
    let fits = |line: &str| line.starts_with("FAILED") && words.iter().all(|w| line.contains(w));
    assert!(said.lines().any(fits), "{said}");
    let mut refused = Ganesh::serve(&stack, &settings);
    assert_eq!(refused.wait().await.code(), Some(2));
    assert!(
        words.iter().all(|w| refused.log().contains(w)),
        "{}",
        refused.log()
    );

    // A setting decides for what is made anew; letters follow the events that exist.
    let single = [
        settings.as_slice(),
        &[
            ("GANESH_STREAM", "SINGLE"),
            ("GANESH_SUBJECTS", "single.>"),
            ("GANESH_DLQ_STREAM", "SINGLE_DLQ"),
            ("GANESH_STREAM_REPLICAS", "1"),
        ],
    ]
    .concat();
    assert!(stack.serve(&single).await.terminate().await.success());
    assert_eq!(replicas(&jetstream, "SINGLE").await, 1);
    assert_eq!(replicas(&jetstream, "SINGLE_DLQ").await, 1);
    let follows = [
        settings.as_slice(),
        &[
            ("GANESH_DLQ_STREAM", "FOLLOWING_DLQ"),
            ("GANESH_STREAM_REPLICAS", "1"),
        ],
    ]
    .concat();
    assert!(stack.serve(&follows).await.terminate().await.success());
    assert_eq!(replicas(&jetstream, "FOLLOWING_DLQ").await, 3);
    assert_eq!(replicas(&jetstream, "OBJ_FOLLOWING_DLQ").await, 3);
}

#[tokio::test]
async fn more_replicas_than_servers_end_the_start_at_once() {
    let stack = Stack::start().await;
    let mut ganesh = Ganesh::serve(&stack, &[("GANESH_STREAM_REPLICAS", "3")]);
    assert_eq!(ganesh.wait().await.code(), Some(2));
    let log = ganesh.log();
    assert!(log.contains("set GANESH_STREAM_REPLICAS to 1"), "{log}");
    let jetstream = stack.jetstream().await;
    assert!(jetstream.get_stream("EVENTS").await.is_err());
}
