//! One message as the stream holds it, and how far the consumer is: for whoever asks about a single message.

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::RawMessage;
use async_nats::jetstream::{Context, ErrorCode};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::reported::{self, ReportedConsumer};
use super::requirements::filters;
use super::streams::api_error;
use super::unreadable::check;
use crate::error::Error;
use crate::event::Timestamp;

/// A message that the stream holds.
#[derive(Debug, Clone)]
pub(crate) struct HeldMessage {
    pub(crate) subject: String,
    pub(crate) published_at: Timestamp,
    /// Empty where the client cannot read them.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the client cannot read in it.
    pub(crate) unreadable: Option<&'static str>,
}

/// What the stream holds.
#[derive(Debug, Clone)]
pub(crate) struct StreamBounds {
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
    /// Messages are removed by limits alone, not by their acknowledgement.
    pub(crate) has_limits_retention: bool,
}

/// How far a consumer is.
#[derive(Debug, Clone)]
pub(crate) struct ConsumerPosition {
    /// The last message that it delivered, or passed over.
    pub(crate) delivered: u64,
    /// All messages up to this one are acknowledged, or gone.
    pub(crate) ack_floor: u64,
    /// Messages that it has not delivered yet.
    pub(crate) pending: u64,
    /// Messages that it has delivered, and that nobody has acknowledged.
    pub(crate) ack_pending: u64,
    /// It takes some subjects of the stream alone.
    pub(crate) is_filtered: bool,
}

#[derive(Deserialize)]
struct HeldAnswer {
    message: RawMessage,
}

/// The message of this sequence; `None` when the stream does not hold it. By a request whose answer is
/// JSON: it comes through whatever the message's headers are.
///
/// # Errors
/// When JetStream does not answer.
pub(crate) async fn message(
    jetstream: &Context,
    stream: &str,
    sequence: u64,
) -> Result<Option<HeldMessage>, Error> {
    let failed = |what: String| api_error(&format!("message {sequence}: {what}"));
    let subject = format!("STREAM.MSG.GET.{stream}");
    let answer = jetstream
        .request(subject, &json!({ "seq": sequence }))
        .await;
    let raw = match answer.map_err(|error| failed(error.to_string()))? {
        Response::Ok(HeldAnswer { message }) => message,
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
            return Ok(None);
        }
        Response::Err { error } => return Err(failed(error.to_string())),
    };
    read(raw).map(Some).map_err(failed)
}

fn read(raw: RawMessage) -> Result<HeldMessage, String> {
    let block = BASE64_STANDARD.decode(raw.headers.as_deref().unwrap_or_default());
    let block = block.map_err(|_| "its headers are no base64")?;
    // The client would panic on some of them.
    if let Err(why) = check(&raw.subject, true, &block) {
        let body = BASE64_STANDARD.decode(&raw.payload);
        return Ok(HeldMessage {
            published_at: Timestamp::from_nanos(raw.time.unix_timestamp_nanos()),
            subject: raw.subject,
            headers: HeaderMap::new(),
            body: body.map_err(|_| "its body is no base64")?.into(),
            unreadable: Some(why),
        });
    }
    let message = StreamMessage::try_from(raw).map_err(|error| error.to_string())?;
    Ok(HeldMessage {
        published_at: Timestamp::from_nanos(message.time.unix_timestamp_nanos()),
        subject: message.subject.to_string(),
        headers: message.headers,
        body: message.payload,
        unreadable: None,
    })
}

/// `None` when there is no such stream.
///
/// # Errors
/// When JetStream does not answer.
pub(crate) async fn stream(jetstream: &Context, name: &str) -> Result<Option<StreamBounds>, Error> {
    let stream = reported::stream(jetstream, name).await?;
    Ok(stream.map(|stream| StreamBounds {
        first_sequence: stream.state.first_sequence,
        last_sequence: stream.state.last_sequence,
        has_limits_retention: ["", "limits"].contains(&stream.config.text("retention")),
    }))
}

/// `None` when there is no such consumer.
///
/// # Errors
/// When JetStream does not answer.
pub(crate) async fn consumer(
    jetstream: &Context,
    stream: &str,
    name: &str,
) -> Result<Option<ConsumerPosition>, Error> {
    let consumer = reported::consumer(jetstream, stream, name).await?;
    Ok(consumer.as_ref().map(ConsumerPosition::of))
}

impl ConsumerPosition {
    fn of(info: &ReportedConsumer) -> Self {
        let filters = filters(&info.config);
        Self {
            delivered: info.delivered.stream,
            ack_floor: info.ack_floor.stream,
            pending: info.num_pending,
            ack_pending: info.num_ack_pending,
            is_filtered: !filters.is_empty() && !filters.contains(&">"),
        }
    }
}
