//! A bare loop: pull, `COPY` into a table of the same definition, newest state of each subject, ack. No checks, no
//! telemetry, no retries. What it reaches is what a consumer can reach on this machine.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use futures::StreamExt;
use redis::aio::MultiplexedConnection;
use sqlx::Executor;
use sqlx::postgres::PgPool;
use tokio::task::JoinSet;

use super::servers::BenchServers;
use super::{cpu, report};
use crate::event::{self, Event, TraceId};
use crate::labels::WriteMethod;
use crate::messaging::delivery::ParsedDelivery;
use crate::storage::{Row, ServerClock, write_rows};

/// As many as `serve` stores at the same time by default.
const WORKERS: usize = 2;
/// Messages of a pull, and so of a `COPY`.
pub(super) const PULL_MESSAGES: usize = 2_000;
const PULL_EXPIRES: Duration = Duration::from_secs(1);
const STATE_SECONDS: u64 = 3_600;

/// A delivery and its event.
struct Pulled {
    delivery: ParsedDelivery,
    event: Event,
    trace_id: TraceId,
}

/// A consumer of the stream, from its start, that only the bench has.
pub(super) async fn consumer(servers: &BenchServers) -> anyhow::Result<PullConsumer> {
    let config = pull::Config {
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 100_000,
        inactive_threshold: Duration::from_secs(600),
        ..Default::default()
    };
    Ok(servers.stream().await?.create_consumer(config).await?)
}

/// Drains the whole stream, which has so many messages.
pub(super) async fn drain(servers: &BenchServers, messages: u64) -> anyhow::Result<report::Drain> {
    servers.other_pool.execute("TRUNCATE events").await?;
    let consumer = consumer(servers).await?;
    let left = Arc::new(AtomicU64::new(messages));
    let before = cpu::Sample::take()?;
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(
            consumer.clone(),
            servers.client.clone(),
            servers.other_pool.clone(),
            servers.cache.clone(),
            left.clone(),
        ));
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    let cpu = before.until_now()?;
    let name = &consumer.cached_info().name;
    servers.stream().await?.delete_consumer(name).await?;
    servers.expect_rows(&servers.other_pool, messages).await?;
    let rate = servers.committed_per_second(&servers.other_pool).await?;
    Ok(report::Drain::new(rate, &cpu, messages))
}

async fn work(
    consumer: PullConsumer,
    client: async_nats::Client,
    pool: PgPool,
    mut cache: MultiplexedConnection,
    left: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut connection = pool.acquire().await?;
    let clock = ServerClock::default();
    while left.load(Ordering::Relaxed) > 0 {
        let batch = pull(&consumer).await?;
        if batch.is_empty() {
            continue;
        }
        let mut rows: Vec<Row<'_>> = batch.iter().map(row).collect();
        rows.sort_unstable_by(Row::write_order);
        write_rows(&mut connection, &rows, WriteMethod::Copy, &clock).await?;
        write_newest(&mut cache, &batch).await?;
        for pulled in &batch {
            client
                .publish(pulled.delivery.ack_subject.clone(), "+ACK".into())
                .await?;
        }
        client.flush().await?;
        left.fetch_sub(batch.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

async fn pull(consumer: &PullConsumer) -> anyhow::Result<Vec<Pulled>> {
    let pull = consumer
        .fetch()
        .max_messages(PULL_MESSAGES)
        .expires(PULL_EXPIRES);
    let mut messages = pull.messages().await?;
    let mut batch = Vec::with_capacity(PULL_MESSAGES);
    while let Some(message) = messages.next().await {
        let message = message.map_err(|error| anyhow!(error))?.message;
        batch.push(decode(message)?);
    }
    Ok(batch)
}

fn decode(message: async_nats::Message) -> anyhow::Result<Pulled> {
    let delivery =
        ParsedDelivery::read(message).map_err(|subject| anyhow!("{subject}: no delivery"))?;
    let (sequence, published_at) = (
        delivery.metadata.stream_sequence,
        delivery.metadata.published_at,
    );
    let message = event::Message {
        subject: &delivery.message.subject,
        headers: delivery.message.headers.as_ref(),
        payload: &delivery.message.payload,
        stream: "",
        stream_sequence: sequence,
        published_at,
    };
    Ok(Pulled {
        event: event::decode(&message, true)?,
        trace_id: TraceId::of_message(None, "", sequence, published_at),
        delivery,
    })
}

fn row(pulled: &Pulled) -> Row<'_> {
    Row {
        event: &pulled.event,
        stream: "",
        nats_subject: &pulled.delivery.message.subject,
        stream_seq: pulled.delivery.metadata.stream_sequence,
        published_at: pulled.delivery.metadata.published_at,
        trace_id: pulled.trace_id,
    }
}

/// The last of each subject, in one round trip.
async fn write_newest(cache: &mut MultiplexedConnection, batch: &[Pulled]) -> anyhow::Result<()> {
    let mut newest: HashMap<&str, &Pulled> = HashMap::new();
    for pulled in batch {
        if let Some(subject) = pulled.event.subject.as_deref() {
            newest.insert(subject, pulled);
        }
    }
    let mut states = redis::pipe();
    for (subject, pulled) in newest {
        let state = pulled.delivery.message.payload.as_ref();
        states
            .set_ex(format!("bench:{subject}"), state, STATE_SECONDS)
            .ignore();
    }
    states.exec_async(cache).await?;
    Ok(())
}
