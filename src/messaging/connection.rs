//! The one NATS connection of the process.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectError, ConnectErrorKind, Event};
use tokio::sync::watch;
use url::Url;

use super::login;
use crate::config::{NatsConfig, SecretUrl};
use crate::error::{Class, Code, Dependency, Error};
use crate::labels::ConnectionEvent;
use crate::telemetry::logs::RateLimit;
use crate::telemetry::metrics::Both;
use crate::telemetry::{Health, Metrics};
use crate::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Least messages that a subscription buffers before the client calls it a slow
/// consumer; what one pull brings has to fit.
const SUBSCRIPTION_CAPACITY_MESSAGES: usize = 65_536;

/// How often the connection has dropped; changes are seen also when it stands again. What was on
/// its way at a drop is lost: requests, acknowledgements, and deliveries that nobody has read.
pub(crate) type Disconnects = watch::Receiver<u64>;

/// How often the connection's state is polled, in case its event was lost.
const ASK_STATE_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn connected(client: &Client, disconnects: &mut Disconnects) {
    while client.connection_state() != State::Connected {
        // A closed client sends no event any more; then its state is asked all the same.
        let _ = tokio::time::timeout(ASK_STATE_EVERY, disconnects.changed()).await;
    }
}

/// Waits until the connection has dropped more than `seen` times.
pub(crate) async fn dropped(disconnects: &mut Disconnects, seen: u64) {
    if disconnects
        .wait_for(|disconnects| *disconnects > seen)
        .await
        .is_err()
    {
        // The client is gone, and with it whoever waits for it.
        std::future::pending::<()>().await;
    }
}

/// Waits until the client has broken down. It reconnects by itself, but not after a panic, as on a
/// header value with a carriage return in it: async-nats 0.51 asserts there, and
/// <https://github.com/nats-io/nats.rs/pull/1612>, which makes that an error, is not released.
pub(crate) async fn lost(mut disconnects: Disconnects) {
    while disconnects.changed().await.is_ok() {}
}

/// Waits until the connection has dropped more than `seen` times and stands again; says how
/// often it has.
pub(crate) async fn restored(client: &Client, disconnects: &mut Disconnects, seen: u64) -> u64 {
    dropped(disconnects, seen).await;
    connected(client, disconnects).await;
    *disconnects.borrow()
}

/// Connects once, under a name that the server's monitoring shows. The client reconnects by itself afterwards, without a limit.
///
/// # Errors
/// When no server answers, or none accepts our credentials.
pub(crate) async fn connect(
    name: &str,
    config: &NatsConfig,
    max_in_flight: usize,
    health: &Health,
    metrics: &Metrics,
) -> Result<(Client, Disconnects), Error> {
    let (told, disconnects) = watch::channel(0);
    let observer = Arc::new(EventObserver {
        health: health.clone(),
        metrics: metrics.clone(),
        log: RateLimit::default(),
        disconnects: told,
    });
    let client = login::options(config)
        .name(name)
        .connection_timeout(CONNECT_TIMEOUT)
        .subscription_capacity(SUBSCRIPTION_CAPACITY_MESSAGES.max(max_in_flight * 2))
        // Acks go to reply subjects that the server made.
        .skip_subject_validation(true)
        .event_callback(move |event| {
            let observer = observer.clone();
            async move { observer.observe(&event) }
        })
        .connect(addresses(&config.url))
        .await
        .map_err(|error| connect_error(&error, config))?;
    health.set(Dependency::Nats, true);
    Ok((client, disconnects))
}

/// Connects for a few requests, beside the connection of the process: nothing is counted or logged, and a
/// connection that is lost stays lost.
///
/// # Errors
/// When no server answers, or none accepts our credentials.
pub(crate) async fn connect_aside(name: &str, config: &NatsConfig) -> Result<Client, Error> {
    login::options(config)
        .name(name)
        .connection_timeout(CONNECT_TIMEOUT)
        .max_reconnects(1)
        .event_callback(|_| async {})
        .connect(addresses(&config.url))
        .await
        .map_err(|error| connect_error(&error, config))
}

/// Server addresses as async-nats takes them, without the credentials, which it would log.
fn addresses(url: &SecretUrl) -> Vec<String> {
    parsed(url)
        .into_iter()
        .map(|mut url| {
            // They fail for a URL without host only, and then there is nothing to remove.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.into()
        })
        .collect()
}

fn parsed(url: &SecretUrl) -> Vec<Url> {
    // The configuration was refused if one of them is no URL.
    let urls = url.expose_each().map(Url::parse);
    urls.filter_map(Result::ok).collect()
}

/// Retrying does not help when one side does not accept the other.
fn connect_error(error: &ConnectError, config: &NatsConfig) -> Error {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            setup_error(format!("{error}: {}", login::fix(&config.login)))
        }
        _ => match tls::refusal(error, &config.tls, login::VARIABLES) {
            Some(refusal) => setup_error(refusal),
            None => connection_error(&error.to_string()),
        },
    }
}

/// Requests to JetStream, in the domain or account that is configured.
pub(crate) fn jetstream(client: Client, config: &NatsConfig) -> Context {
    jetstream::with_prefix(client, &config.api_prefix)
}

struct EventObserver {
    health: Health,
    metrics: Metrics,
    /// A missing permission is an error for every message.
    log: RateLimit,
    disconnects: watch::Sender<u64>,
}

impl EventObserver {
    fn count(&self, event: ConnectionEvent) {
        self.metrics.connection_events[Both(Dependency::Nats, event)].increment(1);
    }

    fn observe(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.count(ConnectionEvent::Opened);
                self.health.set(Dependency::Nats, true);
                self.disconnects.send_modify(|_| ());
            }
            Event::Disconnected => {
                self.count(ConnectionEvent::Closed);
                self.health.set(Dependency::Nats, false);
                self.disconnects
                    .send_modify(|disconnects| *disconnects += 1);
                self.metrics
                    .dependency_error(&connection_error("disconnected"));
            }
            Event::SlowConsumer(subscription) => {
                tracing::warn!(
                    subscription,
                    "the client dropped messages of a subscription; the server delivers them again"
                );
                self.metrics.dependency_error(&Error::new(
                    Dependency::Nats,
                    Class::Transient,
                    Code::Resources,
                    "slow consumer",
                ));
            }
            Event::ServerError(error) => {
                if let Some(suppressed) = self.log.allow() {
                    tracing::warn!(%error, suppressed, "error from the NATS server");
                }
                self.metrics.dependency_error(&connection_error(""));
            }
            Event::ClientError(error) => {
                tracing::debug!(%error, "error in the NATS client");
            }
            Event::LameDuckMode | Event::Draining | Event::Closed => {
                tracing::info!(%event, "NATS connection");
            }
        }
    }
}

/// Trying again does not help.
pub(super) fn setup_error(detail: String) -> Error {
    Error::new(Dependency::Nats, Class::Fatal, Code::Setup, detail)
}

pub(crate) fn connection_error(detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, Code::Connection, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_the_client_drops_are_an_error_of_resources_and_no_outage() {
        let metrics = Metrics::default();
        let health = Health::new(metrics.clone());
        let observer = EventObserver {
            health: health.clone(),
            metrics: metrics.clone(),
            log: RateLimit::default(),
            disconnects: watch::Sender::new(0),
        };
        observer.observe(&Event::Connected);
        observer.observe(&Event::SlowConsumer(1));
        assert!(health.is_up(Dependency::Nats));
        let errors = &metrics.dependency_errors[Both(Dependency::Nats, Code::Resources)];
        assert_eq!(errors.get(), 1);
    }
}
