//! Reaching NATS and the stream, which may both come up later than the producer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, Subject};

use crate::config::{NatsConfig, covers};
use crate::error::{Class, Code, Dependency, Error};
use crate::messaging::{connection, streams};

/// A connection that reconnects by itself, and counts how often it had to.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(super) client: Client,
    pub(super) disconnects: Arc<AtomicU64>,
}

/// Connects once. `acks_in_flight` sizes the buffer of the subscription that
/// acknowledgements come to: one that does not fit is dropped.
///
/// # Errors
/// When no server answers, or none accepts our credentials.
pub(crate) async fn connect(
    config: &NatsConfig,
    acks_in_flight: usize,
) -> Result<Connection, Error> {
    let disconnects = Arc::new(AtomicU64::new(0));
    let client = options(config, acks_in_flight, Arc::clone(&disconnects))
        .connect(connection::addresses(&config.url))
        .await
        .map_err(|error| connection::connect_error(&error))?;
    Ok(Connection {
        client,
        disconnects,
    })
}

fn options(
    config: &NatsConfig,
    acks_in_flight: usize,
    disconnects: Arc<AtomicU64>,
) -> ConnectOptions {
    connection::options(&config.url)
        .name("ganesh-produce")
        // A retry can bring a second acknowledgement for a message.
        .subscription_capacity(2 * acks_in_flight + 1_024)
        .event_callback(move |event| {
            let disconnects = Arc::clone(&disconnects);
            async move {
                match event {
                    async_nats::Event::Disconnected => {
                        disconnects.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!("disconnected from NATS, reconnecting");
                    }
                    other => tracing::debug!(event = %other, "NATS"),
                }
            }
        })
}

/// The subjects that the stream takes. It is `ganesh serve` that makes it: a stream
/// made here could differ from that.
///
/// # Errors
/// When `JetStream` does not answer, or has no such stream.
pub(crate) async fn stream_subjects(
    connection: &Connection,
    config: &NatsConfig,
) -> Result<Vec<String>, Error> {
    let context = jetstream::new(connection.client.clone());
    match streams::existing(&context, &config.stream).await? {
        Some(stream) => Ok(stream.subjects),
        None => Err(Error::new(
            Dependency::Nats,
            Class::Transient,
            Code::Setup,
            "it does not exist; ganesh serve makes it",
        )),
    }
}

/// Checks that the stream takes what would be published.
///
/// # Errors
/// Words that name the setting and what was expected.
pub(super) fn check_subjects(
    config: &NatsConfig,
    taken: &[String],
    ours: &[Subject],
) -> Result<(), String> {
    let taken_by_one = |subject: &Subject| taken.iter().any(|pattern| covers(pattern, subject));
    match ours.iter().find(|subject| !taken_by_one(subject)) {
        None => Ok(()),
        Some(subject) => Err(format!(
            "GANESH_SUBJECTS={:?}: expected subjects of stream {}, which takes {} and not {subject}",
            config.subjects.join(","),
            config.stream,
            taken.join(","),
        )),
    }
}

pub(super) fn unreachable(error: &impl std::fmt::Display) -> Error {
    let (class, code) = (Class::Transient, Code::Connection);
    Error::new(Dependency::Nats, class, code, error.to_string())
}
