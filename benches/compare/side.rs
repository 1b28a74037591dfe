//! One of the two builds, with its servers.

use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;

use crate::drain::{cpu_seconds, scrape, start_over, wait_until_empty};
use crate::support::collector::Collector;
use crate::support::proxy::{Manner, Proxy, Way};
use crate::support::{Ganesh, Stack, ganesh, servers};

/// What comes before this belongs to the start.
const WARM_UP_SECS: u64 = 2;

pub struct Side {
    program: String,
    producer: String,
    settings: Vec<(&'static str, String)>,
    stack: Stack,
    stream: Stream,
}

/// A flow at a constant rate.
pub struct Flow {
    pub sent_per_second: f64,
    /// From the stream to the commit: the median, the 95th and the 99th percentile.
    pub millis: [f64; 3],
    pub cpu: [f64; 3],
}

/// A full stream, drained.
pub struct Drained {
    pub messages_per_second: f64,
    pub cpu: [f64; 3],
}

impl Side {
    pub async fn start(program: &str, producer: &str, collector: &Collector) -> Self {
        let keep_commit_times = [("POSTGRES_ARGS", "-c track_commit_timestamp=on")];
        let stack = Stack::start_on(servers::postgres_with(&keep_commit_times)).await;
        let settings = collector.settings().into_iter();
        let settings: Vec<_> = settings
            .map(|(name, value)| (name, value.to_owned()))
            .collect();
        // It makes the streams and the consumer.
        let ganesh = serve(program, &stack, &settings).await;
        assert!(ganesh.terminate().await.success());
        let stream = stack.jetstream().await.get_stream("EVENTS").await.unwrap();
        Self {
            program: program.to_owned(),
            producer: producer.to_owned(),
            settings,
            stack,
            stream,
        }
    }

    /// Fills the stream, which is empty then but for these.
    pub async fn fill(&self, messages: u64) {
        self.stream.purge().await.unwrap();
        self.produce(&["--rate", "0", "--count", &messages.to_string()]);
    }

    fn produce(&self, arguments: &[&str]) {
        let arguments = [&["produce", "--seed", "1"], arguments].concat();
        let mut command = ganesh::command_of(&self.producer, &self.stack, &arguments, &[]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
    }

    /// Messages come at a rate for a while, into an empty stream and an empty table.
    pub async fn flow(&self, rate: u64, time: Duration) -> Flow {
        self.stream.purge().await.unwrap();
        start_over(&self.stack).await;
        let ganesh = serve(&self.program, &self.stack, &self.settings).await;
        let scraping = tokio::spawn(scrape(ganesh.admin_url("/metrics")));
        let before = self.cpu(Some(&ganesh));
        let (rate, time) = (rate.to_string(), format!("{}s", time.as_secs()));
        tokio::task::block_in_place(|| self.produce(&["--rate", &rate, "--duration", &time]));
        wait_until_empty(&self.stack, &self.stream).await;
        let after = self.cpu(Some(&ganesh));
        scraping.abort();
        assert!(ganesh.terminate().await.success());
        let messages = self.assert_each_message_is_a_row().await;
        let percentiles = format!(
            "SELECT percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY \
             extract(epoch FROM pg_xact_commit_timestamp(xmin) - published_at)::float8 * 1000) \
             FROM events WHERE published_at > \
             (SELECT min(published_at) FROM events) + interval '{WARM_UP_SECS} s'"
        );
        let millis: Vec<f64> = self.ask(&percentiles).await;
        let came = "SELECT extract(epoch FROM max(published_at) - min(published_at))::float8 \
             FROM events";
        let seconds: f64 = self.ask(came).await;
        Flow {
            sent_per_second: messages as f64 / seconds,
            millis: millis.try_into().expect("as many as were asked for"),
            cpu: per_message(before, after, messages),
        }
    }

    /// Drains the stream from its start into an empty table, with a cache that answers so late.
    pub async fn drain(&self, messages: u64, late: Duration) -> Drained {
        start_over(&self.stack).await;
        let mut settings = self.settings.clone();
        if !late.is_zero() {
            let proxy = Proxy::forgetful(self.stack.cache.port()).await;
            proxy.behave_one_way(Way::ToClient, Manner::Delay(late));
            settings.push(("REDIS_URL", format!("redis://127.0.0.1:{}", proxy.port)));
        }
        let before = self.cpu(None);
        let ganesh = serve(&self.program, &self.stack, &settings).await;
        let scraping = tokio::spawn(scrape(ganesh.admin_url("/metrics")));
        wait_until_empty(&self.stack, &self.stream).await;
        let after = self.cpu(Some(&ganesh));
        scraping.abort();
        assert!(ganesh.terminate().await.success());
        assert_eq!(self.assert_each_message_is_a_row().await, messages);
        // From the first commit on: how soon a build begins is not its rate.
        let rate = "WITH commits AS ( \
                 SELECT pg_xact_commit_timestamp(xmin) AS at, count(*) AS rows \
                 FROM events GROUP BY xmin), \
             ends AS (SELECT min(at) AS first, max(at) AS last FROM commits) \
             SELECT (sum(rows) FILTER (WHERE at > first) \
                 / extract(epoch FROM max(last) - min(first)))::float8 \
             FROM commits, ends";
        Drained {
            messages_per_second: self.ask(rate).await,
            cpu: per_message(before, after, messages),
        }
    }
    /// The events in the stream, each of which is one row, and none a dead letter.
    async fn assert_each_message_is_a_row(&self) -> u64 {
        let messages = self.stream.get_info().await.unwrap().state.messages;
        assert_eq!(self.stack.rows().await, i64::try_from(messages).unwrap());
        assert_eq!(self.stack.dead_letters().await, 0);
        messages
    }

    async fn ask<T>(&self, query: &str) -> T
    where
        T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
    {
        let asked = sqlx::query_scalar(query).fetch_one(&self.stack.pool);
        asked.await.unwrap()
    }

    /// Seconds that ganesh (if it runs), Postgres and NATS have taken.
    fn cpu(&self, ganesh: Option<&Ganesh>) -> [f64; 3] {
        let postgres = self.stack.postgres.as_ref().expect("each side has its own");
        [
            ganesh.map_or(0.0, |ganesh| cpu_seconds(&[ganesh.pid()])),
            cpu_seconds(&postgres.family()),
            cpu_seconds(&self.stack.nats.family()),
        ]
    }
}

async fn serve(program: &str, stack: &Stack, settings: &[(&'static str, String)]) -> Ganesh {
    let settings: Vec<_> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let ganesh = Ganesh::serve_of(program, stack, &settings);
    ganesh.wait_until_ready().await;
    ganesh
}

/// Microseconds.
fn per_message(before: [f64; 3], after: [f64; 3], messages: u64) -> [f64; 3] {
    [0, 1, 2].map(|process| (after[process] - before[process]) * 1e6 / messages as f64)
}
