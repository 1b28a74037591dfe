//! `ganesh serve`: connect, build, run, and drain within the grace period. The way of a message begins in
//! [`pipeline::spawn`].

mod connect;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Command;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::connect::Servers;
use super::Failure;
use super::shutdown::{Shutdown, Step, stop_on_signal};
use crate::api::{self, AnswerMemory, Api, Tails, admin};
use crate::cache::Cache;
use crate::config::{Config, Group, group_flags};
use crate::error::Error;
use crate::message::timings;
use crate::messaging::keepalive::Keepalive;
use crate::messaging::lag::Lag;
use crate::messaging::letters::sweep;
use crate::messaging::readable::KnownReadable;
use crate::messaging::{InFlight, connection, in_flight};
use crate::observe::Observer;
use crate::observe::slow_list::SlowList;
use crate::pipeline::source::NatsHandles;
use crate::pipeline::{self, Resources};
use crate::storage::queries::Reads;
use crate::storage::read_access::ReadAccess;
use crate::storage::tail::lease::TailLease;
use crate::storage::{EventWriter, pool, upkeep};
use crate::telemetry::logs::LogFilter;
use crate::telemetry::span_queue::SpanQueue;
use crate::telemetry::{Health, Metrics, runtime};

/// How long the last acknowledgements may take to reach NATS; less if the grace period ends before.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Environment variable that tells the process that the NATS client of its predecessor crashed, and which
/// messages that client could read.
pub(super) const CLIENT_WAS_LOST: &str = "GANESH_CLIENT_WAS_LOST";

pub(super) fn command() -> Command {
    let groups = Group::ALL.into_iter();
    let shared = groups.filter(|group| !group.is_of_one_command());
    Command::new("serve")
        .about("Take events from JetStream, land them in Postgres, serve reads over HTTP")
        .args(shared.flat_map(group_flags))
}

/// What the process has exactly once and needs no connection.
struct Service {
    config: Config,
    metrics: Metrics,
    health: Health,
    slow: SlowList,
    spans: Option<SpanQueue>,
    log_filter: LogFilter,
    /// Cancelled by a signal. The source then stops fetching.
    stop: CancellationToken,
    /// Cancelled when the pipeline has drained. The background tasks then end.
    stop_background: CancellationToken,
    shutdown: Shutdown,
}

/// Tasks that run beside the pipeline. [`Service::drain`] ends them.
struct BackgroundTasks {
    in_flight: Arc<InFlight>,
    keepalive: JoinHandle<()>,
    keepalive_stop: CancellationToken,
    api_server: Option<JoinHandle<()>>,
    api_stop: CancellationToken,
    tails: Tails,
}

pub(super) async fn run(
    config: Config,
    metrics: Metrics,
    spans: Option<SpanQueue>,
    log_filter: LogFilter,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    if !config.telemetry.enabled {
        timings::stop_clock();
        tracing::warn!("OTEL_SDK_DISABLED=true: nothing is counted, timed or traced");
    }
    tracing::info!(?config, "starting");
    let health = Health::new(metrics.clone());
    let (signalled, unready) = (shutdown.clone(), health.clone());
    let on_signal = move || {
        signalled.begin();
        // First, so that a load balancer sends the next reads elsewhere.
        unready.set_stopping();
    };
    let service = Service {
        config,
        health,
        metrics,
        slow: SlowList::default(),
        spans,
        log_filter,
        stop: stop_on_signal(on_signal)?,
        stop_background: CancellationToken::new(),
        shutdown: shutdown.clone(),
    };
    tokio::select! {
        biased; // prefer an orderly end
        result = service.serve() => result,
        () = service.stopped_before_start() => Ok(()),
    }
}

impl Service {
    async fn serve(&self) -> Result<(), Failure> {
        let http = &self.config.http;
        let admin_listener = bind("GANESH_ADMIN_ADDR", http.admin_addr).await?;
        let api_listener = match http.api_addr {
            Some(address) => Some(bind("GANESH_HTTP_ADDR", address).await?),
            None => None,
        };
        self.serve_admin(admin_listener);
        let servers = connect::connect(self)
            .instrument(tracing::info_span!("start-up"))
            .await?;
        let consumer_watch = servers.nats_handles.consumer_watch.clone();
        let disconnects = servers.nats_handles.disconnects.clone();
        let client = servers.nats_handles.jetstream.client();
        let readable = servers.nats_handles.readable.clone();
        let (resources, background_tasks) = self.build(servers, api_listener)?;
        let storage = resources.storage.clone();
        let result = tokio::select! {
            biased; // without a client the pipeline never ends
            () = connection::lost(disconnects) => Err(self.client_crashed(&readable)),
            result = self.run_pipeline(resources) => result.map_err(Failure::from),
        };
        storage.end_own_trials().await;
        if !matches!(result, Err(Failure::ClientCrashed { .. })) {
            self.drain(&client, background_tasks).await;
        }
        // Comes before a lost client: a restart would not mend the consumer.
        match consumer_watch.violation_error() {
            Some(error) => Err(error.into()),
            None => result,
        }
    }

    fn serve_admin(&self, listener: TcpListener) {
        let admin = admin::Admin {
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            has_telemetry: self.config.telemetry.enabled,
            slow: self.slow.clone(),
            log_filter: self.log_filter.clone(),
        };
        tokio::spawn(admin::serve(listener, admin, self.stop_background.clone()));
    }

    /// Starts the background tasks, and assembles what the pipeline needs.
    fn build(
        &self,
        servers: Servers,
        api_listener: Option<TcpListener>,
    ) -> Result<(Resources, BackgroundTasks), Failure> {
        let Servers {
            pool,
            read_pool,
            access,
            nats_handles,
        } = servers;
        let interval = self.config.postgres.partition_interval;
        let reads = Reads::with_access(read_pool.clone(), interval, access.clone());
        let cache = self.start_cache(&pool, &reads)?;
        self.start_postgres_tasks(&pool, read_pool, access);
        let background_tasks =
            self.start_background_tasks(&nats_handles, (&cache, &reads, &pool), api_listener);
        self.start_nats_tasks(&nats_handles, &background_tasks.in_flight);
        let (spans, slow) = (self.spans.clone(), self.slow.clone());
        let observer = Observer::new(&self.config, self.metrics.clone(), spans, slow);
        let resources = Resources {
            config: self.config.clone(),
            nats_handles,
            in_flight: background_tasks.in_flight.clone(),
            // The pipeline's own reads use its own connections.
            reads: Reads::new(pool.clone(), interval),
            storage: EventWriter::new(pool, self.metrics.clone()),
            cache,
            health: self.health.clone(),
            observer: self.config.telemetry.enabled.then_some(observer),
            metrics: self.metrics.clone(),
        };
        Ok((resources, background_tasks))
    }

    fn start_cache(&self, pool: &PgPool, reads: &Reads) -> Result<Cache, Failure> {
        let (metrics, health) = (self.metrics.clone(), self.health.clone());
        let (config, pool) = (&self.config.cache, pool.clone());
        let cache = Cache::new(config, pool, reads.clone(), metrics, health)
            .map_err(|error| Failure::Usage(format!("REDIS_URL: {error}")))?;
        tokio::spawn(cache.clone().run(self.stop_background.clone()));
        Ok(cache)
    }

    fn start_postgres_tasks(&self, pool: &PgPool, read_pool: PgPool, access: ReadAccess) {
        let (metrics, background) = (self.metrics.clone(), self.stop_background.clone());
        tokio::spawn(runtime::watch(metrics.clone(), background.clone()));
        let pools = [pool.clone(), read_pool.clone()];
        tokio::spawn(pool::watch(pools, metrics.clone(), background.clone()));
        let (config, health) = (self.config.postgres.clone(), self.health.clone());
        // Otherwise reads need what the pipeline needs, too.
        if config.read_url.is_some() && self.config.http.api_addr.is_some() {
            tokio::spawn(access.watch(config.clone(), read_pool, health.clone(), background));
        }
        tokio::spawn(upkeep::run(config, pool.clone(), metrics, health));
    }

    fn start_background_tasks(
        &self,
        nats_handles: &NatsHandles,
        (cache, reads, pool): (&Cache, &Reads, &PgPool),
        api_listener: Option<TcpListener>,
    ) -> BackgroundTasks {
        let limits = in_flight::Capacity::in_flight(&self.config.pipeline);
        let ack_wait = self.config.nats.ack_wait;
        let (in_flight, releases) = InFlight::new(limits, ack_wait, self.metrics.clone());
        let held = in_flight.clone();
        let giving_way =
            (reads.clone()).give_way(move || held.is_behind(), self.stop_background.clone());
        tokio::spawn(giving_way);
        let keepalive = Keepalive {
            in_flight: in_flight.clone(),
            releases,
            client: nats_handles.jetstream.client(),
            disconnects: nats_handles.disconnects.clone(),
            metrics: self.metrics.clone(),
        };
        let keepalive_stop = CancellationToken::new();
        // They end at once after a signal: another replica goes on with them.
        let tails = Tails::new(TailLease::new(pool.clone()), self.stop.child_token());
        let api = Api {
            cache: cache.clone(),
            reads: reads.clone(),
            metrics: self.metrics.clone(),
            answers: AnswerMemory::default(),
            config: Arc::new(self.config.clone()),
            slow: self.config.telemetry.enabled.then(|| self.slow.clone()),
            tails: tails.clone(),
        };
        let api_stop = CancellationToken::new();
        let api_server = api_listener.map(|listener| {
            let served = api::serve(listener, api, &self.config.http, api_stop.clone());
            tokio::spawn(served)
        });
        BackgroundTasks {
            in_flight,
            keepalive: tokio::spawn(keepalive.run(keepalive_stop.clone())),
            keepalive_stop,
            api_server,
            api_stop,
            tails,
        }
    }

    fn start_nats_tasks(&self, nats_handles: &NatsHandles, in_flight: &Arc<InFlight>) {
        let lag = Lag {
            jetstream: nats_handles.jetstream.clone(),
            consumer_watch: nats_handles.consumer_watch.clone(),
            in_flight: in_flight.clone(),
            metrics: self.metrics.clone(),
            config: self.config.clone(),
        };
        tokio::spawn(lag.run(self.stop_background.clone()));
        let bucket = nats_handles.bucket.clone();
        tokio::spawn(sweep::run(bucket, self.stop_background.clone()));
        let (shutdown, stop) = (self.shutdown.clone(), self.stop.clone());
        let (watch, health) = (nats_handles.consumer_watch.clone(), self.health.clone());
        // If somebody changes the consumer so that it breaks a promise, shut down as after a signal.
        // ganesh stores what it holds first: such a consumer might never redeliver it.
        tokio::spawn(async move {
            watch.violated().await;
            shutdown.begin();
            health.set_stopping();
            stop.cancel();
        });
    }

    /// Runs until every task has ended. After `stop`, at most until [`Step::Drain`].
    async fn run_pipeline(&self, resources: Resources) -> Result<(), Error> {
        let http = &self.config.http;
        self.health.set_serving();
        let api = http
            .api_addr
            .map_or("off".to_owned(), |address| address.to_string());
        tracing::info!(api, admin = %http.admin_addr, "serving");
        let mut tasks = pipeline::spawn(resources, &self.stop);
        let deadline = async {
            self.stop.cancelled().await;
            tracing::info!(
                "shutting down: no more fetching, what is held is stored and acknowledged"
            );
            tokio::time::sleep_until(self.shutdown.deadline(Step::Drain).into()).await;
        };
        let result = tokio::select! {
            result = pipeline::supervise(&mut tasks, &self.stop) => result,
            () = deadline => {
                tracing::warn!("the grace period ends: releasing what is not stored");
                Ok(())
            }
        };
        // Needed after a fatal error, which comes without a signal.
        self.health.set_stopping();
        // Dropped messages are released by the keepalive, so every task has to end before it does.
        tasks.shutdown().await;
        result
    }

    /// Flushes the last acks and NAKs, stops the API, then the background tasks.
    async fn drain(&self, client: &async_nats::Client, tasks: BackgroundTasks) {
        tasks.keepalive_stop.cancel();
        let ended = async {
            let _ = tasks.keepalive.await;
            let _ = client.flush().await;
        };
        let until = self.shutdown.deadline(Step::Flush);
        let flushed = until.min(Instant::now() + FLUSH_TIMEOUT);
        if tokio::time::timeout_at(flushed.into(), ended)
            .await
            .is_err()
        {
            tracing::warn!("NATS did not take the last acknowledgements in time");
        }
        tasks.tails.end();
        // Running requests are answered first.
        tasks.api_stop.cancel();
        if let Some(server) = tasks.api_server {
            let _ = tokio::time::timeout_at(until.into(), server).await;
        }
        tracing::info!(held = tasks.in_flight.count(), "stopped");
        self.stop_background.cancel();
    }

    fn client_crashed(&self, readable: &KnownReadable) -> Failure {
        tracing::error!(
            "the NATS client broke down, as it does on a header value with a carriage return: starting \
             again, unless told to stop, and looking for the message"
        );
        Failure::ClientCrashed {
            stop: self.stop.clone(),
            readable: readable.to_text(),
        }
    }

    /// Returns at once after a signal during start-up. Once ganesh serves, it returns only when the shutdown
    /// exceeds the grace period.
    async fn stopped_before_start(&self) {
        self.stop.cancelled().await;
        if self.health.has_served() {
            tokio::time::sleep_until(self.shutdown.deadline(Step::Flush).into()).await;
            tracing::error!("the shutdown took longer than the grace period leaves for it");
        } else {
            tracing::info!("stopped before it served");
        }
    }
}

async fn bind(variable: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{variable}={address}: cannot listen there"))
        .map_err(Failure::Running)
}
