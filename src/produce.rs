//! `ganesh produce`: a sample producer that is also an honest load generator.
//!
//! ```text
//!  pacer ─▶ plan ─▶ messages ─▶ publisher ──▶ stream EVENTS ─▶ … ─▶ HTTP API
//!  when     what    events,     at most               │                │
//!                   headers     max-acks-in-flight ◀──┘ acks  reader ◀─┘ freshness
//! ```
//!
//! Open loop: what is due is due whether or not the server keeps up, and latency
//! counts from the time at which a message was due, so that a stall shows in every
//! message that it held up. Event number n of a seed is always the same; nothing is
//! kept of a message but the recipe to write it again.

pub(crate) mod connect;
pub mod events;
pub mod freshness;
pub mod latency;
pub mod messages;
pub mod options;
pub mod pacer;
pub mod pending;
pub mod plan;
pub mod recent;
pub(crate) mod report;

mod progress;
mod publisher;
mod random;
mod reader;
mod trace;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::events::Events;
use self::freshness::Freshness;
use self::messages::MessageWriter;
use self::options::{End, Options};
use self::plan::Plan;
use self::publisher::Publisher;
use self::reader::StateReader;
use self::report::{ReadCounts, Report};
use self::trace::SendSpans;
use crate::config::Config;
use crate::messaging::connection::Drops;
use crate::telemetry::span_queue::SpanQueue;

const STOP_WAIT: Duration = Duration::from_secs(10);
/// A run of at most so many messages lists its events.
const LISTED_MAX: u64 = 5;
/// Room for attributes and headers beside the data, in bytes.
const ENVELOPE_BYTES: usize = 2_048;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The options do not fit the stream or the server; the text names the setting.
    #[error("{0}")]
    Misfit(String),
    /// The connection was closed for good.
    #[error(transparent)]
    Nats(#[from] crate::error::Error),
    #[error("reads: {0}")]
    Http(#[from] reqwest::Error),
    /// A task panicked.
    #[error("the sender ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// Send nothing more, and wait for acknowledgements a while.
    pub(crate) sending: CancellationToken,
    /// Do not wait either.
    pub(crate) waiting: CancellationToken,
}

#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) connection: (Client, Drops),
    /// The subjects that the stream takes.
    pub(crate) stream_subjects: Vec<String>,
}

/// Produces until the options' end, or until it is told to stop, and reports. The spans of
/// sampled messages go to `spans`, if there is that.
///
/// # Errors
/// When the stream or the server does not take what would be published. What fails
/// later is counted in the report.
pub(crate) async fn run(
    config: &Config,
    options: &Options,
    target: Target,
    spans: Option<SpanQueue>,
    stop: &Stop,
) -> Result<Report, Error> {
    let seed = options.seed.unwrap_or_else(random::fresh_seed);
    let (publisher, reader, mut background) = start(config, options, target, spans, seed).await?;
    tracing::info!(seed, rate = options.rate_per_second, "producing");
    send(&publisher, options, &stop.sending).await?;
    wait_for_acks(&publisher, stop).await;
    background.shutdown().await;
    let reads = match reader {
        Some(reader) => reader.finish().await,
        None => ReadCounts::default(),
    };
    let few = matches!(options.end, End::Count(count) if count <= LISTED_MAX);
    let events = if few {
        publisher.stored_events()
    } else {
        Vec::new()
    };
    let ledger = publisher.ledger();
    let (counts, latencies) = (&ledger.counts, &ledger.latencies);
    Ok(Report::new(seed, counts, latencies, &reads, events))
}

type Started = (Arc<Publisher>, Option<Arc<StateReader>>, JoinSet<()>);

/// Checks the options, and starts the background tasks.
async fn start(
    config: &Config,
    options: &Options,
    target: Target,
    spans: Option<SpanQueue>,
    seed: u64,
) -> Result<Started, Error> {
    let client = target.connection.0.clone();
    let pattern = config.nats.subjects.first();
    let pattern = pattern.expect("the configuration refuses an empty list of subjects");
    let chosen = options.chosen.clone();
    let data_bytes = chosen.data.as_ref().map_or(options.body_bytes, String::len);
    let events = Events::new(seed, options.subjects, options.body_bytes).with(chosen);
    let writer = MessageWriter::new(events, options.mode, seed, options.sample, pattern);
    connect::check_subjects(&config.nats, &target.stream_subjects, writer.subjects())
        .map_err(Error::Misfit)?;
    check_size(data_bytes, client.max_payload())?;

    let freshness = (options.read_rate_per_second > 0).then(Arc::<Mutex<Freshness>>::default);
    let plan = Plan::new(seed, options.duplicates_percent, options.invalid_percent);
    let send_spans = spans.map(|queue| SendSpans::new(pattern, queue));
    let (publisher, acks) = Publisher::new(
        target.connection,
        writer,
        plan,
        options,
        freshness.clone(),
        send_spans,
    )
    .await?;
    let publisher = Arc::new(publisher);
    let reader = match freshness {
        Some(freshness) => {
            let publisher = Arc::clone(&publisher);
            let reader = StateReader::new(config, options, client, seed, publisher, freshness)?;
            Some(Arc::new(reader))
        }
        None => None,
    };
    let background = spawn_background(&publisher, reader.as_ref(), acks, options);
    Ok((publisher, reader, background))
}

fn check_size(body_bytes: usize, max_payload_bytes: usize) -> Result<(), Error> {
    let max = max_payload_bytes.saturating_sub(ENVELOPE_BYTES);
    if body_bytes <= max {
        return Ok(());
    }
    Err(Error::Misfit(format!(
        "GANESH_PRODUCE_BYTES={body_bytes}: expected at most {max}, for the server takes \
         {max_payload_bytes} with all headers (GANESH_PRODUCE_DATA counts, too)"
    )))
}

/// Tasks that end when they are told to, or with the set.
fn spawn_background(
    publisher: &Arc<Publisher>,
    reader: Option<&Arc<StateReader>>,
    acks: async_nats::Subscriber,
    options: &Options,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let settling = Arc::clone(publisher);
    tasks.spawn(async move { settling.settle_all(acks).await });
    let retrying = Arc::clone(publisher);
    tasks.spawn(async move { retrying.retry_all().await });
    let (shown, end) = (Arc::clone(publisher), options.end);
    tasks.spawn(async move { progress::show(&shown, end).await });
    if let Some(reader) = reader {
        let (reader, rate) = (Arc::clone(reader), options.read_rate_per_second);
        let watching = Arc::clone(&reader);
        tasks.spawn(async move { watching.watch_floor().await });
        tasks.spawn(async move { reader.read_all(rate).await });
    }
    tasks
}

/// Sends until the end or a stop, on a worker thread of the runtime.
async fn send(
    publisher: &Arc<Publisher>,
    options: &Options,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let (publisher, stop) = (Arc::clone(publisher), stop.clone());
    let (rate, end) = (options.rate_per_second, options.end);
    let sending = tokio::spawn(async move {
        stop.run_until_cancelled(publisher.send_all(rate, end))
            .await;
    });
    Ok(sending.await?)
}

/// Waits until every message is acknowledged or given up; after a stop, not long.
async fn wait_for_acks(publisher: &Publisher, stop: &Stop) {
    tokio::select! {
        () = publisher.settled() => return,
        () = stop.sending.cancelled() => {}
    }
    tokio::select! {
        () = publisher.settled() => {}
        () = tokio::time::sleep(STOP_WAIT) => {}
        () = stop.waiting.cancelled() => {}
    }
}
