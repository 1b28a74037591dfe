//! Reaching NATS and the stream, which may both come up later than the producer.

use async_nats::{Client, Subject};

use crate::config::{NatsConfig, covers};
use crate::error::{Class, Code, Dependency, Error};
use crate::messaging::connection::{self, Disconnects};
use crate::messaging::reported;
use crate::telemetry::{Health, Metrics};

/// Connects once. `acks_in_flight` sizes the buffer of the subscription that acknowledgements come
/// to: one that does not fit is dropped.
///
/// # Errors
/// When no server answers, or none accepts our credentials.
pub(crate) async fn connect(
    config: &NatsConfig,
    acks_in_flight: usize,
) -> Result<(Client, Disconnects), Error> {
    let metrics = Metrics::default();
    let health = Health::new(metrics.clone());
    connection::connect("ganesh-produce", config, acks_in_flight, &health, &metrics).await
}

/// The subjects that the stream takes. `ganesh serve` makes the stream: one made here could differ.
///
/// # Errors
/// When `JetStream` does not answer, or has no such stream.
pub(crate) async fn stream_subjects(
    client: &Client,
    config: &NatsConfig,
) -> Result<Vec<String>, Error> {
    let context = connection::jetstream(client.clone(), config);
    match reported::stream(&context, &config.stream).await? {
        Some(stream) => {
            let subjects = stream.config.texts("subjects").into_iter();
            Ok(subjects.map(str::to_owned).collect())
        }
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
/// Fatal ones, which name the setting and what was expected.
pub(super) fn check_subjects(
    config: &NatsConfig,
    taken: &[String],
    ours: &[Subject],
) -> Result<(), Error> {
    let taken_by_one = |subject: &Subject| taken.iter().any(|pattern| covers(pattern, subject));
    match ours.iter().find(|subject| !taken_by_one(subject)) {
        None => Ok(()),
        Some(subject) => Err(misfit(format!(
            "GANESH_SUBJECTS={:?}: expected subjects of stream {}, which takes {} and not {subject}",
            config.subjects.join(","),
            config.stream,
            taken.join(","),
        ))),
    }
}

/// A setting that does not fit the stream or the server.
pub(super) fn misfit(detail: String) -> Error {
    Error::new(Dependency::Nats, Class::Fatal, Code::Setup, detail)
}
