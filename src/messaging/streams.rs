//! The event stream, the dead-letter stream and its bucket: as ganesh makes them when they are
//! missing.

use std::time::Duration;

use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};

use super::connection::setup_error;
use super::letters::bucket;
use super::refusals::{self, SERVER_LIMIT};
use crate::config::{DLQ_SUBJECTS, NatsConfig};
use crate::error::{Class, Code, Dependency, Error};

/// Dead letters are published to `dlq.<original subject>`, unless another stream has `dlq.>`.
pub(crate) const DLQ_SUBJECT_PREFIX: &str = "dlq.";
/// Writing a dead letter twice within this time is one letter.
pub const DLQ_DUPLICATE_WINDOW: Duration = Duration::from_hours(24);
/// How long the event stream remembers a `Nats-Msg-Id`: NATS's own default.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// Replicas of a stream in a cluster, unless a setting says otherwise.
const REPLICAS_IN_CLUSTER: usize = 3;

/// Replicas of the streams that ganesh makes.
pub(super) fn replicas(jetstream: &Context, config: &NatsConfig) -> usize {
    config.stream_replicas.unwrap_or_else(|| {
        let cluster = jetstream.client().server_info().cluster;
        match cluster.filter(|name| !name.is_empty()) {
            Some(_) => REPLICAS_IN_CLUSTER,
            None => 1,
        }
    })
}

/// The event stream as ganesh makes it, but for its replicas.
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

/// The dead-letter stream as ganesh makes it, but for its replicas: a full one rejects letters, and drops none.
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

/// Whether a stream was made.
#[must_use]
pub(super) enum Creation {
    Done(Box<Info>),
    /// Another stream has its subjects; the error that says so.
    Overlaps(Error),
}

impl Creation {
    /// # Errors
    /// When it was not.
    pub(super) fn done(self) -> Result<Info, Error> {
        match self {
            Self::Done(info) => Ok(*info),
            Self::Overlaps(error) => Err(error),
        }
    }
}

/// The subjects of letters whose stream cannot have `dlq.>`.
pub(super) fn own_subjects(name: &str) -> String {
    format!("{name}.>")
}

/// What the subjects of letters begin with, in a stream of this name with these subjects.
pub(super) fn letter_prefix(name: &str, subjects: &[&str]) -> String {
    let has = |subject: &str| subjects.contains(&subject);
    if !has(DLQ_SUBJECTS) && !has(">") && has(&own_subjects(name)) {
        return format!("{name}.");
    }
    DLQ_SUBJECT_PREFIX.to_owned()
}

/// Makes a stream. A window for duplicates that is larger than the server's limit becomes that limit.
/// `overlap_fix`: what to change where another stream has its subjects.
///
/// # Errors
/// When JetStream refuses.
pub(super) async fn create(
    jetstream: &Context,
    mut config: Config,
    overlap_fix: &str,
) -> Result<Creation, Error> {
    let name = config.name.clone();
    let mut made = ask_for(jetstream, &config).await?;
    let limit = made.as_ref().err().and_then(refusals::duplicates_limit);
    if let Some(limit) = limit.filter(|limit| *limit < config.duplicate_window) {
        config.duplicate_window = limit;
        let noted = limit.as_nanos().to_string();
        config.metadata.insert(SERVER_LIMIT.to_owned(), noted);
        made = ask_for(jetstream, &config).await?;
    }
    let answer = match made {
        Ok(info) => {
            tracing::info!(stream = name, "stream created");
            return Ok(Creation::Done(info));
        }
        Err(answer) => answer,
    };
    let detail = format!("creating stream {name}");
    match answer.error_code() {
        ErrorCode::STREAM_SUBJECT_OVERLAP => Ok(Creation::Overlaps(setup_error(format!(
            "{detail}: {answer}. To fix it: {overlap_fix}"
        )))),
        ErrorCode::STREAM_MAX_BYTES_REQUIRED => Err(setup_error(format!(
            "{detail}: {answer}. To fix it: make stream {name} yourself with max_bytes; docs/RELIABILITY.md has \
             the command"
        ))),
        _ => Err(refusals::refused(&detail, &answer)),
    }
}

/// Deletes a stream that this start made. If it is not as it was made, or not empty, somebody uses it by now,
/// and it stays.
pub(super) async fn remove_unused(jetstream: &Context, made: &Info) {
    let name = &made.config.name;
    let removed = async {
        let found = jetstream.get_stream(name).await;
        let found = found.map_err(|error| error.to_string())?;
        let now = found.cached_info();
        let is_as_made = now.created == made.created && now.config == made.config;
        if !is_as_made || now.state.last_sequence > 0 || now.state.consumer_count > 0 {
            return Err("another client uses it".to_owned());
        }
        let deleted = jetstream.delete_stream(name).await;
        deleted.map(|_| ()).map_err(|error| error.to_string())
    };
    if let Err(error) = removed.await {
        tracing::warn!(
            stream = name,
            error,
            "a stream that this start made is not deleted"
        );
    }
}

/// Asks for a stream once. The inner error is the server's refusal.
async fn ask_for(
    jetstream: &Context,
    config: &Config,
) -> Result<Result<Box<Info>, jetstream::Error>, Error> {
    let created = jetstream.create_stream(config).await;
    match created.map_err(|error| (error.kind(), error)) {
        Ok(stream) => Ok(Ok(Box::new(stream.cached_info().clone()))),
        Err((CreateStreamErrorKind::JetStream(answer), _)) => Ok(Err(answer)),
        Err((_, error)) => Err(api_error(&format!(
            "creating stream {}: {error}",
            config.name
        ))),
    }
}

/// An error of JetStream's API. Trying again may help: streams move, servers restart.
pub(in crate::messaging) fn api_error(detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, Code::Response, detail)
}
