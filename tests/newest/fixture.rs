//! Processes' caches without the processes, where a race must be forced: one database, cache
//! servers, and as many [`Cache`]s as there would be processes.

use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use ganesh::cache::{Answer, Cache, NewestState, Origin};
use ganesh::config::{CacheConfig, PartitionInterval, SecretUrl};
use ganesh::event::TraceId;
use ganesh::event::{Data, Event, Timestamp};
use ganesh::storage::queries::Reads;
use ganesh::storage::{EventWriter, Row, WriteOptions, epoch, schema};
use ganesh::telemetry::{Health, Metrics};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::PATIENCE;
use crate::support::cache_server::ask;
use crate::support::reads::{ago, of};
use crate::support::servers::Server;
use crate::support::stack::new_database;

/// While somebody holds this advisory lock, a slow process's queries do not return.
const SLOW_LOCK: i64 = 42;

pub struct Fixture {
    pub server: Server,
    pub pool: PgPool,
    url: String,
    metrics: Metrics,
    stops: Vec<DropGuard>,
}

impl Fixture {
    pub async fn start() -> Self {
        let url = new_database().await;
        let pool = pool(&url, "public").await;
        schema::migrate(&pool).await.unwrap();
        Self {
            server: Server::start("dragonfly", &[("SNAPSHOT", "1")]),
            pool,
            url,
            metrics: Metrics::default(),
            stops: Vec::new(),
        }
    }

    /// The cache of one more process, connected.
    pub async fn process(&mut self) -> Cache {
        let port = self.server.port();
        self.process_at(port).await
    }

    /// The same, with a cache server of its own.
    pub async fn process_at(&mut self, port: u16) -> Cache {
        let pool = pool(&self.url, "public").await;
        self.process_with(port, pool).await
    }

    /// A process whose queries take their snapshot of the rows and then hang, for as long as
    /// [`Fixture::hold_slow_queries`] says.
    pub async fn slow_process(&mut self) -> Cache {
        let view = format!(
            "CREATE SCHEMA slow CREATE VIEW slow.events AS SELECT * FROM public.events \
             WHERE (SELECT true FROM pg_advisory_lock_shared({SLOW_LOCK}))"
        );
        sqlx::query(&view).execute(&self.pool).await.unwrap();
        let pool = pool(&self.url, "slow,public").await;
        let port = self.server.port();
        self.process_with(port, pool).await
    }

    async fn process_with(&mut self, port: u16, pool: PgPool) -> Cache {
        let url = SecretUrl::new(format!("redis://127.0.0.1:{port}"));
        let config = CacheConfig::plain(url, Duration::from_mins(10));
        let reads = Reads::new(pool.clone(), PartitionInterval::Day);
        let health = Health::new(self.metrics.clone());
        let cache = Cache::new(&config, pool, reads, self.metrics.clone(), health).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(cache.clone().run(stop.clone()));
        self.stops.push(stop.drop_guard());
        until_usable(&cache, true).await;
        until_all_go_by_its_epoch().await;
        cache
    }

    /// From here on, until the guard is dropped, a slow process's queries hang.
    pub async fn hold_slow_queries(&self) -> PgPool {
        let holder = pool(&self.url, "public").await;
        sqlx::query("SELECT pg_advisory_lock($1)")
            .bind(SLOW_LOCK)
            .execute(&holder)
            .await
            .unwrap();
        holder
    }

    /// Waits until a slow process's query hangs, its snapshot taken.
    pub async fn until_a_query_hangs(&self) {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        for _ in 0..1_000 {
            let waiting: i64 = sqlx::query_scalar(waiting)
                .fetch_one(&self.pool)
                .await
                .unwrap();
            if waiting > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no query hangs");
    }

    /// Commits the event `n` of a subject, and does no more: the process dies here.
    pub async fn commit(&self, subject: &str, n: i64) {
        self.commit_event(&numbered(subject, n), n, false).await;
    }

    async fn commit_event(&self, event: &Event, n: i64, advance_epoch: bool) {
        let row = Row {
            event,
            stream: "EVENTS",
            nats_subject: "events.test",
            stream_seq: seq(n),
            published_at: event.time,
            trace_id: TraceId::of_message(None, "EVENTS", seq(n), event.time),
        };
        let writer = EventWriter::new(self.pool.clone(), self.metrics.clone());
        let options = WriteOptions {
            advance_epoch,
            ..WriteOptions::default()
        };
        writer.write(&[row], &mut [None], options).await.unwrap();
    }

    /// Stores the event `n` of a subject as the pipeline of a process does. When this returns,
    /// the process acknowledges.
    pub async fn put(&self, process: &Cache, subject: &str, n: i64) {
        self.put_event(process, &numbered(subject, n), n).await;
    }

    /// The same with an event of the caller's.
    pub async fn put_event(&self, process: &Cache, event: &Event, n: i64) {
        let advance = !process.is_usable();
        self.commit_event(event, n, advance).await;
        let states = [state(event, n)];
        process.write_committed(&states, advance).await.unwrap();
    }

    pub async fn epoch(&self) -> i64 {
        epoch::read(&self.pool).await.unwrap().epoch
    }

    /// What stands under the key of this name in the cache server.
    pub async fn stored(&self, key: &str) -> Option<String> {
        let stored: Option<Vec<u8>> = ask(&self.server, &["GET", key]).await;
        stored.map(|stored| String::from_utf8(stored).unwrap())
    }

    /// The key of a subject as of now.
    pub async fn key(&self, subject: &str) -> String {
        let row = epoch::read(&self.pool).await.unwrap();
        format!("{}:{}:latest:{subject}", row.database, row.epoch)
    }
}

/// A process that starts advances the epoch; those that run go by the one before for up to a second.
pub async fn until_all_go_by_its_epoch() {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
}

async fn pool(url: &str, search_path: &str) -> PgPool {
    let options = PgConnectOptions::from_str(url).unwrap();
    PgPoolOptions::new()
        .max_connections(8)
        .connect_with(options.options([("search_path", search_path)]))
        .await
        .unwrap()
}

fn seq(n: i64) -> u64 {
    u64::try_from(n).unwrap()
}

/// The `n`th event of a subject, in time and in the stream.
pub fn numbered(subject: &str, n: i64) -> Event {
    // Recent, so that a slow process hangs in the query that finds it.
    static BEGAN: OnceLock<Timestamp> = OnceLock::new();
    let began = BEGAN.get_or_init(|| ago(60_000));
    let time = Timestamp::from_micros(began.micros() + n);
    Event {
        data: Data::Json(format!("{{\"n\":{n}}}").into()),
        ..of(subject, &format!("{subject}-{n}"), time)
    }
}

pub fn state(event: &Event, n: i64) -> NewestState<'_> {
    NewestState {
        subject: event.subject.as_deref().unwrap(),
        event,
        stream_seq: seq(n),
        invalidate: false,
    }
}

pub async fn until_usable(process: &Cache, usable: bool) {
    let started = std::time::Instant::now();
    while process.is_usable() != usable {
        assert!(started.elapsed() < PATIENCE, "usable: never {usable}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The number of the event that was answered; 0: none.
pub fn n_of(answer: &Answer) -> i64 {
    answer.event.as_ref().map_or(0, |event| {
        let event: serde_json::Value = serde_json::from_slice(event).unwrap();
        event["data"]["n"].as_i64().unwrap()
    })
}

/// Reads; again while the process does not know the epoch, because it had to wait for the machine.
pub async fn read(process: &Cache, subject: &str) -> (i64, Origin) {
    for _ in 0..200 {
        let answer = process.latest(subject).await.unwrap();
        if answer.origin != Origin::Bypass {
            return (n_of(&answer), answer.origin);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the cache is not used");
}

/// Whether the answer is in the cache: on a busy machine one that was to be filled may not be.
pub fn is_kept(origin: Origin) -> bool {
    matches!(origin, Origin::Hit { .. } | Origin::Miss { stored: true })
}

/// Reads what must be in the cache.
pub async fn hit(process: &Cache, subject: &str) -> i64 {
    let (n, origin) = read(process, subject).await;
    assert!(matches!(origin, Origin::Hit { .. }), "{n} {origin:?}");
    n
}

/// Reads what must not be in the cache, and is afterwards.
pub async fn miss(process: &Cache, subject: &str) -> i64 {
    let (n, origin) = read(process, subject).await;
    assert_eq!(origin, Origin::Miss { stored: true }, "{n}");
    n
}
