//! P1: a message is a row or a dead letter, never both, whoever else holds it and however late: one
//! replica decides in Postgres that it becomes a letter, and no other one writes its row after that.

use std::time::Duration;

use async_nats::jetstream::stream;
use ganesh::event::Timestamp;
use rustix::process::Signal;
use sqlx::Executor;

use crate::postgres_faults::connections::proxied;
use crate::support::events::{event, events, publish};
use crate::support::keys::{hold_key, wait_until_so_many_wait};
use crate::support::ledger::{assert_each_is_one_row_or_one_letter, letters};
use crate::support::proxy::Manner;
use crate::support::reads::latest;
use crate::support::servers::send_signal;
use crate::support::{Ganesh, PATIENCE, Stack, eventually};

const HELD: &str = "ganesh_in_flight_messages";
const INSERTS: &str = "ganesh_batch_writes_total{method=\"insert\"}";
const SKIPPED: &str = "ganesh_messages_settled_total{outcome=\"skipped\"}";
const BREAK_SCHEMA: &str =
    "ALTER TABLE events ADD CONSTRAINT no_test CHECK (type <> 'com.example.test')";
const REPAIR_SCHEMA: &str = "ALTER TABLE events DROP CONSTRAINT no_test";
const SETTINGS: [(&str, &str); 3] = [
    ("GANESH_MAX_DELIVERIES", "1"),
    ("GANESH_ACK_WAIT", "2s"),
    ("GANESH_WRITERS", "1"),
];

async fn holds_nothing(ganesh: &Ganesh) {
    eventually("it holds nothing", || async {
        ganesh.metric(HELD).await < f64::EPSILON
    })
    .await;
}

/// A replica that has taken these and whose statements do not arrive; then it is stopped.
async fn stopped_before_its_writes(
    stack: &Stack,
    all: &[ganesh::event::Event],
) -> (crate::support::proxy::Proxy, Ganesh) {
    let (proxy, through) = proxied(stack).await;
    let address = [("POSTGRES_URL", through.as_str())];
    let late = stack.serve(&[&SETTINGS[..], &address].concat()).await;
    // Reads at the same time leave connections open: a new one would not get as far as a statement.
    let reads = (0..8).map(|_| latest(&late, "none"));
    futures::future::join_all(reads).await;
    proxy.behave(Manner::Hold);
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &all[..1]).await;
    late.wait_for_metric(INSERTS, 1.0).await;
    publish(&jetstream, &all[1..]).await;
    #[allow(clippy::cast_precision_loss, reason = "few events")]
    late.wait_for_metric(HELD, all.len() as f64).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    send_signal(late.pid(), Signal::STOP);
    (proxy, late)
}

/// Some go by `INSERT`, and what waited behind them by `COPY`.
#[tokio::test]
async fn writes_that_arrive_after_the_letters_make_no_rows() {
    let stack = Stack::start().await;
    let all = events("e", 60);
    let (proxy, late) = stopped_before_its_writes(&stack, &all).await;
    stack.pool.execute(BREAK_SCHEMA).await.unwrap();
    let other = stack.serve(&SETTINGS).await;
    eventually("they are letters", || async {
        stack.dead_letters().await == 60
    })
    .await;
    stack.pool.execute(REPAIR_SCHEMA).await.unwrap();
    assert_eq!(stack.rows().await, 0);
    proxy.behave(Manner::Pass);
    send_signal(late.pid(), Signal::CONT);
    holds_nothing(&late).await;
    holds_nothing(&other).await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    for letter in letters(&stack).await {
        assert_eq!(letter.reason, "rejected_row");
    }
    // Others are copied as before.
    let copies = "ganesh_batch_writes_total{method=\"copy\"}";
    let before = late.metric(copies).await;
    let more = events("more", 2_000);
    publish(&stack.jetstream().await, &more).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 2_000);
    assert!(late.metric(copies).await + other.metric(copies).await > before);
}

#[tokio::test]
async fn a_write_under_way_is_waited_for_before_a_letter_is_written() {
    let stack = Stack::start().await;
    let under_way = stack.serve(&SETTINGS).await;
    // Refuses rows from the moment on at which somebody tells it to, and a row does not wait for its key then.
    let refuse = "CREATE TABLE told (); \
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF EXISTS (SELECT FROM told) THEN RAISE 'refused' USING ERRCODE = '22000'; END IF; \
         RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()";
    stack.pool.execute(refuse).await.unwrap();
    let all = [event("e")];
    let began = std::time::Instant::now();
    let key = hold_key(&stack, &all[0]).await;
    publish(&stack.jetstream().await, &all).await;
    wait_until_so_many_wait(&stack, 1).await;
    send_signal(under_way.pid(), Signal::STOP);
    let tell = "INSERT INTO told DEFAULT VALUES";
    stack.pool.execute(tell).await.unwrap();
    let other = stack.serve(&SETTINGS).await;
    other.wait_for_metric(HELD, 1.0).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The stopped one's statement ends after 30 s.
    let is_under_way = began.elapsed() < Duration::from_secs(28);
    assert!(!is_under_way || stack.dead_letters().await == 0);
    // It is a row now.
    key.rollback().await.unwrap();
    holds_nothing(&other).await;
    send_signal(under_way.pid(), Signal::CONT);
    holds_nothing(&under_way).await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert!(!is_under_way || stack.dead_letters().await == 0);
}

/// Somebody always writes. What began long after the decision has seen it.
#[tokio::test]
async fn a_letter_waits_for_no_write_that_began_a_minute_after_its_decision() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    publish(&jetstream, &[event("e")]).await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let message = stream.get_raw_message(1).await.unwrap();
    let published_at = Timestamp::from_nanos(message.time.unix_timestamp_nanos());
    let decide = "INSERT INTO fates (stream, stream_seq, published_at, fate, detail, decided_at) \
         VALUES ('EVENTS', 1, $1, 'rejected_row', 'long ago', now() - interval '2 minutes')";
    sqlx::query(decide)
        .bind(published_at)
        .execute(&stack.pool)
        .await
        .unwrap();
    let mut writes = stack.pool.begin().await.unwrap();
    let as_ganesh =
        "SET LOCAL application_name = 'ganesh'; LOCK TABLE events IN ROW EXCLUSIVE MODE";
    writes.execute(as_ganesh).await.unwrap();
    let _ganesh = stack.serve(&[]).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.dead_letters().await, 1);
    assert_eq!(stack.rows().await, 0);
}

/// A mirror has the sequences and the times of its origin: each of its messages ends for itself.
#[tokio::test]
async fn a_message_of_another_stream_with_the_same_sequence_and_time_has_a_fate_of_its_own() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    let mirror = stream::Config {
        name: "MIRROR".to_owned(),
        mirror: Some(stream::Source {
            name: "EVENTS".to_owned(),
            ..stream::Source::default()
        }),
        ..stream::Config::default()
    };
    jetstream.create_stream(mirror).await.unwrap();
    stack.pool.execute(BREAK_SCHEMA).await.unwrap();
    let first = stack.serve(&[]).await;
    publish(&jetstream, &events("e", 3)).await;
    eventually("they are letters", || async {
        stack.dead_letters().await == 3
    })
    .await;
    holds_nothing(&first).await;
    assert!(first.terminate().await.success());
    stack.pool.execute(REPAIR_SCHEMA).await.unwrap();
    let settings = [
        ("GANESH_STREAM", "MIRROR"),
        ("GANESH_DLQ_STREAM", "MIRROR_DLQ"),
    ];
    let second = stack.serve(&settings).await;
    second
        .wait_for_metric("ganesh_messages_received_total", 3.0)
        .await;
    holds_nothing(&second).await;
    assert_eq!(stack.rows().await, 3);
}

/// Nothing is acknowledged while the epoch cannot be read.
#[tokio::test]
async fn what_a_trigger_skipped_is_no_letter_however_often_it_is_delivered() {
    let stack = Stack::start().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(stack.serve(&SETTINGS).await);
    }
    let skip = "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
         CREATE TRIGGER skip BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION skip()";
    stack.pool.execute(skip).await.unwrap();
    for replica in &replicas {
        replica
            .wait_for_metric("ganesh_dependency_up{dependency=\"cache\"}", 1.0)
            .await;
    }
    let epoch = stack.lock("cache_epoch", "ACCESS EXCLUSIVE").await;
    publish(&stack.jetstream().await, &[event("e")]).await;
    while replicas.len() > 1 {
        let began = std::time::Instant::now();
        let holder = loop {
            assert!(began.elapsed() < PATIENCE, "nobody holds it");
            let mut holder = None;
            for (place, replica) in replicas.iter().enumerate() {
                if replica.metric(INSERTS).await > 0.5 {
                    holder = Some(place);
                }
            }
            if let Some(holder) = holder {
                break holder;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        // Skipped, and what follows waits for the epoch.
        tokio::time::sleep(Duration::from_millis(500)).await;
        replicas.remove(holder).kill();
    }
    let last = &replicas[0];
    last.wait_for_metric("ganesh_messages_received_total", 1.0)
        .await;
    epoch.rollback().await.unwrap();
    last.wait_for_metric(SKIPPED, 1.0).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 0);
    assert_eq!(stack.dead_letters().await, 0);
}
