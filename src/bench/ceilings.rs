//! What each server does alone: publish, pull and ack, `COPY`, `INSERT`, cache writes and reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::StreamExt;
use sqlx::Executor;
use tokio::task::JoinSet;

use super::processes::Processes;
use super::report::Ceiling;
use super::servers::BenchServers;
use super::{Progress, bare, cpu, fill};
use crate::event::{Event, Timestamp, TraceId};
use crate::labels::WriteMethod;
use crate::produce::events::Events;
use crate::storage::{Row, ServerClock, write_rows};

/// How many there are.
pub(super) const COUNT: usize = 6;
/// Connections of each that writes.
const WORKERS: u64 = 2;
/// Rows of a statement.
const ROWS: u64 = 2_000;
/// Subjects and bytes of the events, as `ganesh produce` has them by default.
const SUBJECTS: u32 = 1_000;
const BODY_BYTES: usize = 230;
/// Commands of a round trip to the cache.
const WRITES_PER_TRIP: u64 = 1_000;
const READS_PER_TRIP: u64 = 100;
const STATE_SECONDS: u64 = 3_600;

/// Measures each of them with so many messages, which are in the stream afterwards.
pub(super) async fn measure(
    servers: &BenchServers,
    processes: &Processes,
    messages: u64,
    progress: &Progress,
) -> anyhow::Result<Vec<Ceiling>> {
    let step = |what: &str| progress.step(format!("ceiling: {what}"));
    step("publish");
    let produced = fill(servers, processes, messages).await?;
    let mut ceilings = vec![Ceiling::new(
        "publish, acknowledged",
        produced.rate_per_second,
        // The producer has ended, and its time with it.
        None,
        messages,
    )];
    step("pull and ack");
    ceilings.push(
        timed(
            "pull and ack each",
            messages,
            pull_and_ack(servers, messages),
        )
        .await?,
    );
    step("COPY");
    let copy = write(servers, messages, WriteMethod::Copy);
    ceilings.push(timed("COPY, 2,000 rows a statement", messages, copy).await?);
    step("INSERT");
    let insert = write(servers, messages, WriteMethod::Insert);
    ceilings.push(timed("INSERT, 2,000 rows a statement", messages, insert).await?);
    step("cache writes");
    let writes = cache(servers, messages, WRITES_PER_TRIP, write_states);
    ceilings.push(timed("cache writes, 1,000 a round trip", messages, writes).await?);
    step("cache reads");
    let reads = cache(servers, messages, READS_PER_TRIP, read_states);
    ceilings.push(timed("cache reads, 100 a round trip", messages, reads).await?);
    Ok(ceilings)
}

async fn timed(
    what: &'static str,
    messages: u64,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Ceiling> {
    let (before, began) = (cpu::Sample::take()?, Instant::now());
    work.await?;
    let took = began.elapsed();
    let cpu = before.until_now()?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let rate = messages as f64 / took.as_secs_f64();
    Ok(Ceiling::new(what, rate, Some(&cpu), messages))
}

async fn pull_and_ack(servers: &BenchServers, messages: u64) -> anyhow::Result<()> {
    let consumer = bare::consumer(servers).await?;
    let mut left = messages;
    while left > 0 {
        let pull = consumer.fetch().max_messages(bare::PULL_MESSAGES);
        let mut pulled = pull.messages().await?;
        while let Some(message) = pulled.next().await {
            let message = message.map_err(|error| anyhow::anyhow!(error))?;
            message
                .ack()
                .await
                .map_err(|error| anyhow::anyhow!(error))?;
            left -= 1;
        }
    }
    servers.client.flush().await?;
    let name = &consumer.cached_info().name;
    servers.stream().await?.delete_consumer(name).await?;
    Ok(())
}

/// Numbers of parts that workers take one after the other.
#[derive(Clone)]
struct Parts {
    next: Arc<AtomicU64>,
    messages: u64,
    size: u64,
}

impl Parts {
    fn new(messages: u64, size: u64) -> Self {
        let next = Arc::default();
        Self {
            next,
            messages,
            size,
        }
    }

    fn take(&self) -> Option<std::ops::Range<u64>> {
        let from = self.next.fetch_add(self.size, Ordering::Relaxed);
        (from < self.messages).then(|| from..self.messages.min(from + self.size))
    }
}

async fn join(mut workers: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Writes so many new rows into the bench's own table.
async fn write(servers: &BenchServers, messages: u64, method: WriteMethod) -> anyhow::Result<()> {
    servers.other_pool.execute("TRUNCATE events").await?;
    let parts = Parts::new(messages, ROWS);
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (parts, pool) = (parts.clone(), servers.other_pool.clone());
        workers.spawn(async move {
            let events = Events::new(1, SUBJECTS, BODY_BYTES);
            let clock = ServerClock::default();
            let mut connection = pool.acquire().await?;
            while let Some(part) = parts.take() {
                let now = Timestamp::now();
                let made: Vec<(u64, Event)> = part
                    .map(|number| (number, events.event(number, now).1))
                    .collect();
                let mut rows: Vec<Row<'_>> = made.iter().map(row).collect();
                rows.sort_unstable_by(Row::write_order);
                write_rows(&mut connection, &rows, method, &clock).await?;
            }
            Ok(())
        });
    }
    join(workers).await
}

fn row((number, event): &(u64, Event)) -> Row<'_> {
    Row {
        event,
        stream: "",
        nats_subject: "events.bench",
        stream_seq: number + 1,
        published_at: event.time,
        trace_id: TraceId::of_message(None, "", number + 1, event.time),
    }
}

async fn cache(
    servers: &BenchServers,
    messages: u64,
    size: u64,
    commands: impl Fn(std::ops::Range<u64>) -> redis::Pipeline + Copy + Send + 'static,
) -> anyhow::Result<()> {
    let parts = Parts::new(messages, size);
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (parts, mut cache) = (parts.clone(), servers.cache.clone());
        workers.spawn(async move {
            while let Some(part) = parts.take() {
                commands(part).exec_async(&mut cache).await?;
            }
            Ok(())
        });
    }
    join(workers).await
}

fn key(number: u64) -> String {
    format!("bench:{}", number % u64::from(SUBJECTS))
}

fn write_states(numbers: std::ops::Range<u64>) -> redis::Pipeline {
    let state = [b'x'; BODY_BYTES];
    let mut pipeline = redis::pipe();
    for number in numbers {
        pipeline.set_ex(key(number), &state, STATE_SECONDS).ignore();
    }
    pipeline
}

fn read_states(numbers: std::ops::Range<u64>) -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    for number in numbers {
        pipeline.get(key(number));
    }
    pipeline
}
