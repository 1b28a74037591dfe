//! The event stream, the dead-letter stream and its bucket: made when missing, checked when
//! they exist, never changed.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};
use time::OffsetDateTime;

use super::letters::bucket;
use super::requirements::Violation;
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

/// The settings of a stream that exists, or `None`.
///
/// # Errors
/// When JetStream does not answer.
pub(crate) async fn existing(jetstream: &Context, name: &str) -> Result<Option<Config>, Error> {
    Ok(info(jetstream, name).await?.map(|info| info.config))
}

/// When a stream was made, or `None`.
///
/// # Errors
/// When JetStream does not answer.
pub(crate) async fn created(
    jetstream: &Context,
    name: &str,
) -> Result<Option<OffsetDateTime>, Error> {
    Ok(info(jetstream, name).await?.map(|info| info.created))
}

/// Returns the stream's info; `None` when it does not exist.
///
/// # Errors
/// When JetStream does not answer.
pub(super) async fn info(jetstream: &Context, name: &str) -> Result<Option<Info>, Error> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(api_error(&format!("stream {name}: {error}"))),
        },
    }
}

/// Makes the stream.
///
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

/// Returns the settings of an existing event stream that break a promise.
pub(crate) fn event_stream_violations(stream: &Config) -> Vec<Violation> {
    let mut violations = Vec::new();
    if stream.no_ack {
        violations.push(Violation::stream(
            &stream.name,
            "no_ack is true: producers cannot know that an event was stored",
            "set no_ack to false",
        ));
    }
    if stream.retention == RetentionPolicy::Interest {
        violations.push(Violation::stream(
            &stream.name,
            "retention is interest: what arrives before the consumer exists is dropped",
            "use retention limits (or workqueue)",
        ));
    }
    violations
}

/// Returns the settings of an existing dead-letter stream that break a promise.
pub(crate) fn dlq_stream_violations(stream: &Config) -> Vec<Violation> {
    let name = &stream.name;
    let mut violations = Vec::new();
    if !bucket::is_name(name) {
        violations.push(Violation::stream(
            name,
            "its bucket has the same name, and no bucket can have this one",
            "name another with GANESH_DLQ_STREAM, of letters, digits, - and _",
        ));
    }
    if !stream
        .subjects
        .iter()
        .any(|s| s == DLQ_SUBJECTS || s == ">")
    {
        violations.push(Violation::stream(
            name,
            &format!("its subjects are {:?}", stream.subjects),
            "add the subject dlq.>",
        ));
    }
    if stream.duplicate_window < DLQ_DUPLICATE_WINDOW {
        violations.push(Violation::stream(
            name,
            &format!("duplicate_window is {:?}", stream.duplicate_window),
            "set duplicate_window to 24h or more",
        ));
    }
    violations.extend(loses_letters(stream));
    violations
}

/// Returns the settings of an existing bucket that break a promise.
pub(crate) fn bucket_stream_violations(stream: &Config, letters: &Config) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut check = |broken: bool, problem: &str, fix: &str| {
        if broken {
            violations.push(Violation::stream(&stream.name, problem, fix));
        }
    };
    let wanted = bucket::subjects(&letters.name);
    check(
        !wanted
            .iter()
            .all(|subject| stream.subjects.contains(subject)),
        &format!("its subjects are {:?}", stream.subjects),
        &format!("set them to {}", wanted.join(" and ")),
    );
    check(
        stream.max_age > Duration::ZERO,
        "it has a max_age: letters would lose what they have in it",
        "remove max_age",
    );
    check(
        !stream.allow_rollup || stream.deny_delete || stream.deny_purge || stream.sealed,
        "it is not open: objects could not be replaced or removed",
        "set allow_rollup_hdrs to true; if deny_delete, deny_purge or sealed is true, delete the bucket, \
         or name another with GANESH_DLQ_STREAM",
    );
    check(
        stream.num_replicas < letters.num_replicas,
        &format!(
            "num_replicas is {}, and that of {} is {}",
            stream.num_replicas, letters.name, letters.num_replicas
        ),
        "set both to the same number",
    );
    violations.extend(loses_letters(stream));
    violations
}

/// Returns settings that lose letters, or their objects.
fn loses_letters(stream: &Config) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut check = |broken: bool, problem: &str, fix: &str| {
        if broken {
            violations.push(Violation::stream(&stream.name, problem, fix));
        }
    };
    check(
        stream.retention != RetentionPolicy::Limits,
        "its retention is not limits: a letter that somebody consumed would be gone",
        "use retention limits",
    );
    check(
        stream.discard != DiscardPolicy::New,
        "discard is old: when it is full, it would drop the oldest letters",
        "set discard to new",
    );
    check(
        stream.storage == StorageType::Memory,
        "its storage is memory: a restart of the server would lose every letter",
        "storage cannot be edited: delete the stream, or name another with GANESH_DLQ_STREAM",
    );
    check(
        stream.no_ack,
        "no_ack is true: nobody would know that a letter is durable",
        "set no_ack to false",
    );
    check(
        stream.max_messages_per_subject > 0 && !stream.discard_new_per_subject,
        &format!(
            "max_msgs_per_subject is {}: more letters of one subject would drop its oldest",
            stream.max_messages_per_subject
        ),
        "remove max_msgs_per_subject",
    );
    check(
        stream.max_message_size > 0,
        &format!(
            "max_msg_size is {}: a message whose letter is larger would never be acknowledged",
            stream.max_message_size
        ),
        "remove max_msg_size",
    );
    violations
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
            let detail = format!("{detail}{fix}");
            Error::new(Dependency::Nats, Class::Fatal, Code::Setup, detail)
        }
        _ => api_error(detail),
    }
}

/// An error of JetStream's API. Trying again may help: streams move, servers restart.
pub(in crate::messaging) fn api_error(detail: &str) -> Error {
    Error::new(Dependency::Nats, Class::Transient, Code::Response, detail)
}
