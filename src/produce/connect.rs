//! Reaching NATS and the stream, which may both come up later than the producer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, ServerAddr, Subject};
use tokio::time::Instant;

use super::Error;
use crate::config::NatsConfig;

const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A connection that reconnects by itself, and counts how often it had to.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) disconnects: Arc<AtomicU64>,
}

/// Connects, retrying until `deadline`. `acks_in_flight` sizes the buffer of the
/// subscription that acknowledgements come to: one that does not fit is dropped.
pub(super) async fn connect(
    config: &NatsConfig,
    acks_in_flight: usize,
    deadline: Instant,
) -> Result<Connection, Error> {
    let servers: Vec<ServerAddr> = config
        .url
        .expose()
        .split(',')
        .map(|url| url.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Misfit(format!("NATS_URL: {error}: expected NATS servers")))?;
    let disconnects = Arc::new(AtomicU64::new(0));
    let mut told = false;
    loop {
        let options = options(acks_in_flight, Arc::clone(&disconnects));
        match options.connect(&servers).await {
            Ok(client) => {
                return Ok(Connection {
                    client,
                    disconnects,
                });
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(Error::Unreachable(format!(
                    "NATS at {}: {error}",
                    config.url
                )));
            }
            Err(error) if !told => {
                told = true;
                tracing::info!(%error, "waiting for NATS at {}", config.url);
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn options(acks_in_flight: usize, disconnects: Arc<AtomicU64>) -> ConnectOptions {
    ConnectOptions::new()
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
                    async_nats::Event::Connected => tracing::info!("connected to NATS"),
                    other => tracing::debug!(event = %other, "NATS"),
                }
            }
        })
}

/// Waits until the stream exists, and checks that it takes our subjects. It is
/// `ganesh serve` that makes it: a stream made here could differ from that.
pub(super) async fn wait_for_stream(
    client: &Client,
    config: &NatsConfig,
    subjects: &[Subject],
    deadline: Instant,
) -> Result<(), Error> {
    let context = jetstream::new(client.clone());
    let mut told = false;
    let stream = loop {
        match context.get_stream(&config.stream).await {
            Ok(stream) => break stream,
            Err(error) if Instant::now() >= deadline => {
                return Err(Error::Unreachable(format!(
                    "stream {} is not there ({error}): ganesh serve makes it",
                    config.stream
                )));
            }
            Err(error) if !told => {
                told = true;
                tracing::info!(%error, "waiting for stream {}", config.stream);
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    let patterns = &stream.cached_info().config.subjects;
    let taken = |subject: &Subject| patterns.iter().any(|pattern| matches(pattern, subject));
    match subjects.iter().find(|subject| !taken(subject)) {
        None => Ok(()),
        Some(subject) => Err(Error::Misfit(format!(
            "GANESH_SUBJECTS={:?}: expected subjects of stream {}, which takes {} and not {subject}",
            config.subjects.join(","),
            config.stream,
            patterns.join(","),
        ))),
    }
}

/// Whether a subject pattern takes a subject.
fn matches(pattern: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for token in pattern.split('.') {
        match (token, subject.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(token)) if literal == token => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}
