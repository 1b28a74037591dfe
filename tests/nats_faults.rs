//! NATS that misbehaves: late, away, restarted, its consumer or its stream deleted or purged.

mod consumer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ganesh::config::Config;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::events::{events, publish};
use crate::support::keys::{hold_key, wait_until_so_many_wait};
use crate::support::proxy::{Manner, Proxy, Way};
use crate::support::servers::{Server, send_signal, write_nats_conf};
use crate::support::{Ganesh, Stack, eventually};

const HELD: &str = "ganesh_in_flight_messages";
const GONE: &str = "ganesh_stream_gone";
const RECEIVED: &str = "ganesh_messages_received_total";

/// Fails as soon as more is held than may be.
async fn never_holds_more(ganesh: &Ganesh, limit: f64, time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        let held = ganesh.metric(HELD).await;
        assert!(held <= limit, "{held} of {limit}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_pull_whose_end_is_late_keeps_its_room() {
    let stack = Stack::start().await;
    let proxy = Proxy::start(stack.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let settings = [
        ("NATS_URL", url.as_str()),
        ("GANESH_MAX_IN_FLIGHT", "1000"),
        ("GANESH_BATCH_MAX_EVENTS", "1000"),
    ];
    let ganesh = stack.serve(&settings).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    proxy.behave_one_way(Way::ToClient, Manner::Hold);
    publish(&stack.jetstream().await, &events("e", 20_000)).await;
    // Several pulls are given up meanwhile, each of them filled by the server.
    tokio::time::sleep(Duration::from_secs(25)).await;
    proxy.behave_one_way(Way::ToClient, Manner::Pass);
    ganesh.wait_for_metric(HELD, 500.0).await;
    never_holds_more(&ganesh, 1_000.0, Duration::from_secs(4)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 20_000);
}

#[tokio::test]
async fn a_pull_whose_end_was_lost_is_given_up_and_the_next_one_goes_on() {
    let stack = Stack::start().await;
    let proxy = Proxy::start(stack.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let ganesh = stack.serve(&[("NATS_URL", &url)]).await;
    // Every pull ends within a second: its end is the heartbeat.
    proxy.lose(b"NATS/1.0 408");
    eventually("the end is lost", || async { proxy.trap_has_sprung() }).await;
    publish(&stack.jetstream().await, &events("e", 100)).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 100);
    eventually("the pull is given up", || async {
        ganesh.log().contains("the end of a pull did not arrive")
    })
    .await;
    let redelivered = ganesh.metric("ganesh_messages_redelivered_total").await;
    assert!(redelivered < f64::EPSILON, "{redelivered}");
}

#[tokio::test]
async fn no_pulls_pile_up_while_nats_is_away() {
    let mut stack = Stack::start().await;
    let settings = [
        ("GANESH_MAX_IN_FLIGHT", "1000"),
        ("GANESH_BATCH_MAX_EVENTS", "1000"),
    ];
    let ganesh = stack.serve(&settings).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    stack.nats.kill();
    tokio::time::sleep(Duration::from_secs(20)).await;
    stack.nats.run();
    publish(&stack.jetstream().await, &events("e", 10_000)).await;
    ganesh.wait_for_metric(HELD, 500.0).await;
    never_holds_more(&ganesh, 1_000.0, Duration::from_secs(4)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 10_000);
}

#[tokio::test]
async fn a_server_that_is_killed_or_restarted_costs_nothing() {
    let mut stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_ACK_WAIT", "3s")]).await;
    for (round, is_killed) in [true, false].into_iter().enumerate() {
        let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
        let prefix = format!("round-{round}");
        publish(&stack.jetstream().await, &events(&prefix, 500)).await;
        ganesh.wait_for_metric(HELD, 500.0).await;
        if is_killed {
            stack.nats.kill();
        } else {
            stack.nats.terminate();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        stack.nats.run();
        publish(
            &stack.jetstream().await,
            &events(&format!("{prefix}-behind"), 500),
        )
        .await;
        lock.rollback().await.unwrap();
        stack.wait_until_drained().await;
        assert_eq!(
            stack.rows().await,
            1_000 * (i64::try_from(round).unwrap() + 1)
        );
    }
    ganesh.wait_until_ready().await;
    assert_eq!(stack.dead_letters().await, 0);
}

#[tokio::test]
async fn connections_that_are_cut_again_and_again_lose_nothing() {
    let stack = Stack::start().await;
    let proxy = Proxy::start(stack.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let settings = [("NATS_URL", url.as_str()), ("GANESH_ACK_WAIT", "2s")];
    let ganesh = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    for round in 0..20 {
        publish(&jetstream, &events(&format!("round-{round}"), 500)).await;
        proxy.cut();
    }
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 10_000);
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.terminate().await.success());
}

/// The stream as ganesh makes it.
fn stream_config() -> async_nats::jetstream::stream::Config {
    let reader = ganesh::config::Reader::default();
    ganesh::messaging::streams::event_stream(&Config::read(reader).unwrap().nats)
}

/// Has a server that takes messages of so many bytes from its next start on.
fn may_take(folder: &TempDir, bytes: u32) -> PathBuf {
    let file = folder.path().join("nats.conf");
    write_nats_conf(&file, &format!("max_payload: {bytes}"));
    file
}

async fn stack_that_takes(folder: &TempDir, bytes: u32) -> Stack {
    let file = may_take(folder, bytes);
    let mut stack = Stack::start().await;
    stack.nats = Server::start("nats", &[("NATS_CONF", file.to_str().unwrap())]);
    stack
}

async fn publish_bytes(stack: &Stack, size: usize) {
    let jetstream = stack.jetstream().await;
    let published = jetstream.publish("events.large", vec![b'x'; size].into());
    published.await.unwrap().await.unwrap();
}

/// A stream with messages of these sizes, some of them larger than the server takes by now.
async fn stack_with_large(folder: &TempDir, sizes: &[usize]) -> Stack {
    let mut stack = stack_that_takes(folder, 4 << 20).await;
    stack.make_streams().await;
    for size in sizes {
        publish_bytes(&stack, *size).await;
    }
    may_take(folder, 1 << 20);
    stack.nats.terminate();
    stack.nats.run();
    stack
}

#[tokio::test]
async fn a_large_message_waits_for_room_while_others_are_held() {
    let folder = tempfile::tempdir().unwrap();
    let mut sizes = [1 << 20; 14];
    sizes[13] = 3 << 20;
    let stack = stack_with_large(&folder, &sizes).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    let limit = ("GANESH_MAX_IN_FLIGHT_BYTES", "16777216");
    let ganesh = stack.serve(&[limit]).await;
    eventually("it waits", || async {
        let log = ganesh.log();
        log.contains("more bytes than there is room for yet")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
    assert!(!ganesh.log().contains("raise GANESH_MAX_IN_FLIGHT_BYTES"));
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 14);
}

#[tokio::test]
async fn a_message_too_large_for_any_pull_is_said_and_makes_the_service_unready() {
    let folder = tempfile::tempdir().unwrap();
    let stack = stack_with_large(&folder, &[3 << 20]).await;
    let small = [
        ("GANESH_MAX_IN_FLIGHT_BYTES", "2097152"),
        ("GANESH_BATCH_MAX_BYTES", "1048576"),
    ];
    let ganesh = stack.serve(&small).await;
    eventually("it is not ready", || async {
        ganesh.admin("/readyz").await.0 == 503
    })
    .await;
    let (_, body) = ganesh.admin("/readyz").await;
    assert!(
        body.contains("pulling messages fails again and again"),
        "{body}"
    );
    assert!(ganesh.log().contains("raise GANESH_MAX_IN_FLIGHT_BYTES"));
    assert!(ganesh.terminate().await.success());
    let large = ("GANESH_MAX_IN_FLIGHT_BYTES", "16777216");
    let ganesh = stack.serve(&[large]).await;
    stack.wait_until_drained().await;
    assert_eq!(
        stack.rows().await + i64::try_from(stack.dead_letters().await).unwrap(),
        1
    );
    ganesh.wait_until_ready().await;
}

#[tokio::test]
async fn a_server_that_takes_messages_larger_than_the_limit_meanwhile_makes_the_service_unready() {
    let folder = tempfile::tempdir().unwrap();
    let mut stack = stack_that_takes(&folder, 1 << 20).await;
    let small = [
        ("GANESH_MAX_IN_FLIGHT_BYTES", "2097152"),
        ("GANESH_BATCH_MAX_BYTES", "1048576"),
    ];
    let ganesh = stack.serve(&small).await;
    may_take(&folder, 4 << 20);
    stack.nats.terminate();
    stack.nats.run();
    publish_bytes(&stack, 3 << 20).await;
    eventually("it says what to do", || async {
        let log = ganesh.log();
        log.contains("raise GANESH_MAX_IN_FLIGHT_BYTES") && ganesh.admin("/readyz").await.0 == 503
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_deleted_is_reported_and_not_made_again_behind_our_back() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    eventually("it says what is wrong", || async {
        let (status, body) = ganesh.admin("/readyz").await;
        status == 503 && body.contains("the stream was deleted")
    })
    .await;
    ganesh.wait_for_metric(GONE, 1.0).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(jetstream.get_stream("EVENTS").await.is_err());
    assert_eq!(ganesh.admin("/livez").await.0, 200);

    jetstream.create_stream(stream_config()).await.unwrap();
    ganesh.wait_until_ready().await;
    assert!(ganesh.metric(GONE).await < f64::EPSILON);
    publish(&jetstream, &events("new", 100)).await;
    stack.wait_for_rows(100).await;
    stack.wait_until_drained().await;
}

#[tokio::test]
async fn every_replica_notices_that_a_deleted_stream_is_there_again() {
    let stack = Stack::start().await;
    let replicas = [stack.serve(&[]).await, stack.serve(&[]).await];
    let jetstream = stack.jetstream().await;
    for _ in 0..3 {
        jetstream.delete_stream("EVENTS").await.unwrap();
        for replica in &replicas {
            replica.wait_for_metric(GONE, 1.0).await;
        }
        // One of them is the first to make the consumer; the other one finds it.
        jetstream.create_stream(stream_config()).await.unwrap();
        for replica in &replicas {
            replica.wait_until_ready().await;
            assert!(replica.metric(GONE).await < f64::EPSILON);
        }
    }
}

#[tokio::test]
async fn what_is_held_of_a_deleted_stream_acknowledges_nothing_of_the_next_one() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let (old, new) = (events("old", 1), events("new", 1));
    let (hold_old, hold_new) = (
        hold_key(&stack, &old[0]).await,
        hold_key(&stack, &new[0]).await,
    );
    publish(&jetstream, &old).await;
    ganesh.wait_for_metric(HELD, 1.0).await;
    // A writer has them: the new ones are not in their batch.
    wait_until_so_many_wait(&stack, 1).await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    jetstream.create_stream(stream_config()).await.unwrap();
    eventually("the consumer is there again", || async {
        let stream = jetstream.get_stream("EVENTS").await.unwrap();
        stream.consumer_info("ganesh").await.is_ok()
    })
    .await;
    // Their sequences are those of the old ones.
    publish(&jetstream, &new).await;
    ganesh.wait_for_metric(HELD, 2.0).await;
    hold_old.rollback().await.unwrap();
    stack.wait_for_rows(1).await;
    eventually("the old ones are settled", || async {
        ganesh.metric(HELD).await <= 1.0
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stack.backlog().await, 1, "acknowledged before its time");
    hold_new.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 2);
}

#[tokio::test]
async fn a_stream_that_is_purged_costs_what_was_not_delivered_and_no_more() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&jetstream, &events("held", 100)).await;
    ganesh.wait_for_metric(HELD, 100.0).await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    stream.purge().await.unwrap();
    publish(&jetstream, &events("behind", 100)).await;
    lock.rollback().await.unwrap();
    stack.wait_for_rows(200).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 200);
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_slow_consumer_that_the_server_disconnects_loses_nothing() {
    let stack = Stack::start().await;
    let settings = [
        ("GANESH_ACK_WAIT", "5s"),
        // A pull asks for an eighth of it: more than the sockets take.
        ("GANESH_MAX_IN_FLIGHT_BYTES", "256MiB"),
    ];
    let ganesh = stack.serve(&settings).await;
    send_signal(ganesh.pid(), Signal::STOP);
    let mut large = events("large", 40);
    for event in &mut large {
        event.data = ganesh::event::Data::Binary(vec![b'x'; 900_000].into());
        event.datacontenttype = Some("application/octet-stream".to_owned());
    }
    publish(&stack.jetstream().await, &large).await;
    // The server's write deadline is ten seconds.
    tokio::time::sleep(Duration::from_secs(13)).await;
    send_signal(ganesh.pid(), Signal::CONT);
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 40);
    let drops = "ganesh_dependency_errors_total{dependency=\"nats\",code=\"connection\"}";
    ganesh.wait_for_metric(drops, 1.0).await;
}
