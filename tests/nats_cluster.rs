//! A NATS cluster of three servers, with the stream on all of them: leaders change, one is killed.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config as StreamConfig, Stream};
use ganesh::config::Config;
use tempfile::TempDir;

use crate::support::ganesh::command;
use crate::support::servers::{Server, free_port};
use crate::support::{Stack, eventually};

const EVENTS: i64 = 30_000;

struct Cluster {
    servers: Vec<Server>,
    _configurations: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let routes = ports
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .join(", ");
        let servers = ports.iter().enumerate().map(|(number, port)| {
            let file = folder.path().join(format!("{number}.conf"));
            let text = format!(
                "server_name: n{number}\n\
                 jetstream {{ max_file_store: 1GB, max_memory_store: 64MB }}\n\
                 cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n"
            );
            std::fs::write(&file, text).unwrap();
            Server::start("nats", &[("NATS_CONF", file.to_str().unwrap())])
        });
        let cluster = Self {
            servers: servers.collect(),
            _configurations: folder,
        };
        let jetstream = cluster.jetstream().await;
        eventually("the cluster has a leader", || async {
            jetstream.query_account().await.is_ok()
        })
        .await;
        cluster
    }

    fn urls(&self) -> String {
        let urls = self.servers.iter();
        let urls = urls.map(|server| format!("nats://127.0.0.1:{}", server.port()));
        urls.collect::<Vec<_>>().join(",")
    }

    async fn jetstream(&self) -> Context {
        let urls: Vec<String> = self.urls().split(',').map(str::to_owned).collect();
        async_nats::jetstream::new(async_nats::connect(urls).await.unwrap())
    }
}

/// The stream as ganesh makes it, but smaller and on all three.
async fn make_stream(jetstream: &Context) -> Stream {
    let reader = ganesh::config::Reader::default();
    let nats = Config::read(reader).unwrap().nats;
    let config = StreamConfig {
        num_replicas: 3,
        max_bytes: 200 << 20,
        ..ganesh::messaging::streams::event_stream(&nats)
    };
    let dead_letters = StreamConfig {
        num_replicas: 3,
        ..ganesh::messaging::streams::dlq_stream(&nats)
    };
    eventually("the dead-letter stream is made", || async {
        jetstream.create_stream(dead_letters.clone()).await.is_ok()
    })
    .await;
    eventually("the stream is made", || async {
        jetstream.create_stream(config.clone()).await.is_ok()
    })
    .await;
    jetstream.get_stream("EVENTS").await.unwrap()
}

/// Who leads, of the stream and of the consumer.
async fn leaders(stream: &Stream) -> Option<(String, String)> {
    let of_stream = stream.get_info().await.ok()?.cluster?.leader?;
    let of_consumer = stream.consumer_info("ganesh").await.ok()?.cluster?.leader?;
    Some((of_stream, of_consumer))
}

/// Has another server lead.
async fn step_down(jetstream: &Context, what: &str) {
    let subject = format!("$JS.API.{what}");
    let answer = jetstream
        .client()
        .request(subject, "".into())
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(answer.contains("\"success\":true"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_leader_and_the_death_of_one_cost_no_event_and_add_no_row() {
    let stack = Stack::start().await;
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    let stream = make_stream(&jetstream).await;
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
        for what in [
            "STREAM.LEADER.STEPDOWN.EVENTS",
            "CONSUMER.LEADER.STEPDOWN.EVENTS.ganesh",
        ] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            eventually("both have a leader", || async {
                leaders(&stream).await.is_some()
            })
            .await;
            let before = leaders(&stream).await;
            step_down(&jetstream, what).await;
            eventually("another one leads", || async {
                let now = leaders(&stream).await;
                now.is_some() && now != before
            })
            .await;
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
