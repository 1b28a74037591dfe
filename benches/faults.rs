//! What faults cost, by measurement: one row in 10,000 that Postgres refuses, an outage of Postgres
//! at full load, and one of the cache. Prints what it found, and fails when that is more than was
//! promised.
//!
//! `make faults`; `OUTAGE_SECS=300 RATE=5000 make faults` has longer outages at less load, in which
//! nothing may be delivered again, and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a measurement may panic, and shows figures"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "what the tests share has more than is used here"
)]

mod drain;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Child;
use std::time::Duration;

use ::ganesh::event::Data;
use bytes::Bytes;
use drain::{compare, drain, produce, wait_until_empty};
use support::{Ganesh, Stack, events, ganesh as command};

/// One message in so many is refused.
const POISON_EVERY: u64 = 10_000;
/// Of these kinds, in turn.
const POISONS: [&str; 3] = [
    r#"{"nul":"\u0000"}"#,
    r#"{"surrogate":"\ud800"}"#,
    r#"{"number":1e200000}"#,
];
/// Drained in each run.
const MESSAGES: u64 = 300_000;
const PAIRS: usize = 5;
/// Of throughput.
const POISON_COST_MAX: f64 = 0.1;
/// Recovery, over draining as much at full speed.
const RECOVERY_MAX: f64 = 1.3;
/// How far the pipeline may fall behind the producer for the cache's sake.
const BEHIND_MAX_SECS: u64 = 3;
/// Before an outage begins.
const RUN_UP: Duration = Duration::from_secs(10);

const REDELIVERED: &str = "ganesh_messages_redelivered_total";

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let rate = setting("RATE", 20_000);
        let outage = Duration::from_secs(setting("OUTAGE_SECS", 60));
        let recovery = postgres_outage(rate, outage).await;
        cache_outage(rate, outage).await;
        if std::env::var_os("OUTAGE_SECS").is_none() {
            assert!(recovery <= RECOVERY_MAX, "{recovery}");
            poison().await;
        }
    });
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A producer at this rate for so long, beside us.
fn producer(stack: &Stack, rate: u64, time: Duration) -> Child {
    let (rate, time) = (rate.to_string(), format!("{}s", time.as_secs()));
    let arguments = [
        "produce",
        "--seed",
        "1",
        "--rate",
        &rate,
        "--duration",
        &time,
    ];
    command::command(Some(stack), &arguments, &[])
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// Messages of the stream, which came at this rate, and each of which has to be a row, delivered once.
async fn assert_each_is_a_row_at_its_first_delivery(
    stack: &Stack,
    ganesh: &Ganesh,
    (rate, time): (u64, Duration),
) -> u64 {
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let messages = stream.cached_info().state.messages;
    let due = rate * time.as_secs();
    assert!(messages > due / 100 * 98, "{messages} of {due} were sent");
    assert_eq!(stack.rows().await, i64::try_from(messages).unwrap());
    let redelivered = ganesh.metric(REDELIVERED).await;
    assert!(redelivered < f64::EPSILON, "{redelivered} redelivered");
    messages
}

/// Postgres crashes at full load, and is back as the producer ends; then the same stream is drained
/// from the start. How long recovery took, over draining as much at full speed.
async fn postgres_outage(rate: u64, outage: Duration) -> f64 {
    let mut stack = Stack::start_with_own_postgres().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut producing = producer(&stack, rate, RUN_UP + outage);
    tokio::time::sleep(RUN_UP).await;
    stack.postgres.as_mut().unwrap().crash();
    assert!(producing.wait().unwrap().success());
    stack.postgres.as_mut().unwrap().run();
    support::eventually("Postgres answers", || async {
        sqlx::query("SELECT 1").execute(&stack.pool).await.is_ok()
    })
    .await;
    let backlog = stack.backlog_of(&stream).await;
    let took = wait_until_empty(&stack, &stream).await;
    let sent = (rate, RUN_UP + outage);
    let messages = assert_each_is_a_row_at_its_first_delivery(&stack, &ganesh, sent).await;
    assert!(ganesh.terminate().await.success());
    println!(
        "Postgres away for {outage:?} at {rate}/s: {messages} messages, {messages} rows, none redelivered"
    );
    let runs = [
        drain(&stack, &[], messages, messages).await,
        drain(&stack, &[], messages, messages).await,
    ];
    let full_speed = runs.map(|run| run.messages_per_second);
    let full_speed = f64::midpoint(full_speed[0], full_speed[1]);
    let least = backlog as f64 / full_speed;
    let ratio = took.as_secs_f64() / least;
    println!(
        "  backlog of {backlog} gone in {:.1} s; at full speed ({full_speed:.0}/s) {least:.1} s: {ratio:.2} times that",
        took.as_secs_f64()
    );
    ratio
}

/// The cache hangs at full load, and comes back.
async fn cache_outage(rate: u64, outage: Duration) {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut producing = producer(&stack, rate, RUN_UP + outage);
    tokio::time::sleep(RUN_UP).await;
    stack.cache.pause();
    let mut most = 0;
    while producing.try_wait().unwrap().is_none() {
        most = stack.backlog_of(&stream).await.max(most);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stack.cache.resume();
    let took = wait_until_empty(&stack, &stream).await;
    let sent = (rate, RUN_UP + outage);
    let messages = assert_each_is_a_row_at_its_first_delivery(&stack, &ganesh, sent).await;
    println!(
        "cache away for {outage:?} at {rate}/s: {messages} messages, {messages} rows, none redelivered;\n  \
         at most {most} waited, and none {:.1} s after the producer's end",
        took.as_secs_f64()
    );
    // It hangs: each batch that meets it waits for its limit, and the next ones skip it.
    assert!(most < rate * BEHIND_MAX_SECS, "{most} waited");
}

/// Of two streams of as many messages, one has some that Postgres refuses.
async fn poison() {
    let (clean, poisoned) = (Stack::start().await, Stack::start().await);
    fill(&clean, false).await;
    fill(&poisoned, true).await;
    println!(
        "poison: {MESSAGES} messages drained in each run, one in {POISON_EVERY} refused in the first"
    );
    println!("  messages/s, µs of processor time per message");
    let rows = MESSAGES - MESSAGES / POISON_EVERY;
    // The first runs find cold files.
    drain(&clean, &[], MESSAGES, MESSAGES).await;
    drain(&poisoned, &[], MESSAGES, rows).await;
    let (mut costs, mut controls) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let first = drain(&clean, &[], MESSAGES, MESSAGES).await;
        let with = drain(&poisoned, &[], MESSAGES, rows).await;
        let again = drain(&clean, &[], MESSAGES, MESSAGES).await;
        println!("  {with}   {first}   {again}");
        // In turn, so that what a machine does over time falls on both alike.
        let without = if pair % 2 == 0 { first } else { again };
        costs.push(with.cost_over(without));
        controls.push(first.cost_over(again));
    }
    let throughput = |cost: &drain::Cost| cost.throughput;
    let (cost, _) = compare("throughput lost to poison", &costs, &controls, throughput);
    assert!(cost < POISON_COST_MAX, "{costs:?}");
}

/// Every so many messages one that may be refused.
async fn fill(stack: &Stack, refused: bool) {
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    let between = (POISON_EVERY - 1).to_string();
    for part in 0..MESSAGES / POISON_EVERY {
        let seed = part.to_string();
        produce(
            stack,
            &["--rate", "0", "--seed", &seed, "--count", &between],
        );
        let mut event = events::event(&format!("last-{part}"));
        if refused {
            let poison = POISONS[usize::try_from(part).unwrap() % POISONS.len()];
            event.data = Data::Json(Bytes::from_static(poison.as_bytes()));
        }
        events::publish(&jetstream, &[event]).await;
    }
}
