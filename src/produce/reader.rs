//! Reads newest states over HTTP, at a rate of its own, and has them judged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, jetstream};
use percent_encoding::utf8_percent_encode;
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use super::events::subject_name;
use super::freshness::{Freshness, WATCHED_SUBJECTS};
use super::options::Options;
use super::pacer::{Pace, Pacer};
use super::publisher::{Publisher, lock};
use super::random::{Purpose, Random};
use super::report::ReadCounts;
use crate::api::ENCODED;
use crate::config::{Config, Secret};
use crate::event::Timestamp;

/// Reads that wait for their answer, at most.
const READS_IN_FLIGHT: u32 = 64;
/// A read without an answer by then is an error.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the consumer's acknowledgement floor is read.
const ASK_FLOOR_EVERY: Duration = Duration::from_millis(250);
/// Picks until one is of a watched subject.
const PICKS: usize = 8;

/// Reads subjects that are sent.
#[derive(Debug)]
pub(super) struct StateReader {
    http: reqwest::Client,
    jetstream: jetstream::Context,
    stream: String,
    consumer: String,
    api_url: String,
    token: Option<Secret>,
    seed: u64,
    publisher: Arc<Publisher>,
    freshness: Arc<Mutex<Freshness>>,
    reads: Mutex<ReadCounts>,
    permits: Arc<Semaphore>,
}

/// The part of an event in `CloudEvents`' JSON format that matters here.
#[derive(Deserialize)]
struct StateTime {
    time: String,
}

impl StateReader {
    pub(super) fn new(
        config: &Config,
        options: &Options,
        client: Client,
        seed: u64,
        publisher: Arc<Publisher>,
        freshness: Arc<Mutex<Freshness>>,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: reqwest::Client::builder().timeout(READ_TIMEOUT).build()?,
            jetstream: jetstream::new(client),
            stream: config.nats.stream.clone(),
            consumer: config.nats.consumer.clone(),
            api_url: options.api_url.clone(),
            token: config.http.api_token.clone(),
            seed,
            publisher,
            freshness,
            reads: Mutex::default(),
            permits: Arc::new(Semaphore::new(
                usize::try_from(READS_IN_FLIGHT).expect("a small number"),
            )),
        })
    }

    /// Reads on schedule, for as long as it is polled.
    pub(super) async fn read_all(self: &Arc<Self>, rate_per_second: u32) {
        let mut pacer = Pacer::new(rate_per_second);
        let mut number = 0;
        loop {
            match pacer.next(self.publisher.now()) {
                Pace::Wait(until) => {
                    tokio::time::sleep_until(self.publisher.instant(until)).await;
                }
                Pace::Due(scheduled) => {
                    number += 1;
                    if let Some(rank) = self.pick(number) {
                        self.start(rank, scheduled).await;
                    }
                }
            }
        }
    }

    /// Reads the consumer's acknowledgement floor, for as long as it is polled.
    pub(super) async fn watch_floor(&self) {
        let mut tick = tokio::time::interval(ASK_FLOOR_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mention = true;
        loop {
            tick.tick().await;
            match self.floor().await {
                Ok(floor) => lock(&self.freshness).acknowledged(floor, self.publisher.now()),
                Err(error) if std::mem::take(&mut mention) => tracing::warn!(
                    consumer = self.consumer,
                    error = format!("{error:#}"),
                    "cannot ask what the service has acknowledged: until then no read is called stale"
                ),
                Err(_) => {}
            }
        }
    }

    async fn floor(&self) -> anyhow::Result<u64> {
        let stream = self.jetstream.get_stream_no_info(&self.stream).await?;
        let info = stream.consumer_info(&self.consumer).await?;
        Ok(info.ack_floor.stream_sequence)
    }

    /// Waits until every read that was started has ended, and hands over what they
    /// counted.
    pub(super) async fn finish(&self) -> ReadCounts {
        // The semaphore is never closed; an error could only mean that nobody reads.
        let _ = self.permits.acquire_many(READS_IN_FLIGHT).await;
        std::mem::take(&mut *lock(&self.reads))
    }

    /// A subject that was sent lately, so busy ones more often.
    fn pick(&self, number: u64) -> Option<u32> {
        let mut random = Random::new(self.seed, number, Purpose::Read);
        let picks: Vec<_> = {
            let ledger = self.publisher.ledger();
            (0..PICKS)
                .filter_map(|_| ledger.recent.pick(&mut random))
                .collect()
        };
        picks
            .into_iter()
            .map(|sent| self.publisher.rank(sent.event))
            .find(|rank| *rank < WATCHED_SUBJECTS)
    }

    async fn start(self: &Arc<Self>, rank: u32, scheduled: Duration) {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let reader = Arc::clone(self);
        tokio::spawn(async move {
            reader.read(rank, scheduled).await;
            drop(permit);
        });
    }

    async fn read(&self, rank: u32, scheduled: Duration) {
        let begun = lock(&self.freshness).begin(rank, self.publisher.now());
        let answer = self.newest(&subject_name(rank)).await;
        let now = self.publisher.now();
        let verdict = match &answer {
            Ok(time) => Some(lock(&self.freshness).end(&begun, *time)),
            Err(_) => None,
        };
        let mut reads = lock(&self.reads);
        match verdict {
            Some(verdict) => {
                reads.answered += 1;
                reads.stale += u64::from(verdict.stale);
                reads.staleness.record(verdict.staleness);
                reads.latencies.record(now.saturating_sub(scheduled));
            }
            None => reads.errors += 1,
        }
        let first_error = reads.errors == 1;
        drop(reads);
        if let Err(error) = answer
            && first_error
        {
            tracing::warn!(
                error = format!("{error:#}"),
                "a read failed; further ones are counted"
            );
        }
    }

    /// The time of the newest state that the service shows; `None` when it has none.
    async fn newest(&self, subject: &str) -> anyhow::Result<Option<Timestamp>> {
        let subject = utf8_percent_encode(subject, ENCODED);
        let mut request = self
            .http
            .get(format!("{}/v1/subjects/{subject}/latest", self.api_url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let response = request.send().await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let state: StateTime = response.error_for_status()?.json().await?;
        let time = Timestamp::parse_rfc3339(&state.time)
            .ok_or_else(|| anyhow::anyhow!("the answer's time is no RFC 3339 time"))?;
        Ok(Some(time))
    }
}
