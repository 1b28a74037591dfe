//! The event stream, the dead-letter stream and its bucket: as ganesh makes them when they are
//! missing.

use std::time::Duration;

use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};

use super::connection::setup_error;
use super::letters::bucket;
use crate::config::{DLQ_SUBJECTS, NatsConfig};
use crate::error::{Class, Code, Dependency, Error};

/// Dead letters are published to `dlq.<original subject>`.
pub(crate) const DLQ_SUBJECT_PREFIX: &str = "dlq.";
/// Writing a dead letter twice within this time is one letter.
pub const DLQ_DUPLICATE_WINDOW: Duration = Duration::from_hours(24);
/// How long the event stream remembers a `Nats-Msg-Id`: NATS's own default.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// The event stream as ganesh makes it.
pub fn event_stream(config: &NatsConfig) -> Config {
    Config {
        name: config.stream.clone(),
        subjects: config.subjects.clone(),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        max_age: config.stream_max_age,
        max_bytes: i64::try_from(config.stream_max_bytes).unwrap_or(i64::MAX),
        duplicate_window: DUPLICATE_WINDOW.min(config.stream_max_age),
        allow_direct: true,
        ..Config::default()
    }
}

/// The dead-letter stream as ganesh makes it: a full one rejects letters, and drops none.
pub fn dlq_stream(config: &NatsConfig) -> Config {
    Config {
        name: config.dlq_stream.clone(),
        subjects: vec![DLQ_SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        duplicate_window: DLQ_DUPLICATE_WINDOW,
        allow_direct: true,
        ..Config::default()
    }
}

/// The stream of the letters' bucket as ganesh makes it: like an Object Store of NATS.
pub fn bucket_stream(letters: &Config) -> Config {
    Config {
        name: bucket::stream_name(&letters.name),
        subjects: bucket::subjects(&letters.name).to_vec(),
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: letters.num_replicas,
        allow_rollup: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// # Errors
/// When JetStream refuses, for instance because another stream has these subjects.
pub(crate) async fn create(jetstream: &Context, config: Config) -> Result<(), Error> {
    let name = config.name.clone();
    jetstream.create_stream(config).await.map_err(|error| {
        let refused = match error.kind() {
            CreateStreamErrorKind::JetStream(answer) => Some(answer),
            _ => None,
        };
        creation_error(
            &format!("creating stream {name}: {error}"),
            refused.as_ref(),
        )
    })?;
    tracing::info!(stream = name, "stream created");
    Ok(())
}

/// The error of a creation. Retrying does not help when the server rejects the settings, such as
/// subjects of another stream; unless another replica was faster, and its stream or consumer can be
/// checked.
pub(super) fn creation_error(detail: &str, refused: Option<&jetstream::Error>) -> Error {
    const BAD_REQUEST: usize = 400;
    let there_by_now = [
        ErrorCode::STREAM_NAME_EXIST,
        ErrorCode::CONSUMER_NAME_EXIST,
        ErrorCode::CONSUMER_ALREADY_EXISTS,
    ];
    match refused {
        Some(answer)
            if answer.code() == BAD_REQUEST && !there_by_now.contains(&answer.error_code()) =>
        {
            let fix = if answer.error_code() == ErrorCode::STREAM_SUBJECT_OVERLAP {
                ": set GANESH_STREAM to the stream that has them, or GANESH_SUBJECTS to others"
            } else {
                ""
            };
            setup_error(format!("{detail}{fix}"))
        }
        _ => api_error(detail),
    }
}

/// An error of JetStream's API. Trying again may help: streams move, servers restart.
pub(in crate::messaging) fn api_error(detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, Code::Response, detail)
}
