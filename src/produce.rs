//! `ganesh produce`: a sample producer that is also an honest load generator.
//!
//! ```text
//!  pacer ─▶ plan ─▶ messages ─▶ publisher ──────────▶ stream EVENTS
//!  when     what    events,     at most                    │
//!                   headers     max-acks-in-flight ◀───────┘ acknowledgements
//! ```
//!
//! Open loop: what is due is due whether or not the server keeps up, and latency
//! counts from the time at which a message was due, so that a stall shows in every
//! message that it held up. Event number n of a seed is always the same; nothing is
//! kept of a message but the recipe to write it again.

pub(crate) mod connect;
pub mod events;
pub mod messages;
pub mod options;
pub mod pacer;
pub mod pending;
pub mod plan;
pub(crate) mod report;

mod publisher;
mod random;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::events::Events;
use self::messages::MessageWriter;
use self::options::{End, Options};
use self::plan::Plan;
use self::publisher::Publisher;
use self::report::Report;
use self::trace::SendSpans;
use crate::config::NatsConfig;
use crate::error::Error;
use crate::messaging::connection::Disconnects;
use crate::telemetry::span_queue::SpanQueue;

/// How long the end waits for acknowledgements after a signal.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// A run of at most so many messages lists its events.
const LISTED_MAX: u64 = 5;
/// Room for attributes and headers beside the data, in bytes.
const ENVELOPE_BYTES: usize = 2_048;
const LOGGED_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// Send nothing more, and wait for acknowledgements a while.
    pub(crate) sending: CancellationToken,
    /// Do not wait either.
    pub(crate) waiting: CancellationToken,
}

#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) connection: (Client, Disconnects),
    /// The subjects that the stream takes.
    pub(crate) stream_subjects: Vec<String>,
}

/// Produces until the options' end, or until it is told to stop, and reports. The spans of
/// sampled messages go to `spans`, if there is that.
///
/// # Errors
/// When the stream or the server does not take what would be published; then the error is fatal,
/// and names the setting. What fails later is counted in the report.
pub(crate) async fn run(
    config: &NatsConfig,
    options: &Options,
    target: Target,
    spans: Option<SpanQueue>,
    stop: &Stop,
) -> Result<Report, Error> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let pattern = config.subjects.first();
    let pattern = pattern.expect("the configuration refuses an empty list of subjects");
    let events = Events::new(seed, options.subjects, options.body_bytes);
    let events = events.with(options.chosen.clone());
    let writer = MessageWriter::new(events, options.mode, seed, options.sample, pattern);
    connect::check_subjects(config, &target.stream_subjects, writer.subjects())?;
    check_size(options, target.connection.0.max_payload())?;

    let plan = Plan::new(seed, options.duplicates_percent, options.invalid_percent);
    let send_spans = spans.map(|queue| SendSpans::new(pattern, queue));
    let (publisher, acks) =
        Publisher::new(target.connection, writer, plan, options, send_spans).await?;
    let publisher = Arc::new(publisher);
    let mut background = spawn_background(&publisher, acks);
    tracing::info!(seed, rate = options.rate_per_second, "producing");
    send(&publisher, options, &stop.sending).await;
    wait_for_acks(&publisher, stop).await;
    background.shutdown().await;
    let few = matches!(options.end, End::Count(count) if count <= LISTED_MAX);
    Ok(publisher.report(seed, few))
}

fn check_size(options: &Options, max_payload_bytes: usize) -> Result<(), Error> {
    let data = options.chosen.data.as_ref();
    let body_bytes = data.map_or(options.body_bytes, String::len);
    let max = max_payload_bytes.saturating_sub(ENVELOPE_BYTES);
    if body_bytes <= max {
        return Ok(());
    }
    Err(connect::misfit(format!(
        "GANESH_PRODUCE_BYTES={body_bytes}: expected at most {max}, for the server takes \
         {max_payload_bytes} with all headers (GANESH_PRODUCE_DATA counts, too)"
    )))
}

/// Tasks that end with the set.
fn spawn_background(publisher: &Arc<Publisher>, acks: async_nats::Subscriber) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let settling = Arc::clone(publisher);
    tasks.spawn(async move { settling.settle_all(acks).await });
    let retrying = Arc::clone(publisher);
    tasks.spawn(async move { retrying.retry_all().await });
    let logged = Arc::clone(publisher);
    tasks.spawn(async move { log_progress(&logged).await });
    tasks
}

async fn log_progress(publisher: &Publisher) {
    let mut before = 0;
    loop {
        tokio::time::sleep(LOGGED_EVERY).await;
        let (counts, in_flight) = publisher.progress();
        tracing::info!(
            published = counts.published,
            acknowledged = counts.acknowledged,
            rate_per_second = (counts.acknowledged - before) / LOGGED_EVERY.as_secs(),
            in_flight,
            retries = counts.retries,
            failed = counts.failed,
            "producing"
        );
        before = counts.acknowledged;
    }
}

/// Sends until the end or a stop, on a worker thread of the runtime.
async fn send(publisher: &Arc<Publisher>, options: &Options, stop: &CancellationToken) {
    let (publisher, stop) = (Arc::clone(publisher), stop.clone());
    let (rate, end) = (options.rate_per_second, options.end);
    let sending = tokio::spawn(async move {
        stop.run_until_cancelled(publisher.send_all(rate, end))
            .await;
    });
    if let Err(join) = sending.await {
        std::panic::resume_unwind(join.into_panic());
    }
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
