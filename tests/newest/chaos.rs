//! P5 as it is written, under load, with a cache that goes through everything at once: a read
//! that starts a second after an event was acknowledged never gets an older state.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ganesh::event::{Event, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::Stack;
use crate::support::cache_server::ask;
use crate::support::events::publish;
use crate::support::reads::{ago, assert_newest, latest_at, of};

const SUBJECTS: usize = 20;
const LOAD: Duration = Duration::from_secs(8);
const ALLOWED: Duration = Duration::from_secs(1);
/// For what was published to be stored.
const CALM_DOWN: Duration = Duration::from_millis(200);

/// One answer.
struct Reading {
    started: Instant,
    subject: String,
    id: Option<String>,
    cache: String,
}

/// All messages up to this one were acknowledged by then.
struct Floor {
    at: Instant,
    sequence: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_gets_an_older_state_whatever_the_cache_goes_through() {
    run(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_gets_an_older_state_whatever_the_cache_goes_through_in_another_order() {
    run(2).await;
}

async fn run(seed: u64) {
    let mut stack = Stack::start().await;
    let (one, two) = (stack.serve(&[]).await, stack.serve(&[]).await);
    let (stop, quiet) = (CancellationToken::new(), AtomicBool::new(false));
    let (readings, floors) = (Arc::default(), Arc::default());
    let jetstream = stack.jetstream().await;
    let tasks = [
        tokio::spawn(watch_floor(
            jetstream.clone(),
            Arc::clone(&floors),
            stop.clone(),
        )),
        tokio::spawn(read(one.api.clone(), Arc::clone(&readings), stop.clone())),
        tokio::spawn(read(two.api.clone(), Arc::clone(&readings), stop.clone())),
    ];
    let troubled = async {
        trouble(&mut stack, seed, &quiet).await;
        stop.cancel();
    };
    tokio::join!(troubled, publish_events(jetstream, seed, &quiet, &stop));
    for task in tasks {
        task.await.unwrap();
    }
    stack.wait_until_drained().await;
    let rows = rows(&stack).await;
    check(&readings.lock().unwrap(), &floors.lock().unwrap(), &rows);
    sleep(ALLOWED).await;
    let subjects: Vec<String> = (0..SUBJECTS).map(|i| format!("s{i}")).collect();
    assert_newest(&stack, &[&one, &two], &subjects).await;
}

/// Events out of order, some at equal times, some twice.
async fn publish_events(
    jetstream: async_nats::jetstream::Context,
    seed: u64,
    quiet: &AtomicBool,
    stop: &CancellationToken,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut sent: Vec<Event> = Vec::new();
    while !stop.is_cancelled() {
        if quiet.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(10)).await;
            continue;
        }
        let mut events = Vec::new();
        for _ in 0..random.random_range(1..20) {
            if !sent.is_empty() && random.random_bool(0.1) {
                events.push(sent[random.random_range(0..sent.len())].clone());
                continue;
            }
            let subject = format!("s{}", random.random_range(0..SUBJECTS));
            let mut time = ago(random.random_range(0..1_000));
            if random.random_bool(0.25) {
                time = Timestamp::from_micros(time.micros() / 500_000 * 500_000);
            }
            let event = of(&subject, &format!("{}", sent.len()), time);
            sent.push(event.clone());
            events.push(event);
        }
        publish(&jetstream, &events).await;
        sleep(Duration::from_millis(random.random_range(0..40))).await;
    }
}

async fn watch_floor(
    jetstream: async_nats::jetstream::Context,
    floors: Arc<Mutex<Vec<Floor>>>,
    stop: CancellationToken,
) {
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    while !stop.is_cancelled() {
        let info = stream.consumer_info("ganesh").await.unwrap();
        let sequence = info.ack_floor.stream_sequence;
        let at = Instant::now();
        floors.lock().unwrap().push(Floor { at, sequence });
        sleep(Duration::from_millis(20)).await;
    }
}

async fn read(api: String, readings: Arc<Mutex<Vec<Reading>>>, stop: CancellationToken) {
    let client = reqwest::Client::new();
    while !stop.is_cancelled() {
        let subject = format!("s{}", rand::random_range(0..SUBJECTS));
        let started = Instant::now();
        let answer = latest_at(&client, &api, &subject).await;
        assert!(matches!(answer.status, 200 | 404), "{answer:?}");
        readings.lock().unwrap().push(Reading {
            started,
            subject,
            id: answer.id,
            cache: answer.cache,
        });
        sleep(Duration::from_millis(2)).await;
    }
}

/// What the cache goes through.
async fn trouble(stack: &mut Stack, seed: u64, quiet: &AtomicBool) {
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(1_000));
    let began = Instant::now();
    while began.elapsed() < LOAD {
        let mut millis = |range| Duration::from_millis(random.random_range(range));
        let (calm, short, long) = (millis(300..1_500), millis(0..300), millis(300..1_500));
        sleep(calm).await;
        match random.random_range(0..3) {
            0 => ask::<()>(&stack.cache, &["FLUSHALL"]).await,
            1 => {
                ask::<()>(&stack.cache, &["SAVE"]).await;
                sleep(long).await;
                // Without an event meanwhile nobody has a write to miss.
                quiet.store(random.random_bool(0.7), Ordering::Relaxed);
                sleep(CALM_DOWN).await;
                stack.cache.kill();
                sleep(short).await;
                stack.cache.run();
                quiet.store(false, Ordering::Relaxed);
            }
            _ => {
                stack.cache.pause();
                sleep(long).await;
                stack.cache.resume();
            }
        }
    }
}

/// By id: its place in the order, and in the stream.
async fn rows(stack: &Stack) -> HashMap<String, (String, (Timestamp, u64))> {
    let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "SELECT id, subject, (extract(epoch FROM time) * 1000000)::bigint, stream_seq FROM events",
    )
    .fetch_all(&stack.pool)
    .await
    .unwrap();
    let place = |time, sequence: i64| {
        let sequence = u64::try_from(sequence).unwrap();
        (Timestamp::from_micros(time), sequence)
    };
    rows.into_iter()
        .map(|(id, subject, time, sequence)| (id, (subject, place(time, sequence))))
        .collect()
}

fn check(
    readings: &[Reading],
    floors: &[Floor],
    rows: &HashMap<String, (String, (Timestamp, u64))>,
) {
    let mut by_subject: HashMap<&str, Vec<(Timestamp, u64)>> = HashMap::new();
    for (subject, place) in rows.values() {
        by_subject.entry(subject).or_default().push(*place);
    }
    let mut bound = 0;
    for reading in readings {
        let long_ago = |floor: &&Floor| reading.started >= floor.at + ALLOWED;
        let Some(floor) = floors.iter().rev().find(long_ago) else {
            continue;
        };
        let events = by_subject.get(reading.subject.as_str());
        let acknowledged = events.into_iter().flatten();
        let acknowledged = acknowledged.filter(|(_, sequence)| *sequence <= floor.sequence);
        let expected = acknowledged.max();
        let got = reading.id.as_ref().map(|id| &rows[id].1);
        assert!(
            got >= expected,
            "{} answered {:?} ({}), older than {expected:?}",
            reading.subject,
            reading.id,
            reading.cache,
        );
        bound += u32::from(expected.is_some());
    }
    let hits = readings.iter().filter(|r| r.cache.contains("hit")).count();
    assert!(bound > 200, "{bound} readings say nothing");
    assert!(hits > 50, "{hits} hits: the cache had no part in it");
}
