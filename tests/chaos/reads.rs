//! P5 while faults happen: a read that starts a second after an event was acknowledged never gets an
//! older state of its subject.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use futures::future::join_all;
use ganesh::event::Timestamp;
use ganesh::produce::events::{Events, subject_name};
use reqwest::StatusCode;
use serde_json::Value;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;

/// Subjects of the producer's events.
pub const SUBJECTS: u32 = 500;
const ROUND_EVERY: Duration = Duration::from_millis(250);
const READS_PER_ROUND: usize = 12;
const ALLOWED: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads newest states of what the producer sends.
pub struct Reader {
    /// Of every replica.
    pub apis: Vec<String>,
    /// Where the acknowledgements are.
    pub jetstream: Context,
    /// What must be shown.
    pub pool: PgPool,
}

impl Reader {
    /// Reads until it is told to stop. Returns how many answers were compared.
    ///
    /// # Panics
    /// When a read was stale.
    pub async fn run(self, stop: CancellationToken) -> usize {
        let http = reqwest::Client::builder().timeout(ANSWER_TIMEOUT);
        let http = http.build().unwrap();
        let reader = Arc::new(self);
        let mut rounds = JoinSet::new();
        let mut tick = interval(ROUND_EVERY);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let (reader, http) = (Arc::clone(&reader), http.clone());
            rounds.spawn(async move { reader.round(&http).await });
        }
        rounds.join_all().await.into_iter().sum()
    }

    /// Nothing is compared while NATS does not say what was acknowledged.
    async fn round(&self, http: &reqwest::Client) -> usize {
        let Some(acknowledged) = self.acknowledged().await else {
            return 0;
        };
        sleep(ALLOWED).await;
        let apis = self.apis.iter().cycle().take(READS_PER_ROUND);
        let reads = apis.map(|api| self.is_compared(http, api, acknowledged));
        let compared = join_all(reads).await;
        compared.into_iter().filter(|compared| *compared).count()
    }

    /// Every message up to this one was acknowledged.
    async fn acknowledged(&self) -> Option<i64> {
        let stream = self.jetstream.get_stream_no_info("EVENTS").await.ok()?;
        let info = stream.consumer_info("ganesh").await.ok()?;
        i64::try_from(info.ack_floor.stream_sequence).ok()
    }

    /// Reads a subject, a busy one more often. False while the replica or Postgres does not answer.
    async fn is_compared(&self, http: &reqwest::Client, api: &str, acknowledged: i64) -> bool {
        let subject = subject_name(Events::new(0, SUBJECTS, 1).rank(rand::random()));
        let url = format!("{api}/v1/subjects/{subject}/latest");
        let Ok(shown) = newest(http, &url).await else {
            return false;
        };
        let statement = "SELECT (extract(epoch FROM time) * 1000000)::bigint FROM events \
            WHERE subject = $1 AND stream_seq <= $2 ORDER BY time DESC, stream_seq DESC LIMIT 1";
        let newest: Result<Option<i64>, _> = sqlx::query_scalar(statement)
            .bind(&subject)
            .bind(acknowledged)
            .fetch_optional(&self.pool)
            .await;
        let Ok(newest) = newest else {
            return false;
        };
        let newest = newest.map(Timestamp::from_micros);
        assert!(
            shown >= newest,
            "stale: {url} showed {shown:?} a second after {newest:?} was acknowledged"
        );
        newest.is_some()
    }
}

/// The time of the newest event that a replica shows.
async fn newest(http: &reqwest::Client, url: &str) -> reqwest::Result<Option<Timestamp>> {
    let answer = http.get(url).send().await?;
    if answer.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let event: Value = answer.error_for_status()?.json().await?;
    Ok(event["time"].as_str().and_then(Timestamp::parse_rfc3339))
}
