//! NATS, one server or a cluster of three, and what happens to it.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};

use super::scene::{RECOVERY_MAX, Scene};
use super::schedule::{Fault, Member};
use super::special;
use super::verify::Sent;
use crate::support::cluster::{STEPDOWNS, move_leader};
use crate::support::eventually;
use crate::support::raw_nats::{self, UNREADABLE};
use crate::support::servers::Server;

/// Rows that are refused, at once: twice what the producer sends meanwhile.
const REFUSED_AT_ONCE: usize = 100;
const REFUSED_EVERY: Duration = Duration::from_millis(100);

/// Does it, and undoes it.
pub async fn strike(scene: &mut Scene, fault: Fault, lasts: Duration) {
    match fault {
        Fault::NatsTerminated(member) => {
            let server = server(scene, member);
            server.terminate();
            tokio::time::sleep(lasts).await;
            server.run();
        }
        Fault::NatsPaused(member) => {
            let server = server(scene, member);
            server.pause();
            tokio::time::sleep(lasts).await;
            server.resume();
        }
        Fault::LeaderMoved(member) if scene.cluster.is_some() => {
            let jetstream = scene.jetstream().await;
            let stream = stream(&jetstream).await;
            move_leader(&jetstream, &stream, STEPDOWNS[member % STEPDOWNS.len()]).await;
        }
        Fault::NatsKilled(member) | Fault::LeaderMoved(member) => {
            let server = server(scene, member);
            server.kill();
            tokio::time::sleep(lasts).await;
            server.run();
        }
        Fault::ConsumerDeleted => {
            let jetstream = scene.jetstream().await;
            eventually("the consumer is deleted", || async {
                let deleted = jetstream.delete_consumer_from_stream("ganesh", "EVENTS");
                deleted.await.is_ok_and(|deleted| deleted.success)
            })
            .await;
        }
        Fault::Unreadable => publish_unreadable(scene, lasts).await,
        Fault::TooManyRefused => publish_until_a_pause(scene).await,
        other => unreachable!("{other:?} is not about NATS"),
    }
}

fn server(scene: &mut Scene, member: Member) -> &mut Server {
    match &mut scene.cluster {
        Some(cluster) => &mut cluster.servers[member],
        None => &mut scene.stack.nats,
    }
}

async fn stream(jetstream: &Context) -> jetstream::stream::Stream {
    eventually("the stream is there", || async {
        jetstream.get_stream("EVENTS").await.is_ok()
    })
    .await;
    jetstream.get_stream("EVENTS").await.expect("it was there")
}

/// One of them, as the schedule's random time has it.
async fn publish_unreadable(scene: &mut Scene, lasts: Duration) {
    let port = server(scene, 0).port();
    let kind = usize::try_from(lasts.as_millis()).expect("a few seconds");
    let (subject, headers, body) = UNREADABLE[kind % UNREADABLE.len()];
    let published = move || raw_nats::publish(port, subject, headers, body);
    let published = tokio::task::spawn_blocking(published).await;
    scene
        .unreadable
        .push(published.expect("the stream answers"));
    scene.sent = scene.sent + Sent::letters([1, 1]);
}

/// More and more, until a replica finds that half of its last rows are too many.
async fn publish_until_a_pause(scene: &mut Scene) {
    let (jetstream, began) = (scene.jetstream().await, Instant::now());
    while !scene.is_paused().await {
        assert!(began.elapsed() < RECOVERY_MAX, "nobody pauses");
        // No other special message has such a number.
        let first = 1_000_000_000 + usize::try_from(scene.sent.messages[1]).expect("not that many");
        let numbers = first..first + REFUSED_AT_ONCE;
        scene.sent = scene.sent + special::publish_poison(&jetstream, numbers).await;
        tokio::time::sleep(REFUSED_EVERY).await;
    }
}
