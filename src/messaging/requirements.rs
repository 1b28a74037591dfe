//! What ganesh requires of streams, bucket and consumer that exist already. None is ever changed.
//!
//! Each kind has a list of the settings that are allowed, and of which values. Any other setting that
//! has a value is refused by name: one that ganesh does not know may break a promise.

mod consumer;
mod streams;

use std::fmt::Display;

use async_nats::jetstream::Context;
use serde_json::Value;

use super::letters::bucket;
use super::reported::{self, ReportedConfig, duration};
use super::streams::dlq_stream;
use crate::config::{NatsConfig, PipelineConfig};
use crate::error::Error;
use crate::text::{cut, on_one_line};

pub(super) use consumer::{DATABASE, filters, max_ack_pending};
pub(crate) use streams::limits;

/// A longer value is cut where a person reads it.
const SHOWN_MAX_BYTES: usize = 200;

/// Settings that are durations.
const DURATIONS: [&str; 8] = [
    "ack_wait",
    "duplicate_window",
    "idle_heartbeat",
    "inactive_threshold",
    "max_age",
    "max_expires",
    "priority_timeout",
    "subject_delete_marker_ttl",
];

/// What exists of streams, bucket and consumer.
pub(crate) struct Existing {
    pub(crate) events: Option<ReportedConfig>,
    pub(crate) letters: Option<ReportedConfig>,
    pub(crate) bucket: Option<ReportedConfig>,
    pub(crate) consumer: Option<ReportedConfig>,
}

/// One of them, judged.
pub(crate) struct Verdict {
    /// `stream EVENTS` or `consumer ganesh`.
    pub(crate) name: String,
    pub(crate) exists: bool,
    /// Settings that break a promise, each with what to do about it.
    pub(crate) violations: Vec<String>,
    /// What an operator should know, and ganesh can live with.
    pub(crate) warnings: Vec<String>,
}

impl Existing {
    /// # Errors
    /// When JetStream does not answer.
    pub(crate) async fn find(jetstream: &Context, nats: &NatsConfig) -> Result<Self, Error> {
        let consumer = reported::consumer(jetstream, &nats.stream, &nats.consumer).await?;
        let stream = async |name: &str| {
            let stream = reported::stream(jetstream, name).await?;
            Ok(stream.map(|stream| stream.config))
        };
        Ok(Self {
            events: stream(&nats.stream).await?,
            letters: stream(&nats.dlq_stream).await?,
            bucket: stream(&bucket::stream_name(&nats.dlq_stream)).await?,
            consumer: consumer.map(|consumer| consumer.config),
        })
    }

    /// `database`: the one that this ganesh writes to, if it is known.
    pub(crate) fn verdicts(
        &self,
        nats: &NatsConfig,
        pipeline: &PipelineConfig,
        database: Option<&str>,
    ) -> [Verdict; 4] {
        let made = ReportedConfig::of(&dlq_stream(nats));
        let letters = self.letters.as_ref().unwrap_or(&made);
        let mut verdicts = [
            Verdict::new("stream", &nats.stream, self.events.is_some()),
            Verdict::new("consumer", &nats.consumer, self.consumer.is_some()),
            Verdict::new("stream", &nats.dlq_stream, self.letters.is_some()),
            Verdict::new(
                "stream",
                &bucket::stream_name(&nats.dlq_stream),
                self.bucket.is_some(),
            ),
        ];
        let [of_events, of_consumer, of_letters, of_bucket] = &mut verdicts;
        if let Some(events) = &self.events {
            of_events.check_events(events);
            let is_filtered = self
                .consumer
                .as_ref()
                .is_some_and(|c| !filters(c).is_empty());
            of_events.warn_of_settings(events, nats, is_filtered);
        }
        if let Some(consumer) = &self.consumer {
            of_consumer.check_consumer(consumer, nats, pipeline);
            of_consumer.check_database(consumer, database);
        }
        // Also before it is made: its name may be one that no bucket can have.
        of_letters.check_letters(letters);
        if let (Some(events), Some(letters)) = (&self.events, &self.letters) {
            of_letters.check_replicas(letters, events);
        }
        if let Some(bucket) = &self.bucket {
            of_bucket.check_bucket(bucket, letters);
        }
        verdicts
    }
}

/// Judges an existing consumer.
pub(super) fn of_consumer(
    consumer: &ReportedConfig,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
    database: &str,
) -> Verdict {
    let mut verdict = Verdict::new("consumer", &nats.consumer, true);
    verdict.check_consumer(consumer, nats, pipeline);
    verdict.check_database(consumer, Some(database));
    verdict
}

impl Verdict {
    fn new(kind: &str, name: &str, exists: bool) -> Self {
        Self {
            name: format!("{kind} {name}"),
            exists,
            violations: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn check(&mut self, broken: bool, problem: impl Display, fix: impl Display) {
        if broken {
            let violation = format!("{}: {problem}. To fix it: {fix}", self.name);
            self.violations.push(violation);
        }
    }

    /// Requires that a setting has a fit value. `why`: what an unfit one does.
    fn require(&mut self, fit: bool, setting: (&str, &Value), why: &str, fix: impl Display) {
        let shown = shown(setting);
        self.check(!fit, format_args!("{shown}: {why}"), fix);
    }

    fn refuse_unknown(&mut self, setting: (&str, &Value), fix: &str) {
        let (name, _) = setting;
        let why = "ganesh does not know this setting, which may break a promise";
        self.require(false, setting, why, format_args!("remove {name}, or {fix}"));
    }

    fn warn(&mut self, concern: impl Display) {
        self.warnings.push(format!("{}: {concern}", self.name));
    }
}

/// `max_deliver is 5`.
fn shown((name, value): (&str, &Value)) -> String {
    let value = match value {
        Value::Null => "not set".to_owned(),
        Value::String(text) => text.clone(),
        value if DURATIONS.contains(&name) => format!("{:?}", duration(value)),
        value => value.to_string(),
    };
    let value = on_one_line(cut(&value, SHOWN_MAX_BYTES));
    format!("{} is {value}", on_one_line(cut(name, SHOWN_MAX_BYTES)))
}
