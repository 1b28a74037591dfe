//! Streams and consumers as the server reports them: with every setting, also those that the client
//! library does not know.

use std::time::Duration;

use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::refusals::{self, SERVER_LIMIT};
use super::streams::api_error;
use crate::error::Error;

/// A configuration, by the names of NATS's API. What a server leaves out is unset.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct ReportedConfig(Map<String, Value>);

#[derive(Debug, Deserialize)]
pub(crate) struct ReportedStream {
    pub(crate) config: ReportedConfig,
    pub(super) created: String,
    pub(super) state: ReportedState,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReportedState {
    #[serde(rename = "first_seq")]
    pub(super) first_sequence: u64,
    #[serde(rename = "last_seq")]
    pub(super) last_sequence: u64,
    /// When its first message was stored (RFC 3339).
    #[serde(rename = "first_ts")]
    pub(super) first_time: String,
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReportedConsumer {
    pub(crate) config: ReportedConfig,
    pub(super) created: String,
    pub(super) delivered: Sequences,
    pub(super) ack_floor: Sequences,
    pub(super) num_ack_pending: u64,
    pub(super) num_pending: u64,
}

/// Where a consumer is.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Sequences {
    #[serde(rename = "consumer_seq")]
    pub(super) consumer: u64,
    #[serde(rename = "stream_seq")]
    pub(super) stream: u64,
}

/// `None` when there is no such stream.
///
/// # Errors
/// When JetStream does not answer.
pub(crate) async fn stream(
    jetstream: &Context,
    name: &str,
) -> Result<Option<ReportedStream>, Error> {
    ask(
        jetstream,
        &format!("STREAM.INFO.{name}"),
        &format!("stream {name}"),
    )
    .await
}

/// `None` when there is no such consumer.
///
/// # Errors
/// When JetStream does not answer.
pub(crate) async fn consumer(
    jetstream: &Context,
    stream: &str,
    name: &str,
) -> Result<Option<ReportedConsumer>, Error> {
    ask(
        jetstream,
        &format!("CONSUMER.INFO.{stream}.{name}"),
        &format!("consumer {name}"),
    )
    .await
}

async fn ask<T: DeserializeOwned>(
    jetstream: &Context,
    request: &str,
    what: &str,
) -> Result<Option<T>, Error> {
    let answer = jetstream.request(request.to_owned(), &json!({})).await;
    match answer {
        Ok(Response::Ok(info)) => Ok(Some(info)),
        Ok(Response::Err { error }) if is_missing(error.error_code()) => Ok(None),
        Ok(Response::Err { error }) => Err(refusals::refused(what, &error)),
        Err(error) => Err(api_error(&format!("{what}: {error}"))),
    }
}

fn is_missing(code: ErrorCode) -> bool {
    [ErrorCode::STREAM_NOT_FOUND, ErrorCode::CONSUMER_NOT_FOUND].contains(&code)
}

impl ReportedConfig {
    /// A configuration as it would be reported.
    pub(crate) fn of(config: &impl Serialize) -> Self {
        match serde_json::to_value(config) {
            Ok(Value::Object(settings)) => Self(settings),
            _ => Self::default(),
        }
    }

    /// The settings that are not unset.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&str, &Value)> {
        let settings = self.0.iter().filter(|(_, value)| !is_unset(value));
        settings.map(|(name, value)| (name.as_str(), value))
    }

    pub(crate) fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).as_str().unwrap_or_default()
    }

    pub(crate) fn number(&self, name: &str) -> i64 {
        self.get(name).as_i64().unwrap_or_default()
    }

    pub(super) fn replicas(&self) -> usize {
        usize::try_from(self.number("num_replicas")).unwrap_or(1)
    }

    pub(super) fn metadata(&self, name: &str) -> Option<&str> {
        self.get("metadata").get(name)?.as_str()
    }

    /// Whether a limit of the server left this value of what ganesh asked for.
    pub(super) fn is_servers_limit(&self, value: i128) -> bool {
        self.metadata(SERVER_LIMIT) == Some(value.to_string().as_str())
    }

    pub(crate) fn duration(&self, name: &str) -> Duration {
        duration(self.get(name))
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<&str> {
        texts(self.get(name))
    }
}

/// Whether a value is the one of a setting that nobody set.
pub(super) fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.values().all(is_unset),
    }
}

/// NATS writes durations in nanoseconds.
pub(super) fn duration(value: &Value) -> Duration {
    Duration::from_nanos(value.as_u64().unwrap_or_default())
}

pub(super) fn texts(value: &Value) -> Vec<&str> {
    let values = value.as_array().into_iter().flatten();
    values.filter_map(Value::as_str).collect()
}
