//! `ganesh serve`: start-up, the pipeline, and the end within the grace period.

mod prepare;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use async_nats::{Client, jetstream};
use clap::Command;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Failure;
use super::ending::{Ending, Step};
use super::signals::stop_on_signal;
use crate::api::{self, Api, admin};
use crate::cache::Cache;
use crate::config::{Config, Group, group_flags};
use crate::message::timings;
use crate::messaging::consumer::LastSeen;
use crate::messaging::keeper::Keeper;
use crate::messaging::letters::bucket::Bucket;
use crate::messaging::letters::sweep;
use crate::messaging::{Held, connection, held, lag};
use crate::observe::Observer;
use crate::observe::slow_list::SlowList;
use crate::pipeline::source::Origin;
use crate::pipeline::{self, Parts};
use crate::storage::queries::Reads;
use crate::storage::{EventWriter, pool, upkeep};
use crate::telemetry::logs::LogFilter;
use crate::telemetry::span_queue::SpanQueue;
use crate::telemetry::{Health, Metrics, runtime};

/// How long NATS may take to take the last acknowledgements, where the grace period is long.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Tells a process that it starts because the NATS client of the one before it broke down.
pub(super) const CLIENT_WAS_LOST: &str = "GANESH_CLIENT_WAS_LOST";

pub(super) fn command() -> Command {
    let groups = Group::ALL.into_iter();
    let shared = groups.filter(|group| !group.is_of_one_command());
    Command::new("serve")
        .about("Take events from JetStream, land them in Postgres, serve reads over HTTP")
        .args(shared.flat_map(group_flags))
}

pub(super) async fn run(
    config: Config,
    metrics: Metrics,
    spans: Option<SpanQueue>,
    log_filter: LogFilter,
    ending: &Ending,
) -> Result<(), Failure> {
    if !config.telemetry.enabled {
        timings::stop_clock();
        tracing::warn!("OTEL_SDK_DISABLED=true: nothing is counted, timed or traced");
    }
    let health = Health::new(metrics.clone());
    tracing::info!(?config, "starting");
    let begun = ending.clone();
    let stop = stop_on_signal(move || begun.begin())?;
    // Background tasks live on while the pipeline drains.
    let background = CancellationToken::new();
    let admin = admin::Admin {
        health: health.clone(),
        metrics,
        slow: SlowList::default(),
        log_filter,
    };
    let serving = serve(&config, admin, spans, &stop, &background, ending);
    tokio::select! {
        biased; // its own end is the better one
        result = serving => result,
        () = stopped_before_start(&stop, &health, ending) => Ok(()),
    }
}

async fn serve(
    config: &Config,
    admin: admin::Admin,
    spans: Option<SpanQueue>,
    stop: &CancellationToken,
    background: &CancellationToken,
    ending: &Ending,
) -> Result<(), Failure> {
    let (metrics, slow) = (admin.metrics.clone(), admin.slow.clone());
    let health = admin.health.clone();
    let admin_listener = bind("GANESH_ADMIN_ADDR", config.http.admin_addr).await?;
    let api_listener = bind("GANESH_HTTP_ADDR", config.http.api_addr).await?;
    tokio::spawn(admin::serve(admin_listener, admin, background.clone()));
    let (pool, (client, drops), (consumer, seen)) = prepare::prepare(config, &health, &metrics)
        .instrument(tracing::info_span!("start-up"))
        .await?;
    let reads = Reads::new(pool.clone(), config.postgres.partition_interval);
    let cache = start_cache(config, &reads, &metrics, &health, background)?;
    let api = Api {
        cache: cache.clone(),
        reads: reads.clone(),
        metrics: metrics.clone(),
    };
    let token = config.http.api_token.clone();
    let api_server = tokio::spawn(api::serve(api_listener, api, token, stop.clone()));
    watch(config, &pool, &metrics, &health, background);
    let origin = Origin {
        jetstream: jetstream::new(client.clone()),
        drops: drops.clone(),
        consumer,
        seen: seen.clone(),
        health: health.clone(),
        client_was_lost: std::env::var_os(CLIENT_WAS_LOST).is_some(),
    };
    let keeper_stop = CancellationToken::new();
    let (held, keeper) = hold(config, &origin, &metrics, &keeper_stop);
    watch_lag(config, &origin, &held, &metrics, background);
    let bucket = Bucket::new(origin.jetstream.clone(), &config.nats.dlq_stream);
    tokio::spawn(sweep::run(bucket, background.clone()));
    let lost = connection::lost(drops);
    tokio::spawn(stop_when_unfit(seen.clone(), ending.clone(), stop.clone()));
    let observer = Observer::new(config, metrics.clone(), spans, slow);
    let parts = Parts {
        config: config.clone(),
        origin,
        held: held.clone(),
        rows: EventWriter::new(pool, metrics.clone()),
        reads,
        cache,
        health: health.clone(),
        observer: config.telemetry.enabled.then_some(observer),
        metrics,
    };
    let running = run_pipeline(parts, stop, ending, &health);
    let result = tokio::select! {
        biased; // what waits for the client would wait for ever
        () = lost => Err(client_lost(stop)),
        result = running => result.map_err(running_failure),
    };
    if !matches!(result, Err(Failure::ClientLost { .. })) {
        keeper_stop.cancel();
        finish(&client, keeper, api_server, &held, ending).await;
        background.cancel();
    }
    // Said even where the client broke down on the way: to start again would not help.
    seen.unfit_error()
        .map_or(result, |error| Err(running_failure(error)))
}

fn running_failure(error: crate::error::Error) -> Failure {
    Failure::Running(anyhow!(error))
}

/// A consumer that breaks a promise ends the service as a signal does: what it delivered is still
/// ours to store, and what is given back it may never deliver again.
async fn stop_when_unfit(seen: Arc<LastSeen>, ending: Ending, stop: CancellationToken) {
    seen.becomes_unfit().await;
    ending.begin();
    stop.cancel();
}

fn client_lost(stop: &CancellationToken) -> Failure {
    tracing::error!(
        "the NATS client broke down, as it does on a header value with a carriage return: starting \
         again, unless told to stop, and looking for the message"
    );
    Failure::ClientLost { stop: stop.clone() }
}

/// A cache handle, with what keeps it usable running until `background` ends.
fn start_cache(
    config: &Config,
    reads: &Reads,
    metrics: &Metrics,
    health: &Health,
    background: &CancellationToken,
) -> Result<Cache, Failure> {
    let (reads, metrics, health) = (reads.clone(), metrics.clone(), health.clone());
    let cache = Cache::new(&config.cache, reads, metrics, health)
        .map_err(|error| Failure::Usage(format!("REDIS_URL: {error}")))?;
    tokio::spawn(cache.clone().run(background.clone()));
    Ok(cache)
}

/// Starts what watches Postgres and the process itself, until `background` ends.
fn watch(
    config: &Config,
    pool: &PgPool,
    metrics: &Metrics,
    health: &Health,
    background: &CancellationToken,
) {
    let (pool, metrics) = (pool.clone(), metrics.clone());
    tokio::spawn(runtime::watch(metrics.clone(), background.clone()));
    tokio::spawn(pool::watch(
        pool.clone(),
        metrics.clone(),
        background.clone(),
    ));
    tokio::spawn(upkeep::run(
        config.postgres.clone(),
        pool,
        metrics,
        health.clone(),
    ));
}

/// The register of what is held, and what keeps it ours until `stop`.
fn hold(
    config: &Config,
    origin: &Origin,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> (Arc<Held>, JoinHandle<()>) {
    let (limits, ack_wait) = (held::Limits::of(&config.pipeline), config.nats.ack_wait);
    let (held, releases) = Held::new(limits, ack_wait, metrics.clone());
    let keeper = Keeper {
        held: held.clone(),
        releases,
        client: origin.jetstream.client(),
        drops: origin.drops.clone(),
        metrics: metrics.clone(),
    };
    (held, tokio::spawn(keeper.run(stop.clone())))
}

/// Starts what asks for the consumer's lag, until `background` ends.
fn watch_lag(
    config: &Config,
    origin: &Origin,
    held: &Arc<Held>,
    metrics: &Metrics,
    background: &CancellationToken,
) {
    tokio::spawn(lag::watch(
        origin.jetstream.clone(),
        origin.consumer.clone(),
        origin.seen.clone(),
        held.clone(),
        metrics.clone(),
        config.clone(),
        background.clone(),
    ));
}

/// Until every stage has ended; after `stop`, no longer than `ending` allows.
async fn run_pipeline(
    parts: Parts,
    stop: &CancellationToken,
    ending: &Ending,
    health: &Health,
) -> Result<(), crate::error::Error> {
    let http = &parts.config.http;
    health.set_serving(true);
    tracing::info!(api = %http.api_addr, admin = %http.admin_addr, "serving");
    let mut stages = pipeline::spawn(parts, stop);
    let deadline = async {
        stop.cancelled().await;
        health.set_serving(false);
        tracing::info!("shutting down: no more fetching, what is held is stored and acknowledged");
        tokio::time::sleep_until(ending.until(Step::Drain).into()).await;
    };
    let result = tokio::select! {
        result = pipeline::supervise(&mut stages, stop) => result,
        () = deadline => {
            tracing::warn!("the grace period ends: releasing what is not stored");
            Ok(())
        }
    };
    // Waits until every stage is gone, so that what they held is in the keeper's queue.
    stages.shutdown().await;
    result
}

async fn finish(
    client: &Client,
    keeper: JoinHandle<()>,
    api_server: JoinHandle<()>,
    held: &Held,
    ending: &Ending,
) {
    let ended = async {
        let _ = keeper.await;
        let _ = client.flush().await;
        let _ = api_server.await;
    };
    let until = ending
        .until(Step::Flush)
        .min(Instant::now() + FLUSH_TIMEOUT);
    if tokio::time::timeout_at(until.into(), ended).await.is_err() {
        tracing::warn!("NATS did not take the last acknowledgements in time");
    }
    tracing::info!(held = held.count(), "stopped");
}

/// Ends a start-up that still waits for dependencies, at once: nothing is held yet. Once
/// the pipeline runs, it is that which ends, and this only guards against an end that hangs.
async fn stopped_before_start(stop: &CancellationToken, health: &Health, ending: &Ending) {
    stop.cancelled().await;
    if health.has_served() {
        tokio::time::sleep_until(ending.until(Step::Flush).into()).await;
        tracing::error!("the shutdown took longer than the grace period leaves for it");
    } else {
        tracing::info!("stopped before it served");
    }
}

async fn bind(variable: &str, address: std::net::SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{variable}={address}: cannot listen there"))
        .map_err(Failure::Running)
}
