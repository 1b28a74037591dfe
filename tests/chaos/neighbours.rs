//! Streams, consumers and buckets of others in the same account, with names and subjects next to ganesh's:
//! ganesh touches none of them, and what is done to them does not touch its own.

use std::collections::BTreeSet;

use async_nats::jetstream::consumer::{self, DeliverPolicy, PullConsumer};
use async_nats::jetstream::object_store::Config as BucketConfig;
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{Context, consumer::pull};
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncReadExt;

use super::scene::Scene;
use crate::support::eventually;

/// What ganesh has.
const OWN: [&str; 3] = ["EVENTS", "EVENTS_DLQ", "OBJ_EVENTS_DLQ"];
/// Of each of their streams.
const MESSAGES: u64 = 40;
/// Of these the consumer took so many, and acknowledged every other one.
const TAKEN: u64 = 10;
/// Of the one object of a bucket: more than one chunk.
const OBJECT_BYTES: usize = 300_000;
const OBJECT: &str = "object";
/// More are deleted, the oldest first.
const KEPT: usize = 2;

/// All of them.
#[derive(Default)]
pub struct Neighbours {
    made: usize,
    there: Vec<Neighbour>,
    /// How ganesh's own were before.
    own: Option<Own>,
}

/// One that uses NATS as ganesh does.
struct Neighbour {
    /// Of its stream and of its bucket.
    streams: [Left; 2],
    consumer: consumer::Config,
    number: usize,
}

/// A stream as it was left.
#[derive(Debug, PartialEq)]
struct Left {
    config: Config,
    /// Messages, and the first and last sequence.
    state: [u64; 3],
}

#[derive(Debug, PartialEq)]
struct Own {
    streams: Vec<Config>,
    consumer: consumer::Config,
}

fn stream_name(number: usize) -> String {
    format!("EVENTS_{number}")
}

fn bucket_name(number: usize) -> String {
    format!("EVENTS_DLQ_{number}")
}

fn payload(message: u64) -> String {
    format!("message {message} of somebody else")
}

/// Remembers how ganesh's own streams and consumer are.
pub async fn begin(scene: &mut Scene) {
    let own = own(&scene.jetstream().await).await;
    scene.neighbours.own = Some(own);
}

/// Another one comes, and perhaps an older one goes.
pub async fn strike(scene: &mut Scene) {
    let jetstream = scene.jetstream().await;
    let replicas = if scene.cluster.is_some() { 3 } else { 1 };
    let neighbours = &mut scene.neighbours;
    let next = make(&jetstream, neighbours.made, replicas).await;
    neighbours.made += 1;
    neighbours.there.push(next);
    if neighbours.there.len() > KEPT {
        let oldest = neighbours.there.remove(0);
        oldest.verify(&jetstream).await;
        for Left { config, .. } in oldest.streams {
            jetstream
                .delete_stream(config.name)
                .await
                .expect("NATS is up");
        }
    }
}

async fn make(jetstream: &Context, number: usize, replicas: usize) -> Neighbour {
    let config = Config {
        name: stream_name(number),
        subjects: vec![format!("events{number}.>"), format!("events-{number}")],
        num_replicas: replicas,
        ..Config::default()
    };
    eventually("somebody makes a stream", || async {
        jetstream.get_or_create_stream(config.clone()).await.is_ok()
    })
    .await;
    for message in 1..=MESSAGES {
        let subject = format!("events{number}.{message}");
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", subject.as_str());
        // A stream that was just made in a cluster does not answer at once.
        eventually("somebody's stream takes a message", || async {
            let (subject, headers) = (subject.clone(), headers.clone());
            let sent = jetstream.publish_with_headers(subject, headers, payload(message).into());
            match sent.await {
                Ok(acknowledged) => acknowledged.await.is_ok(),
                Err(_) => false,
            }
        })
        .await;
    }
    let stream = jetstream
        .get_stream(&config.name)
        .await
        .expect("NATS is up");
    let consumer = consume(&stream).await;
    let bucket = BucketConfig {
        bucket: bucket_name(number),
        num_replicas: replicas,
        ..BucketConfig::default()
    };
    let bucket = jetstream.create_object_store(bucket).await;
    let object = vec![b'o'; OBJECT_BYTES];
    let put = bucket
        .expect("NATS is up")
        .put(OBJECT, &mut &object[..])
        .await;
    put.expect("NATS is up");
    let streams = [
        left(jetstream, &config.name).await,
        left(jetstream, &format!("OBJ_{}", bucket_name(number))).await,
    ];
    Neighbour {
        streams,
        consumer,
        number,
    }
}

/// By a consumer with the name of ganesh's.
async fn consume(stream: &Stream) -> consumer::Config {
    let config = pull::Config {
        durable_name: Some("ganesh".to_owned()),
        ack_wait: std::time::Duration::from_secs(3_600),
        ..pull::Config::default()
    };
    let consumer: PullConsumer = stream.create_consumer(config).await.expect("NATS is up");
    let taken = usize::try_from(TAKEN).expect("a few");
    let messages = consumer.fetch().max_messages(taken).messages().await;
    let messages: Vec<_> = messages
        .expect("NATS is up")
        .try_collect()
        .await
        .expect("NATS is up");
    assert_eq!(messages.len(), taken);
    for message in messages.iter().step_by(2) {
        message.double_ack().await.expect("NATS is up");
    }
    consumer.cached_info().config.clone()
}

async fn left(jetstream: &Context, name: &str) -> Left {
    let stream = jetstream.get_stream(name).await.expect("it is there");
    let info = stream.cached_info();
    Left {
        config: info.config.clone(),
        state: [
            info.state.messages,
            info.state.first_sequence,
            info.state.last_sequence,
        ],
    }
}

impl Neighbour {
    /// Everything of it is as it was left.
    async fn verify(&self, jetstream: &Context) {
        for there in &self.streams {
            assert_eq!(&left(jetstream, &there.config.name).await, there);
        }
        let stream = jetstream.get_stream(stream_name(self.number)).await;
        let stream = stream.expect("it is there");
        for message in 1..=MESSAGES {
            let found = stream.get_raw_message(message).await.expect("it is there");
            assert_eq!(found.payload, payload(message).as_bytes());
        }
        let consumer = stream.consumer_info("ganesh").await.expect("it is there");
        assert_eq!(consumer.config, self.consumer);
        // After a crash of the server it may have forgotten some.
        let delivered = consumer.delivered.consumer_sequence;
        assert!(
            delivered <= TAKEN && consumer.num_waiting == 0,
            "{consumer:?}"
        );
        let bucket = jetstream.get_object_store(&bucket_name(self.number)).await;
        let object = bucket.expect("it is there").get(OBJECT).await;
        let mut bytes = Vec::new();
        let read = object.expect("it is there").read_to_end(&mut bytes).await;
        read.expect("NATS is up");
        assert_eq!(bytes, vec![b'o'; OBJECT_BYTES]);
    }
}

async fn own(jetstream: &Context) -> Own {
    let mut streams = Vec::new();
    for name in OWN {
        streams.push(left(jetstream, name).await.config);
    }
    let stream = jetstream.get_stream(OWN[0]).await.expect("it is there");
    let mut consumer = stream
        .consumer_info("ganesh")
        .await
        .expect("it is there")
        .config;
    // One that was deleted is made again from where it was.
    consumer.deliver_policy = DeliverPolicy::All;
    Own { streams, consumer }
}

/// Theirs and ganesh's are as they were, and nobody made others.
pub async fn verify(scene: &Scene) {
    let jetstream = scene.jetstream().await;
    let Neighbours {
        there, own: before, ..
    } = &scene.neighbours;
    for neighbour in there {
        neighbour.verify(&jetstream).await;
    }
    assert_eq!(Some(own(&jetstream).await), *before);
    let names: BTreeSet<String> = jetstream
        .stream_names()
        .map(|name| name.expect("NATS is up"))
        .collect()
        .await;
    let theirs = there.iter().flat_map(|neighbour| &neighbour.streams);
    let expected = theirs.map(|left| left.config.name.clone());
    let expected: BTreeSet<String> = expected.chain(OWN.map(str::to_owned)).collect();
    assert_eq!(names, expected, "streams of the account");
}
