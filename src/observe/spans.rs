//! The spans of a kept message, built when it is settled, with explicit times and ids of
//! our own.
//!
//! ```text
//!  send events.>                       the producer's, if it samples
//!  └ process events.>  CONSUMER        from the stream's timestamp to the settlement
//!    ├ stream                          waiting in JetStream
//!    ├ decode
//!    ├ queue                           waiting for a writer
//!    ├ store           CLIENT ┄ link ┄▶ COPY events   CLIENT, the batch's own trace (or INSERT)
//!    ├ cache
//!    └ settle
//! ```

use std::str::FromStr as _;

use opentelemetry::KeyValue;
use opentelemetry::trace::{
    Event as SpanEvent, Link, SpanContext, SpanId, SpanKind, TraceFlags, TraceState,
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use sqlx::postgres::PgConnectOptions;

use super::settled_message::SettledMessage;
use super::stage_times::Passed;
use crate::config::{Config, PostgresConfig, pattern_of};
use crate::event::TraceContext;
use crate::labels::{Decision, Outcome, Stage, WriteMethod};
use crate::message::timings::{Failures, Moment};
use crate::message::{BatchTimings, Delivery};
use crate::storage::sqlstate_in;
use crate::telemetry::semconv as name;
use crate::telemetry::spans::{event_attributes, fail, span, system_time};
use crate::text::cut;
use strum::VariantArray as _;

/// Longer values of `Nats-Msg-Id` are cut.
const MESSAGE_ID_MAX_BYTES: usize = 1_024;

/// Builds the spans of a message.
#[derive(Debug)]
pub struct MessageSpans {
    subjects: Vec<String>,
    stream: String,
    consumer: String,
    /// One in so many ordinary messages is kept.
    baseline: u32,
    /// Which database spans of Postgres are about.
    database: Vec<KeyValue>,
}

impl MessageSpans {
    /// For messages of the configured stream and consumer.
    pub fn new(config: &Config) -> Self {
        let nats = &config.nats;
        Self {
            subjects: nats.subjects.clone(),
            stream: nats.stream.clone(),
            consumer: nats.consumer.clone(),
            baseline: config.telemetry.trace_baseline,
            database: database_attributes(&config.postgres),
        }
    }

    /// The whole trace of one message, its process span first. `batch` is the span of the
    /// batch that it was written with.
    pub fn build(
        &self,
        message: &SettledMessage<'_>,
        reason: Decision,
        batch: Option<&SpanContext>,
    ) -> Vec<SpanData> {
        let process = self.process(message, reason);
        let parent = process.span_context.clone();
        let mut spans = Vec::with_capacity(1 + Stage::VARIANTS.len());
        spans.push(process);
        spans.extend(message.times.passed().map(|passed| {
            let batch = batch.filter(|_| passed.stage == Stage::Store);
            self.stage(message, &passed, &parent, batch)
        }));
        spans
    }

    fn process(&self, message: &SettledMessage<'_>, reason: Decision) -> SpanData {
        let delivery = message.delivery;
        let pattern = pattern_of(&self.subjects, &delivery.message.subject);
        // A stream that was made by others can have other subjects than ours.
        let destination = pattern.unwrap_or(&self.stream);
        let mut span = span(
            delivery.trace_id.bytes(),
            format!("process {destination}"),
            message.times.began(),
            message.times.ended(),
        );
        span.span_kind = SpanKind::Consumer;
        match &delivery.producer {
            Some(producer) if producer.sampled => {
                span.parent_span_id = SpanId::from_bytes(producer.parent_id);
                span.parent_span_is_remote = true;
            }
            Some(producer) => span.links = link(context_of(producer)),
            None => {}
        }
        span.attributes = self.attributes(delivery, pattern);
        span.attributes.extend([
            KeyValue::new(name::KEEP_REASON, reason.into_str()),
            KeyValue::new(name::OUTCOME, message.outcome.into_str()),
        ]);
        if reason == Decision::Baseline {
            let weight = KeyValue::new(name::SAMPLE_WEIGHT, i64::from(self.baseline));
            span.attributes.push(weight);
        }
        if let Some(longest) = message.times.longest() {
            let stage = KeyValue::new(name::LONGEST_STAGE, longest.stage.into_str());
            span.attributes.push(stage);
        }
        if let Some(batch) = message.batch {
            span.attributes
                .push(KeyValue::new(name::BATCH_EVENTS, number(batch.events)));
        }
        if let Some(event) = message.event {
            span.attributes.extend(event_attributes(event));
        }
        // A stage can fail without harm to the message: the cache is one.
        if let Some(failure) = message.failure
            && message.outcome == Outcome::DeadLettered
        {
            fail(&mut span, failure.error_type, failure.detail);
        }
        span
    }

    fn attributes(&self, delivery: &Delivery, pattern: Option<&str>) -> Vec<KeyValue> {
        let message = &delivery.message;
        let mut attributes = vec![
            KeyValue::new(name::MESSAGING_SYSTEM, name::NATS),
            KeyValue::new(name::MESSAGING_OPERATION_NAME, "process"),
            KeyValue::new(name::MESSAGING_OPERATION_TYPE, "process"),
            KeyValue::new(
                name::MESSAGING_DESTINATION_NAME,
                message.subject.to_string(),
            ),
            KeyValue::new(name::MESSAGING_CONSUMER_GROUP_NAME, self.consumer.clone()),
            KeyValue::new(
                name::MESSAGING_MESSAGE_BODY_SIZE,
                number(message.payload.len()),
            ),
            KeyValue::new(name::STREAM, self.stream.clone()),
            KeyValue::new(name::STREAM_SEQUENCE, number(delivery.stream_sequence)),
            KeyValue::new(name::DELIVERIES, number(delivery.delivered)),
        ];
        if let Some(pattern) = pattern {
            let template = KeyValue::new(name::MESSAGING_DESTINATION_TEMPLATE, pattern.to_owned());
            attributes.push(template);
        }
        let headers = message.headers.as_ref();
        if let Some(id) = headers.and_then(|headers| headers.get("Nats-Msg-Id")) {
            let id = cut(id.as_str(), MESSAGE_ID_MAX_BYTES).to_owned();
            attributes.push(KeyValue::new(name::MESSAGING_MESSAGE_ID, id));
        }
        attributes
    }

    fn stage(
        &self,
        message: &SettledMessage<'_>,
        passed: &Passed,
        parent: &SpanContext,
        batch: Option<&SpanContext>,
    ) -> SpanData {
        let mut span = span(
            parent.trace_id().to_bytes(),
            passed.stage.into_str(),
            passed.began,
            passed.ended,
        );
        span.parent_span_id = parent.span_id();
        if passed.stage == Stage::Store {
            span.span_kind = SpanKind::Client;
            span.attributes.clone_from(&self.database);
            if let Some(batch) = message.batch {
                span.attributes.push(operation(batch.method));
            }
        }
        if let Some(batch) = batch {
            span.links = link(batch.clone());
        }
        if let Some(failures) = message.failures(passed.stage) {
            span.events = attempts(failures, &message.moment);
        }
        if let Some(failure) = message.failure
            && failure.stage == passed.stage
        {
            fail(&mut span, failure.error_type, failure.detail);
            if passed.stage == Stage::Store {
                span.attributes.extend(status_code(failure.detail));
            }
        }
        span
    }

    /// The span of a batch as a whole, in a trace of its own: from a writer taking it to the commit.
    pub fn of_batch(&self, batch: &BatchTimings, moment: &Moment) -> SpanData {
        let mut span = span(
            rand::random::<u128>().max(1).to_be_bytes(),
            match batch.method {
                WriteMethod::Copy => "COPY events",
                WriteMethod::Insert => "INSERT events",
            },
            moment.unix_nanos(batch.taken_at),
            moment.unix_nanos(batch.durable_at),
        );
        span.span_kind = SpanKind::Client;
        span.attributes.clone_from(&self.database);
        span.attributes.push(operation(batch.method));
        let mut failed = batch.failures.kept().iter().rev();
        let last = failed.find_map(|attempt| status_code(&attempt.detail));
        span.attributes.extend(last);
        span.attributes.push(KeyValue::new(
            name::DB_OPERATION_BATCH_SIZE,
            number(batch.events),
        ));
        span.events = attempts(&batch.failures, moment);
        span
    }
}

/// Which database, as far as `POSTGRES_URL` says.
fn database_attributes(config: &PostgresConfig) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new(name::DB_SYSTEM_NAME, name::POSTGRESQL),
        KeyValue::new(name::DB_COLLECTION_NAME, name::EVENTS_TABLE),
    ];
    // It was parsed before, when the configuration was read.
    if let Ok(options) = PgConnectOptions::from_str(config.url.expose()) {
        let socket = options.get_socket().map(|path| path.display().to_string());
        let address = socket.unwrap_or_else(|| options.get_host().to_owned());
        attributes.push(KeyValue::new(name::SERVER_ADDRESS, address));
        let database = options.get_database().map(str::to_owned);
        attributes.extend(database.map(|database| KeyValue::new(name::DB_NAMESPACE, database)));
    }
    attributes
}

fn operation(method: WriteMethod) -> KeyValue {
    let name = match method {
        WriteMethod::Copy => "COPY",
        WriteMethod::Insert => "INSERT",
    };
    KeyValue::new(name::DB_OPERATION_NAME, name)
}

fn status_code(detail: &str) -> Option<KeyValue> {
    let state = sqlstate_in(detail)?.to_owned();
    Some(KeyValue::new(name::DB_RESPONSE_STATUS_CODE, state))
}

fn attempts(failures: &Failures, moment: &Moment) -> SpanEvents {
    let mut events = SpanEvents::default();
    events.dropped_count = failures.left_out();
    events.events = failures
        .kept()
        .iter()
        .map(|attempt| {
            let mut attributes = vec![
                KeyValue::new(name::ERROR_TYPE, attempt.code.into_str()),
                KeyValue::new(name::EXCEPTION_MESSAGE, attempt.detail.clone()),
            ];
            attributes.extend(status_code(&attempt.detail));
            let at = system_time(moment.unix_nanos(attempt.at));
            SpanEvent::new(name::ATTEMPT_FAILED, at, attributes, 0)
        })
        .collect();
    events
}

fn link(to: SpanContext) -> SpanLinks {
    let mut links = SpanLinks::default();
    links.links.push(Link::new(to, Vec::new(), 0));
    links
}

fn context_of(producer: &TraceContext) -> SpanContext {
    let flags = if producer.sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::NOT_SAMPLED
    };
    SpanContext::new(
        opentelemetry::TraceId::from_bytes(producer.trace_id),
        SpanId::from_bytes(producer.parent_id),
        flags,
        true,
        TraceState::default(),
    )
}

fn number(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
