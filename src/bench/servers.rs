//! The servers of the bench, which nobody else uses: what they are set to, and what is in them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_nats::jetstream;
use async_nats::jetstream::stream::Stream;
use redis::aio::MultiplexedConnection;
use sqlx::Executor;
use sqlx::postgres::PgPool;

use super::report::Durability;
use crate::config::{Config, PostgresConfig};
use crate::messaging::connection;
use crate::storage::{partitions, pool, schema};
use crate::telemetry::Metrics;

/// Tables of the same definition, for what is measured without ganesh.
const OTHER_SCHEMA: &str = "ganesh_bench";
const MIGRATION_LIMIT: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Nothing was acknowledged for so long: something hangs.
const STANDSTILL: Duration = Duration::from_secs(60);

/// Connections to them.
pub(crate) struct BenchServers {
    pub(super) client: async_nats::Client,
    jetstream: jetstream::Context,
    /// `GANESH_STREAM`.
    stream: String,
    /// `GANESH_CONSUMER`.
    consumer: String,
    /// The tables of `serve`.
    pub(super) pool: PgPool,
    /// Those of the bench itself.
    pub(super) other_pool: PgPool,
    other: PostgresConfig,
    pub(super) cache: MultiplexedConnection,
}

impl BenchServers {
    /// Connects. Says instead why these servers must not be used, if that is so.
    ///
    /// # Errors
    /// When one does not answer.
    pub(crate) async fn connect(config: &Config) -> anyhow::Result<Result<Self, String>> {
        let client = connection::connect_aside("ganesh bench", &config.nats).await?;
        let pool = lazy(&config.postgres)?;
        let other = PostgresConfig {
            schema: OTHER_SCHEMA.to_owned(),
            ..config.postgres.clone()
        };
        let servers = Self {
            jetstream: jetstream::new(client.clone()),
            client,
            stream: config.nats.stream.clone(),
            consumer: config.nats.consumer.clone(),
            pool,
            other_pool: lazy(&other)?,
            other,
            cache: redis::Client::open(config.cache.url.expose())?
                .get_multiplexed_async_connection()
                .await
                .context("REDIS_URL")?,
        };
        if let Some(why) = servers.unfit(&config.postgres.schema).await? {
            return Ok(Err(why));
        }
        Ok(Ok(servers))
    }

    /// Makes the bench's own tables. `serve` would take them for its own, if it found only these.
    pub(super) async fn make_own_tables(&self) -> anyhow::Result<()> {
        schema::migrate_within(&self.other_pool, OTHER_SCHEMA, MIGRATION_LIMIT).await?;
        partitions::upkeep(&self.other_pool, &self.other).await?;
        Ok(())
    }

    /// The bench empties tables and streams, so nothing may be in them.
    async fn unfit(&self, schema: &str) -> anyhow::Result<Option<String>> {
        let own = "the bench needs servers of its own (`make bench` starts them)";
        if self.jetstream.get_stream(&self.stream).await.is_ok() {
            return Ok(Some(format!("stream {} exists: {own}", self.stream)));
        }
        let taken = "SELECT to_regclass(quote_ident($1) || '.events') IS NOT NULL \
             OR to_regnamespace($2) IS NOT NULL";
        let taken: bool = sqlx::query_scalar(taken)
            .bind(schema)
            .bind(OTHER_SCHEMA)
            .fetch_one(&self.pool)
            .await?;
        if taken {
            let what = format!("table {schema}.events or schema {OTHER_SCHEMA} exists");
            return Ok(Some(format!("{what}: {own}")));
        }
        let kept = setting(&self.pool, "track_commit_timestamp").await?;
        Ok((kept != "on").then(|| {
            "track_commit_timestamp is off in Postgres: expected on, as rates and latencies come from the times of \
             commits"
                .to_owned()
        }))
    }

    pub(super) async fn stream(&self) -> anyhow::Result<Stream> {
        let stream = self.jetstream.get_stream(&self.stream).await;
        stream.with_context(|| format!("stream {}", self.stream))
    }

    /// What a crash or a power failure may cost with these settings.
    pub(super) async fn durability(&self) -> anyhow::Result<Durability> {
        Ok(Durability {
            fsync: setting(&self.pool, "fsync").await?,
            synchronous_commit: setting(&self.pool, "synchronous_commit").await?,
            nats_server: self.client.server_info().version,
            postgres: setting(&self.pool, "server_version").await?,
        })
    }

    /// Empties the tables of `serve`, and lets its consumer begin again.
    pub(super) async fn start_over(&self) -> anyhow::Result<()> {
        self.pool.execute("TRUNCATE events").await?;
        // The first time there is none.
        let _ = self.stream().await?.delete_consumer(&self.consumer).await;
        Ok(())
    }

    /// Waits until each message of the stream is acknowledged.
    pub(super) async fn wait_until_drained(&self) -> anyhow::Result<()> {
        let (mut last, mut moved_at) = (u64::MAX, Instant::now());
        loop {
            let waiting = self.waiting().await?;
            if waiting == 0 {
                return Ok(());
            }
            if waiting != last {
                (last, moved_at) = (waiting, Instant::now());
            }
            ensure!(
                moved_at.elapsed() < STANDSTILL,
                "{waiting} messages wait, and none was acknowledged for {STANDSTILL:?}"
            );
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Messages that `serve` has not acknowledged.
    pub(super) async fn waiting(&self) -> anyhow::Result<u64> {
        let stream = self.stream().await?;
        match stream.consumer_info(&self.consumer).await {
            Ok(info) => Ok(info.num_pending + info.num_ack_pending as u64),
            // It is made in a moment.
            Err(_) => Ok(stream.cached_info().state.messages),
        }
    }

    pub(super) async fn expect_rows(&self, pool: &PgPool, messages: u64) -> anyhow::Result<()> {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
            .fetch_one(pool)
            .await?;
        ensure!(
            u64::try_from(rows) == Ok(messages),
            "{messages} messages became {rows} rows: expected one row of each"
        );
        Ok(())
    }

    /// Rows a second from the first commit to the last: how soon somebody begins is not a rate.
    pub(super) async fn committed_per_second(&self, pool: &PgPool) -> anyhow::Result<f64> {
        let rate = "WITH commits AS ( \
                 SELECT pg_xact_commit_timestamp(xmin) AS at, count(*) AS rows FROM events GROUP BY xmin), \
             ends AS (SELECT min(at) AS first, max(at) AS last FROM commits) \
             SELECT (sum(rows) FILTER (WHERE at > first) \
                 / nullif(extract(epoch FROM max(last) - min(first)), 0))::float8 \
             FROM commits, ends";
        let rate: Option<f64> = sqlx::query_scalar(rate).fetch_one(pool).await?;
        rate.context("one commit has no rate: expected more messages")
    }
}

fn lazy(config: &PostgresConfig) -> Result<PgPool, sqlx::Error> {
    pool::lazy(config, 2, &Metrics::default(), |_| {})
}

async fn setting(pool: &PgPool, name: &str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT current_setting($1)")
        .bind(name)
        .fetch_one(pool)
        .await
}
