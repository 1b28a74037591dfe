//! A NATS cluster of three servers, with both streams on all of them.

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config as StreamConfig, Stream};
use ganesh::config::Config;
use tempfile::TempDir;

use super::eventually;
use super::servers::{Server, free_port};

/// The cluster.
pub struct Cluster {
    /// `n0`, `n1` and `n2`.
    pub servers: Vec<Server>,
    _configurations: TempDir,
}

impl Cluster {
    /// Started, with a leader.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = [free_port(), free_port(), free_port()];
        let routes = ports
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .join(", ");
        let servers = ports.iter().enumerate().map(|(number, port)| {
            let file = folder.path().join(format!("{number}.conf"));
            // Clients are told of no other addresses than their own: a proxy's, it may be.
            let text = format!(
                "server_name: n{number}\n\
                 jetstream {{ max_file_store: 4GB, max_memory_store: 64MB }}\n\
                 cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}], \
                 no_advertise: true }}\n"
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

    /// All three, as `NATS_URL` has them.
    pub fn urls(&self) -> String {
        let urls = self.servers.iter();
        let urls = urls.map(|server| format!("nats://127.0.0.1:{}", server.port()));
        urls.collect::<Vec<_>>().join(",")
    }

    /// A client that goes to another server when one dies.
    pub async fn jetstream(&self) -> Context {
        let urls: Vec<String> = self.urls().split(',').map(str::to_owned).collect();
        async_nats::jetstream::new(async_nats::connect(urls).await.unwrap())
    }

    /// Makes both streams as ganesh makes them, but smaller and on all three; the one of events.
    pub async fn make_streams(&self, max_bytes: i64) -> Stream {
        let jetstream = self.jetstream().await;
        let reader = ganesh::config::Reader::default();
        let nats = Config::read(reader).unwrap().nats;
        let config = StreamConfig {
            num_replicas: 3,
            max_bytes,
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
}

/// Who leads, of the stream and of the consumer.
pub async fn leaders(stream: &Stream) -> Option<(String, String)> {
    let of_stream = stream.get_info().await.ok()?.cluster?.leader?;
    let of_consumer = stream.consumer_info("ganesh").await.ok()?.cluster?.leader?;
    Some((of_stream, of_consumer))
}

/// Has another server lead, of `STREAM.LEADER.STEPDOWN.<stream>` or
/// `CONSUMER.LEADER.STEPDOWN.<stream>.<consumer>`, and waits until it does.
pub async fn move_leader(jetstream: &Context, stream: &Stream, what: &str) {
    eventually("both have a leader", || async {
        leaders(stream).await.is_some()
    })
    .await;
    let before = leaders(stream).await;
    let subject = format!("$JS.API.{what}");
    let answer = jetstream.client().request(subject, "".into()).await;
    let answer = String::from_utf8_lossy(&answer.unwrap().payload).into_owned();
    assert!(answer.contains("\"success\":true"), "{answer}");
    eventually("another one leads", || async {
        let now = leaders(stream).await;
        now.is_some() && now != before
    })
    .await;
}

/// What can be told to move.
pub const STEPDOWNS: [&str; 2] = [
    "STREAM.LEADER.STEPDOWN.EVENTS",
    "CONSUMER.LEADER.STEPDOWN.EVENTS.ganesh",
];
