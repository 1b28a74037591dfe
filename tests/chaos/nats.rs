//! NATS, one server or a cluster of three, and what happens to it.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};
use rustix::process::Signal;

use super::scene::{RECOVERY_MAX, Scene};
use super::schedule::{Fault, Link, Member, REPLICAS};
use super::special;
use super::verify::Sent;
use crate::support::cluster::{STEPDOWNS, move_leader};
use crate::support::eventually;
use crate::support::proxy::{Manner, Way};
use crate::support::raw_nats::{self, UNREADABLE};
use crate::support::servers::{Server, send_signal};

/// How often some rows that are refused are published.
const REFUSED_EVERY: Duration = Duration::from_millis(100);
/// How many then, as a part of what the producer sends in a second: twice as much as it sends meanwhile.
const REFUSED_PARTS: u32 = 5;
/// Large messages: more than the sockets between a server and a replica take.
const LARGE_AT_ONCE: usize = 40;

/// Three times a server's write deadline.
const SLOW_CONSUMER_WAIT_MAX: Duration = Duration::from_secs(30);

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
        Fault::SlowConsumer => consume_slowly(scene).await,
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

/// Lets replicas read nothing until a server has waited for its write deadline, which is ten seconds,
/// and disconnects one of them.
async fn consume_slowly(scene: &mut Scene) {
    // One that connects just then would never have anything to read.
    for replica in 0..REPLICAS {
        scene.replica(replica).wait_until_ready().await;
    }
    let before = slow_consumers(scene);
    let signal_all = |scene: &Scene, signal| {
        for replica in 0..REPLICAS {
            send_signal(scene.replica(replica).pid(), signal);
        }
    };
    let behave = |scene: &Scene, manner| {
        for proxy in scene.proxies(Link::Nats) {
            proxy.behave_one_way(Way::ToClient, manner);
        }
    };
    // Stopped meanwhile: their next pulls have to find it all, as one that waits in vain is over in a second.
    signal_all(scene, Signal::STOP);
    // It grows by as many as are published, so that no two events have one number.
    let first = usize::try_from(scene.sent.messages[1]).expect("not that many");
    let large = first..first + LARGE_AT_ONCE;
    scene.sent = scene.sent + special::publish_large(&scene.jetstream().await, large).await;
    behave(scene, Manner::Hold);
    signal_all(scene, Signal::CONT);
    let began = Instant::now();
    while slow_consumers(scene) == before {
        // Replicas that have just lost a connection look for messages first, and pull too little.
        if began.elapsed() > SLOW_CONSUMER_WAIT_MAX {
            println!("no consumer is too slow");
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    behave(scene, Manner::Pass);
}

/// How often servers said that they disconnect one.
fn slow_consumers(scene: &Scene) -> usize {
    let logs = scene.nats_servers().iter().map(Server::log);
    logs.map(|log| log.matches("Slow Consumer").count()).sum()
}

/// One of them, as the schedule's random time has it.
async fn publish_unreadable(scene: &mut Scene, lasts: Duration) {
    let port = server(scene, 0).port();
    let kind = usize::try_from(lasts.as_millis()).expect("a few seconds");
    let (subject, headers, body) = UNREADABLE[kind % UNREADABLE.len()];
    let published = move || raw_nats::publish(port, subject, headers, body);
    let published = tokio::task::spawn_blocking(published).await;
    let sequence = published.expect("the stream answers");
    scene.unreadable.push(sequence);
    scene.sent = scene.sent + Sent::letters([1, 1]);
    // A restart would hide that the look for it does not find it.
    wait_until_settled(&scene.jetstream().await, sequence).await;
}

/// Waits until this message and all before it are settled.
pub async fn wait_until_settled(jetstream: &Context, sequence: u64) {
    let began = Instant::now();
    while floor(jetstream).await.is_none_or(|floor| floor < sequence) {
        assert!(began.elapsed() < RECOVERY_MAX, "{sequence} is not settled");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All up to it is settled; `None` while the server does not answer.
pub async fn floor(jetstream: &Context) -> Option<u64> {
    let stream = jetstream.get_stream("EVENTS").await.ok()?;
    let info = stream.consumer_info("ganesh").await.ok()?;
    Some(info.ack_floor.stream_sequence)
}

/// More and more, until a replica finds that half of its last rows are too many.
async fn publish_until_a_pause(scene: &mut Scene) {
    let (jetstream, began) = (scene.jetstream().await, Instant::now());
    let at_once = usize::try_from(scene.rate.div_ceil(REFUSED_PARTS)).expect("not that many");
    while !scene.is_paused().await {
        assert!(began.elapsed() < RECOVERY_MAX, "nobody pauses");
        // No other special message has such a number.
        let first = 1_000_000_000 + usize::try_from(scene.sent.messages[1]).expect("not that many");
        let numbers = first..first + at_once;
        scene.sent = scene.sent + special::publish_poison(&jetstream, numbers).await;
        tokio::time::sleep(REFUSED_EVERY).await;
    }
}
