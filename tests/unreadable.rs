//! P1 and P3 for messages that the client library cannot read: each of them costs only itself.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ganesh::messaging::letters;
use ganesh::messaging::letters::bucket::Bucket;
use rustix::process::Signal;

use crate::support::binary::objects;
use crate::support::events::{events, publish};
use crate::support::proxy::Proxy;
use crate::support::raw_nats::{self, Raw, UNREADABLE};
use crate::support::servers::send_signal;
use crate::support::{Ganesh, Stack, eventually};

const BURIED: &str = "ganesh_dead_letters_total{reason=\"unreadable\"}";
const HELD: &str = "ganesh_in_flight_messages";
const REDELIVERED: &str = "ganesh_messages_redelivered_total";

/// At this one the client does not only drop the connection: it panics.
const RETURN: Raw = UNREADABLE[4];

async fn publish_raw(stack: &Stack, (subject, headers, body): Raw) -> u64 {
    let port = stack.nats.port();
    tokio::task::spawn_blocking(move || raw_nats::publish(port, subject, headers, body))
        .await
        .unwrap()
}

async fn is_ready(ganesh: &Ganesh) -> bool {
    ganesh.admin("/readyz").await.0 == 200
}

#[tokio::test]
async fn what_the_client_cannot_read_is_buried_and_blocks_nothing() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    let mut sequences = Vec::new();
    publish(&jetstream, &events("before", 50)).await;
    for (number, raw) in UNREADABLE.into_iter().enumerate() {
        sequences.push(publish_raw(&stack, raw).await);
        publish(&jetstream, &events(&format!("behind-{number}"), 50)).await;
    }
    // The character that stands for what is no text can be read where it was sent.
    let text = (
        "events.\u{fffd}".as_bytes(),
        b"NATS/1.0\r\nNats-Msg-Id: text\r\n\r\n".as_slice(),
        b"{}".as_slice(),
    );
    publish_raw(&stack, text).await;
    let ganesh = stack.serve(&[("GANESH_ACK_WAIT", "2s")]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 301);
    assert_eq!(stack.dead_letters().await, 5);
    eventually("it is ready again", || is_ready(&ganesh)).await;

    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let mut found: BTreeMap<u64, _> = BTreeMap::new();
    for number in 1..=5 {
        let letter = letters.get_raw_message(number).await.unwrap();
        let sequence = letter.headers.get("ganesh-dlq-stream-sequence").unwrap();
        found.insert(sequence.as_str().parse().unwrap(), letter);
    }
    for (sequence, (subject, headers, body)) in sequences.iter().zip(UNREADABLE) {
        let letter = &found[sequence];
        let header = |name: &str| letter.headers.get(name).map(ToString::to_string).unwrap();
        assert_eq!(header("ganesh-dlq-reason"), "unreadable");
        assert_eq!(
            header("ganesh-dlq-subject"),
            String::from_utf8_lossy(subject)
        );
        let kept = BASE64_STANDARD.decode(header("ganesh-dlq-headers-base64"));
        assert_eq!(kept.unwrap(), headers);
        assert_eq!(letter.payload, body);
    }
}

#[tokio::test]
async fn a_message_on_which_the_client_breaks_down_is_buried_after_another_start() {
    let stack = Stack::start().await;
    let mut ganesh = stack.serve(&[("GANESH_ACK_WAIT", "2s")]).await;
    let jetstream = stack.jetstream().await;
    for round in 0..2 {
        publish(&jetstream, &events(&format!("before-{round}"), 50)).await;
        publish_raw(&stack, RETURN).await;
        publish(&jetstream, &events(&format!("behind-{round}"), 50)).await;
        stack.wait_until_drained().await;
        assert_eq!(stack.rows().await, 100 * (round + 1));
        eventually("it is ready again", || is_ready(&ganesh)).await;
    }
    assert_eq!(stack.dead_letters().await, 2);
    assert!(ganesh.log().contains("the NATS client broke down"));

    // The same process to whoever watches it, and as good as before: what it holds stays its own, and
    // it ends in time.
    assert_eq!(ganesh.ended(), None);
    let redelivered = ganesh.metric(REDELIVERED).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&jetstream, &events("held", 100)).await;
    ganesh.wait_for_metric(HELD, 100.0).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 300);
    let added = ganesh.metric(REDELIVERED).await - redelivered;
    assert!(added.abs() < f64::EPSILON, "{added}");
    assert!(ganesh.terminate().await.success());
}

/// The number of messages that each search looked at.
fn searches(ganesh: &Ganesh) -> Vec<u64> {
    let log = ganesh.log();
    // Between them stands what a panic prints.
    let lines = log.lines().filter(|line| line.starts_with('{'));
    let lines = lines.flat_map(objects);
    lines
        .filter_map(|line| line["candidates"].as_u64())
        .collect()
}

#[tokio::test]
async fn a_search_looks_at_no_message_that_was_read_before_also_after_another_start() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_ACK_WAIT", "2s")]).await;
    let jetstream = stack.jetstream().await;
    // Nothing is acknowledged.
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&jetstream, &events("held", 300)).await;
    for letters in 1..=3 {
        // Again, after the start before: they are delivered once more.
        ganesh.wait_for_metric(HELD, 300.0).await;
        publish_raw(&stack, RETURN).await;
        eventually("it is buried", || async {
            stack.dead_letters().await == letters
        })
        .await;
    }
    // This one drops the connection only.
    ganesh.wait_for_metric(HELD, 300.0).await;
    publish_raw(&stack, UNREADABLE[0]).await;
    eventually("it is buried", || async { stack.dead_letters().await == 4 }).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 300);
    assert_eq!(stack.dead_letters().await, 4);
    let searches = searches(&ganesh);
    assert!(searches.len() >= 4, "{searches:?}");
    assert!(
        searches.iter().all(|looked_at| *looked_at < 20),
        "{searches:?}"
    );
}

#[tokio::test]
async fn one_whose_acknowledgement_is_lost_is_found_again() {
    let stack = Stack::start().await;
    let proxy = Proxy::start(stack.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let settings = [("GANESH_ACK_WAIT", "2s"), ("NATS_URL", url.as_str())];
    let ganesh = stack.serve(&settings).await;
    proxy.lose_of_client(b"+ACK");
    publish_raw(&stack, UNREADABLE[0]).await;
    eventually("it is lost", || async { proxy.trap_has_sprung() }).await;
    publish(&stack.jetstream().await, &events("behind", 50)).await;
    stack.wait_until_drained().await;
    assert_eq!(ganesh.metric(BURIED).await.to_string(), "2");
    // Written twice, it is one letter.
    assert_eq!(stack.dead_letters().await, 1);
    assert_eq!(stack.rows().await, 50);
    // What comes later is not known because of that.
    publish_raw(&stack, UNREADABLE[2]).await;
    publish(&stack.jetstream().await, &events("later", 50)).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.dead_letters().await, 2);
    assert_eq!(stack.rows().await, 100);
}

#[tokio::test]
async fn told_to_stop_while_it_ends_for_another_start_it_ends_for_good() {
    let stack = Stack::start().await;
    // A collector that takes spans and never says so: the first end waits for it.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let settings = [
        ("GANESH_ACK_WAIT", "2s"),
        ("GANESH_SHUTDOWN_GRACE", "6s"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("GANESH_TRACE_BASELINE", "1"),
    ];
    let mut ganesh = stack.serve(&settings).await;
    publish_raw(&stack, RETURN).await;
    eventually("the client is lost", || async {
        ganesh.log().contains("the NATS client broke down")
    })
    .await;
    send_signal(ganesh.pid(), Signal::TERM);
    assert!(ganesh.wait().await.success());
    assert_eq!(ganesh.log().matches("\"starting\"").count(), 1);
    // Nothing is lost by it: the next one finds the message.
    let _next = stack.serve(&[("GANESH_ACK_WAIT", "2s")]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.dead_letters().await, 1);
}

#[tokio::test]
async fn headers_that_base64_would_make_too_large_go_to_the_bucket() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_ACK_WAIT", "2s")]).await;
    let mut headers = b"NATS/1.0\r\nlong: \xff".to_vec();
    headers.resize(60_000, b'x');
    headers.extend(b"\r\n\r\n");
    let (port, raw) = (stack.nats.port(), headers.clone());
    let publishing = move || raw_nats::publish(port, b"events.large", &raw, b"body");
    tokio::task::spawn_blocking(publishing).await.unwrap();
    ganesh.wait_for_metric(BURIED, 1.0).await;
    stack.wait_until_drained().await;
    let jetstream = stack.jetstream().await;
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let mut letter = letters::one(&letters, 1).await.unwrap().unwrap();
    letter
        .read_object(&Bucket::new(jetstream, "EVENTS_DLQ"))
        .await
        .unwrap();
    assert_eq!(letter.unreadable_headers().unwrap(), headers);
    assert_eq!(letter.body, "body");
}

#[tokio::test]
async fn what_is_held_stays_ours_while_an_unreadable_message_drops_the_connection() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_ACK_WAIT", "2s")]).await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    publish(&stack.jetstream().await, &events("held", 300)).await;
    ganesh.wait_for_metric(HELD, 300.0).await;
    publish_raw(&stack, UNREADABLE[0]).await;
    ganesh.wait_for_metric(BURIED, 1.0).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 300);
    assert_eq!(stack.dead_letters().await, 1);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn a_replica_that_finds_one_buries_nothing_of_what_another_one_holds() {
    let stack = Stack::start().await;
    let short = ("GANESH_ACK_WAIT", "2s");
    // Makes the consumer, for a replica as large as the other one.
    stack.serve(&[short]).await.terminate().await;
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    let jetstream = stack.jetstream().await;
    let small = [
        short,
        ("GANESH_MAX_IN_FLIGHT", "300"),
        ("GANESH_BATCH_MAX_EVENTS", "100"),
    ];
    let holder = stack.serve(&small).await;
    publish(&jetstream, &events("held", 300)).await;
    // With less than an eighth free it pulls no more: what comes later is the other one's.
    let full = f64::from(300 - 300 / 8 + 1);
    holder.wait_for_metric(HELD, full).await;

    let sequence = publish_raw(&stack, UNREADABLE[0]).await;
    publish(&jetstream, &events("behind", 50)).await;
    let finder = stack.serve(&[short]).await;
    finder.wait_for_metric(BURIED, 1.0).await;
    assert!(holder.metric(HELD).await >= full, "it held them until then");
    // What was lost with the connection is delivered again.
    finder.wait_for_metric(HELD, 50.0).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(stack.dead_letters().await, 1);

    lock.rollback().await.unwrap();
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 350);
    assert_eq!(stack.dead_letters().await, 1);
    let letters = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let letter = letters.get_raw_message(1).await.unwrap();
    let buried = letter.headers.get("ganesh-dlq-stream-sequence").unwrap();
    assert_eq!(buried.as_str(), sequence.to_string());
    assert!(holder.metric(BURIED).await < f64::EPSILON);
    // Nobody asked for them again either.
    assert!(holder.metric(REDELIVERED).await < f64::EPSILON);
}
