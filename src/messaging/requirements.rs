//! What ganesh requires of streams, bucket and consumer that exist already. None is ever changed.

use std::fmt::Display;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};

use super::letters::bucket;
use super::streams::{DLQ_DUPLICATE_WINDOW, dlq_stream, existing};
use crate::config::{DLQ_SUBJECTS, NatsConfig, PipelineConfig, covers};
use crate::error::Error;

/// `max_ack_pending` is shared by all replicas, and one that fills it starves the
/// others: room for this many of them.
pub(crate) const REPLICAS_WITH_ROOM: usize = 16;

/// What exists of streams, bucket and consumer.
pub(crate) struct Existing {
    pub(crate) events: Option<stream::Config>,
    pub(crate) letters: Option<stream::Config>,
    pub(crate) bucket: Option<stream::Config>,
    pub(crate) consumer: Option<Config>,
}

/// One of them, judged.
pub(crate) struct Verdict {
    /// `stream EVENTS` or `consumer ganesh`.
    pub(crate) name: String,
    pub(crate) exists: bool,
    /// Settings that break a promise, each with what to do about it.
    pub(crate) violations: Vec<String>,
}

impl Existing {
    /// # Errors
    /// When JetStream does not answer.
    pub(crate) async fn find(jetstream: &Context, nats: &NatsConfig) -> Result<Self, Error> {
        let info = super::consumer::info(jetstream, nats).await?;
        Ok(Self {
            events: existing(jetstream, &nats.stream).await?,
            letters: existing(jetstream, &nats.dlq_stream).await?,
            bucket: existing(jetstream, &bucket::stream_name(&nats.dlq_stream)).await?,
            consumer: info.map(|info| info.config),
        })
    }

    pub(crate) fn verdicts(&self, nats: &NatsConfig, pipeline: &PipelineConfig) -> [Verdict; 4] {
        let letters = self.letters.clone().unwrap_or_else(|| dlq_stream(nats));
        let mut verdicts = [
            Verdict::new("stream", &nats.stream, self.events.is_some()),
            Verdict::new("consumer", &nats.consumer, self.consumer.is_some()),
            Verdict::new("stream", &nats.dlq_stream, self.letters.is_some()),
            Verdict::new(
                "stream",
                &bucket::stream_name(&nats.dlq_stream),
                self.bucket.is_some(),
            ),
        ];
        let [of_events, of_consumer, of_letters, of_bucket] = &mut verdicts;
        if let Some(events) = &self.events {
            of_events.check_events(events);
        }
        if let Some(consumer) = &self.consumer {
            of_consumer.check_consumer(consumer, nats, pipeline);
        }
        // Also before it is made: its name may be one that no bucket can have.
        of_letters.check_letters(&letters);
        if let Some(bucket) = &self.bucket {
            of_bucket.check_bucket(bucket, &letters);
        }
        verdicts
    }
}

/// Returns the settings of an existing consumer that break a promise.
pub(super) fn consumer_violations(
    consumer: &Config,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
) -> Vec<String> {
    let mut verdict = Verdict::new("consumer", &nats.consumer, true);
    verdict.check_consumer(consumer, nats, pipeline);
    verdict.violations
}

/// The least `max_ack_pending` of the consumer with this configuration.
pub(super) fn max_ack_pending(pipeline: &PipelineConfig) -> i64 {
    i64::try_from(pipeline.max_in_flight * REPLICAS_WITH_ROOM).unwrap_or(i64::MAX)
}

impl Verdict {
    fn new(kind: &str, name: &str, exists: bool) -> Self {
        Self {
            name: format!("{kind} {name}"),
            exists,
            violations: Vec::new(),
        }
    }

    fn check(&mut self, broken: bool, problem: impl Display, fix: impl Display) {
        if broken {
            let violation = format!("{}: {problem}. To fix it: {fix}", self.name);
            self.violations.push(violation);
        }
    }

    fn check_events(&mut self, stream: &stream::Config) {
        self.check(
            stream.no_ack,
            "no_ack is true: producers cannot know that an event was stored",
            "set no_ack to false",
        );
        self.check(
            stream.retention == RetentionPolicy::Interest,
            "retention is interest: what arrives before the consumer exists is dropped",
            "use retention limits (or workqueue)",
        );
    }

    fn check_letters(&mut self, stream: &stream::Config) {
        self.check(
            !bucket::is_name(&stream.name),
            "its bucket has the same name, and no bucket can have this one",
            "name another with GANESH_DLQ_STREAM, of letters, digits, - and _",
        );
        let mut subjects = stream.subjects.iter();
        self.check(
            !subjects.any(|subject| subject == DLQ_SUBJECTS || subject == ">"),
            format_args!("its subjects are {:?}", stream.subjects),
            "add the subject dlq.>",
        );
        self.check(
            stream.duplicate_window < DLQ_DUPLICATE_WINDOW,
            format_args!("duplicate_window is {:?}", stream.duplicate_window),
            "set duplicate_window to 24h or more",
        );
        self.check_loses_nothing(stream);
    }

    fn check_bucket(&mut self, stream: &stream::Config, letters: &stream::Config) {
        let wanted = bucket::subjects(&letters.name);
        let takes = |subject| stream.subjects.contains(subject);
        self.check(
            !wanted.iter().all(takes),
            format_args!("its subjects are {:?}", stream.subjects),
            format_args!("set them to {}", wanted.join(" and ")),
        );
        self.check(
            stream.max_age > Duration::ZERO,
            "it has a max_age: letters would lose what they have in it",
            "remove max_age",
        );
        self.check(
            !stream.allow_rollup || stream.deny_delete || stream.deny_purge || stream.sealed,
            "it is not open: objects could not be replaced or removed",
            "set allow_rollup_hdrs to true; if deny_delete, deny_purge or sealed is true, delete the bucket, \
             or name another with GANESH_DLQ_STREAM",
        );
        self.check(
            stream.num_replicas < letters.num_replicas,
            format_args!(
                "num_replicas is {}, and that of {} is {}",
                stream.num_replicas, letters.name, letters.num_replicas
            ),
            "set both to the same number",
        );
        self.check_loses_nothing(stream);
    }

    /// For letters and their objects.
    fn check_loses_nothing(&mut self, stream: &stream::Config) {
        self.check(
            stream.retention != RetentionPolicy::Limits,
            "its retention is not limits: a letter that somebody consumed would be gone",
            "use retention limits",
        );
        self.check(
            stream.discard != DiscardPolicy::New,
            "discard is old: when it is full, it would drop the oldest letters",
            "set discard to new",
        );
        self.check(
            stream.storage == StorageType::Memory,
            "its storage is memory: a restart of the server would lose every letter",
            "storage cannot be edited: delete the stream, or name another with GANESH_DLQ_STREAM",
        );
        self.check(
            stream.no_ack,
            "no_ack is true: nobody would know that a letter is durable",
            "set no_ack to false",
        );
        self.check(
            stream.max_messages_per_subject > 0 && !stream.discard_new_per_subject,
            format_args!(
                "max_msgs_per_subject is {}: more letters of one subject would drop its oldest",
                stream.max_messages_per_subject
            ),
            "remove max_msgs_per_subject",
        );
        self.check(
            stream.max_message_size > 0,
            format_args!(
                "max_msg_size is {}: a message whose letter is larger would never be acknowledged",
                stream.max_message_size
            ),
            "remove max_msg_size",
        );
    }

    fn check_consumer(&mut self, consumer: &Config, nats: &NatsConfig, pipeline: &PipelineConfig) {
        self.check_delivery(consumer, nats);
        self.check_acknowledgement(consumer, nats);
        self.check_limits(consumer, pipeline);
    }

    /// Every message of the stream is delivered, whole.
    fn check_delivery(&mut self, consumer: &Config, nats: &NatsConfig) {
        self.check(
            consumer.deliver_subject.is_some(),
            "it is a push consumer",
            "delete it, or name another with GANESH_CONSUMER",
        );
        let skips = matches!(
            consumer.deliver_policy,
            DeliverPolicy::New | DeliverPolicy::Last | DeliverPolicy::LastPerSubject
        );
        self.check(
            skips,
            format_args!(
                "deliver_policy is {:?}: messages that the stream has already would never be stored",
                consumer.deliver_policy
            ),
            "deliver_policy cannot be edited: delete the consumer, or name another with GANESH_CONSUMER",
        );
        let one = Some(&consumer.filter_subject).filter(|subject| !subject.is_empty());
        let filters: Vec<&str> = (one.into_iter().chain(&consumer.filter_subjects))
            .map(String::as_str)
            .collect();
        let is_taken = |subject: &String| filters.iter().any(|filter| covers(filter, subject));
        self.check(
            !filters.is_empty() && !nats.subjects.iter().all(is_taken),
            format_args!(
                "it takes {} alone: other messages of the stream would never be stored",
                filters.join(", ")
            ),
            "remove filter_subject and filter_subjects, or name another consumer with GANESH_CONSUMER",
        );
        self.check(
            consumer.headers_only,
            "headers_only is true: bodies would be lost",
            "set headers_only to false",
        );
    }

    /// A message is done when its row is committed, and not before.
    fn check_acknowledgement(&mut self, consumer: &Config, nats: &NatsConfig) {
        self.check(
            consumer.ack_policy != AckPolicy::Explicit,
            format_args!(
                "ack_policy is {:?}: a message would count as done before its row is committed",
                consumer.ack_policy
            ),
            "ack_policy cannot be edited: delete the consumer, or name another with GANESH_CONSUMER",
        );
        self.check(
            consumer.max_deliver > 0,
            format_args!(
                "max_deliver is {}: the server would give up on a message silently",
                consumer.max_deliver
            ),
            "set max_deliver to -1",
        );
        self.check(
            consumer.ack_wait < nats.ack_wait,
            format_args!(
                "ack_wait is {:?}, shorter than GANESH_ACK_WAIT={:?}: messages would be delivered again while they are being stored",
                consumer.ack_wait, nats.ack_wait
            ),
            format_args!(
                "set ack_wait to {:?} or more, or GANESH_ACK_WAIT lower",
                nats.ack_wait
            ),
        );
        self.check(
            !consumer.backoff.is_empty(),
            "it has a backoff, which takes the place of ack_wait",
            "remove the backoff",
        );
    }

    /// Each replica may pull as much as it can hold.
    fn check_limits(&mut self, consumer: &Config, pipeline: &PipelineConfig) {
        let wanted = max_ack_pending(pipeline);
        self.check(
            consumer.max_ack_pending > 0 && consumer.max_ack_pending < wanted,
            format_args!(
                "max_ack_pending is {}: replicas would starve each other",
                consumer.max_ack_pending
            ),
            format_args!(
                "set max_ack_pending to {wanted} ({REPLICAS_WITH_ROOM} times GANESH_MAX_IN_FLIGHT) or more, or GANESH_MAX_IN_FLIGHT lower"
            ),
        );
        self.check(
            consumer.max_batch > 0
                || consumer.max_bytes > 0
                || consumer.max_expires > Duration::ZERO,
            "it limits pull requests (max_batch, max_bytes or max_expires), so the server would refuse ours",
            "remove max_batch, max_bytes and max_expires",
        );
    }
}
