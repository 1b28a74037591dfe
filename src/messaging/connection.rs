//! The one NATS connection of the process.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};

use crate::config::NatsConfig;
use crate::error::{Class, Code, Dependency, Error};
use crate::telemetry::{Health, Metrics};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Least messages that a subscription buffers before the client calls it a slow
/// consumer; what one pull brings has to fit.
const SUBSCRIPTION_CAPACITY_MESSAGES: usize = 65_536;

/// Connects once. The client reconnects by itself afterwards, without a limit.
///
/// # Errors
/// When no server answers, or none accepts our credentials.
pub async fn connect(
    config: &NatsConfig,
    max_in_flight: usize,
    health: &Health,
    metrics: &Metrics,
) -> Result<Client, Error> {
    let (observer, errors) = (health.clone(), metrics.clone());
    let client = ConnectOptions::new()
        .name("ganesh")
        .connection_timeout(CONNECT_TIMEOUT)
        .subscription_capacity(SUBSCRIPTION_CAPACITY_MESSAGES.max(max_in_flight * 2))
        // Acks go to reply subjects that the server made.
        .skip_subject_validation(true)
        .event_callback(move |event| {
            let (observer, errors) = (observer.clone(), errors.clone());
            async move { observe(&event, &observer, &errors) }
        })
        .connect(addresses(config.url.expose()))
        .await
        .map_err(|error| connection_error(&error.to_string()))?;
    health.set(Dependency::Nats, true);
    Ok(client)
}

/// Server addresses as async-nats takes them.
pub fn addresses(urls: &str) -> Vec<String> {
    urls.split(',').map(|url| url.trim().to_owned()).collect()
}

fn observe(event: &Event, health: &Health, metrics: &Metrics) {
    match event {
        Event::Connected => health.set(Dependency::Nats, true),
        Event::Disconnected => {
            health.set(Dependency::Nats, false);
            metrics.dependency_error(&connection_error("disconnected"));
        }
        Event::SlowConsumer(subscription) => {
            tracing::warn!(
                subscription,
                "the client dropped messages of a subscription; the server delivers them again"
            );
            metrics.dependency_error(&Error::new(
                Dependency::Nats,
                Class::Transient,
                Code::Resources,
                "slow consumer",
            ));
        }
        Event::ServerError(error) => {
            tracing::warn!(%error, "error from the NATS server");
            metrics.dependency_error(&connection_error(""));
        }
        Event::ClientError(error) => {
            tracing::debug!(%error, "error in the NATS client");
        }
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            tracing::info!(%event, "NATS connection");
        }
    }
}

fn connection_error(detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, Code::Connection, detail)
}
