//! NATS, Postgres and Redis for one test.

use std::sync::atomic::{AtomicU32, Ordering};

use async_nats::jetstream;
use async_nats::jetstream::stream::Config as StreamConfig;
use sqlx::postgres::{PgExecutor, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::servers::{self, Server};
use super::{Ganesh, eventually};

/// The servers of one test. Everything ends when it is dropped.
pub struct Stack {
    /// NATS with JetStream.
    pub nats: Server,
    /// Redis.
    pub cache: Server,
    /// Postgres when the test stops it; otherwise all tests share one.
    pub postgres: Option<Server>,
    /// The test's database.
    pub database_url: String,
    /// Connections of the test itself.
    pub pool: PgPool,
}

impl Stack {
    /// Servers for a test that does not stop Postgres.
    pub async fn start() -> Self {
        Self::with_postgres(None, new_database().await).await
    }

    /// Servers for a test that stops Postgres.
    pub async fn start_with_own_postgres() -> Self {
        Self::start_on(servers::postgres()).await
    }

    /// The same on this Postgres, for a test that has it set up in a way of its own.
    pub async fn start_on(postgres: Server) -> Self {
        let database_url = url(postgres.port(), "ganesh");
        wait_for_postgres(&database_url).await;
        Self::with_postgres(Some(postgres), database_url).await
    }

    async fn with_postgres(postgres: Option<Server>, database_url: String) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect(&database_url)
            .await
            .unwrap();
        Self {
            nats: Server::start("nats", &[]),
            cache: Server::start("dragonfly", &[("SNAPSHOT", "1")]),
            postgres,
            database_url,
            pool,
        }
    }

    /// Where NATS is.
    pub fn nats_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.nats.port())
    }

    /// Where Redis is.
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.cache.port())
    }

    /// `ganesh serve` against these servers, ready.
    pub async fn serve(&self, settings: &[(&str, &str)]) -> Ganesh {
        let ganesh = Ganesh::serve(self, settings);
        ganesh.wait_until_ready().await;
        ganesh
    }

    /// A JetStream client of the test's own.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.nats_url()).await.unwrap())
    }

    /// Makes the streams and the consumer without a `serve`.
    pub async fn make_streams(&self) {
        self.serve(&[]).await.terminate().await;
    }

    /// Rows in `events`.
    pub async fn rows(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM events")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// Waits until `events` has at least so many rows.
    pub async fn wait_for_rows(&self, at_least: i64) {
        eventually(&format!("{at_least} rows"), || async {
            self.rows().await >= at_least
        })
        .await;
    }

    /// Locks a table until the transaction ends.
    pub async fn lock(&self, table: &str, mode: &str) -> Transaction<'static, Postgres> {
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::query(&format!("LOCK TABLE {table} IN {mode} MODE"))
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction
    }

    /// Waits until everybody who writes to `events` waits for a lock that a test holds.
    pub async fn wait_until_writers_wait(&self) {
        let writing = "SELECT count(*) > 0 AND bool_and(wait_event_type = 'Lock') \
             FROM pg_stat_activity WHERE datname = current_database() \
             AND state = 'active' AND (query LIKE 'COPY events%' OR query LIKE 'INSERT INTO events%')";
        eventually("the writers wait for the lock", || async {
            let waits: Option<bool> = sqlx::query_scalar(writing)
                .fetch_one(&self.pool)
                .await
                .unwrap();
            waits == Some(true)
        })
        .await;
    }

    /// Messages in the dead-letter stream.
    pub async fn dead_letters(&self) -> u64 {
        let jetstream = self.jetstream().await;
        let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
        stream.cached_info().state.messages
    }

    /// Lets the dead-letter stream have so many messages; -1 is any number.
    pub async fn limit_dead_letters(&self, max_messages: i64) {
        let jetstream = self.jetstream().await;
        let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
        let config = StreamConfig {
            max_messages,
            ..stream.cached_info().config.clone()
        };
        jetstream.update_stream(config).await.unwrap();
    }

    /// Messages that the consumer has not settled: not delivered, or not acknowledged.
    pub async fn backlog(&self) -> u64 {
        let jetstream = self.jetstream().await;
        let stream = jetstream.get_stream("EVENTS").await.unwrap();
        self.backlog_of(&stream).await
    }

    /// The same, where the stream is asked often.
    pub async fn backlog_of(&self, stream: &jetstream::stream::Stream) -> u64 {
        let last = stream.get_info().await.unwrap().state.last_sequence;
        let info = stream.consumer_info("ganesh").await.unwrap();
        let open = info.num_pending + info.num_ack_pending as u64;
        // The server counts a message as pending a moment after it acknowledged its publish.
        let uncounted = last.saturating_sub(info.delivered.stream_sequence);
        open.max(uncounted)
    }

    /// Waits until nothing is pending and nothing unacknowledged.
    pub async fn wait_until_drained(&self) {
        eventually("the backlog is empty", || async {
            self.backlog().await == 0
        })
        .await;
    }
}

/// An empty database on the Postgres that tests share.
pub async fn new_database() -> String {
    static DATABASES: AtomicU32 = AtomicU32::new(0);
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    let database = format!("test_{number}");
    let port = servers::shared_postgres_port();
    let admin = url(port, "ganesh");
    wait_for_postgres(&admin).await;
    let mut connection = PgConnection::connect(&admin).await.unwrap();
    sqlx::query(&format!("CREATE DATABASE {database}"))
        .execute(&mut connection)
        .await
        .unwrap();
    url(port, &database)
}

/// Ends every session of ganesh with this database.
pub async fn kill_sessions<'a>(executor: impl PgExecutor<'a>) {
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name = 'ganesh'";
    sqlx::query(kill).execute(executor).await.unwrap();
}

/// The same database as the role of deploy/postgres/roles.sql that reads.
pub fn read_url(url: &str) -> String {
    url.replace("ganesh:ganesh@", "reader:reader@")
}

fn url(port: u16, database: &str) -> String {
    format!("postgresql://ganesh:ganesh@127.0.0.1:{port}/{database}")
}

/// It listens a moment before it answers.
async fn wait_for_postgres(url: &str) {
    eventually("Postgres answers", || async {
        PgConnection::connect(url).await.is_ok()
    })
    .await;
}
