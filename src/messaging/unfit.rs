//! What of a stream or a consumer that exists already breaks a promise.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy};

use crate::config::{NatsConfig, PipelineConfig, covers};

/// `max_ack_pending` is shared by all replicas, and one that fills it starves the
/// others: room for this many of them.
pub(crate) const REPLICAS_WITH_ROOM: usize = 16;

/// A setting of something that exists which breaks a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// Which stream or consumer.
    pub(crate) what: String,
    /// What is wrong with it.
    pub(crate) problem: String,
    /// What to do.
    pub(crate) fix: String,
}

impl Unfit {
    pub(super) fn stream(name: &str, problem: &str, fix: &str) -> Self {
        Self::new(format!("stream {name}"), problem, fix)
    }

    fn new(what: String, problem: &str, fix: &str) -> Self {
        Self {
            what,
            problem: problem.to_owned(),
            fix: fix.to_owned(),
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}. To fix it: {}",
            self.what, self.problem, self.fix
        )
    }
}

/// What the consumer of replicas with this configuration needs at least.
pub(super) fn max_ack_pending(pipeline: &PipelineConfig) -> i64 {
    i64::try_from(pipeline.max_in_flight * REPLICAS_WITH_ROOM).unwrap_or(i64::MAX)
}

/// The subjects that a consumer takes, if it takes some only.
fn filters(consumer: &Config) -> Vec<&str> {
    let one = Some(&consumer.filter_subject).filter(|subject| !subject.is_empty());
    let filters = one.into_iter().chain(&consumer.filter_subjects);
    filters.map(String::as_str).collect()
}

/// What of an existing consumer breaks a promise. A table, and as long as one.
pub(crate) fn consumer_unfit(
    consumer: &Config,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
) -> Vec<Unfit> {
    let mut unfit = Vec::new();
    let mut check = |broken: bool, problem: String, fix: String| {
        if broken {
            unfit.push(Unfit::new(
                format!("consumer {}", nats.consumer),
                &problem,
                &fix,
            ));
        }
    };
    check(
        consumer.deliver_subject.is_some(),
        "it is a push consumer".to_owned(),
        "delete it, or name another with GANESH_CONSUMER".to_owned(),
    );
    check(
        consumer.ack_policy != AckPolicy::Explicit,
        format!(
            "ack_policy is {:?}: a message would count as done before its row is committed",
            consumer.ack_policy
        ),
        "ack_policy cannot be edited: delete the consumer, or name another with GANESH_CONSUMER"
            .to_owned(),
    );
    let skips = matches!(
        consumer.deliver_policy,
        DeliverPolicy::New | DeliverPolicy::Last | DeliverPolicy::LastPerSubject
    );
    check(
        skips,
        format!(
            "deliver_policy is {:?}: messages that the stream has already would never be stored",
            consumer.deliver_policy
        ),
        "deliver_policy cannot be edited: delete the consumer, or name another with GANESH_CONSUMER"
            .to_owned(),
    );
    let filters = filters(consumer);
    let is_taken = |subject: &String| filters.iter().any(|filter| covers(filter, subject));
    check(
        !filters.is_empty() && !nats.subjects.iter().all(is_taken),
        format!(
            "it takes {} alone: other messages of the stream would never be stored",
            filters.join(", ")
        ),
        "remove filter_subject and filter_subjects, or name another consumer with GANESH_CONSUMER"
            .to_owned(),
    );
    check(
        consumer.max_deliver > 0,
        format!(
            "max_deliver is {}: the server would give up on a message silently",
            consumer.max_deliver
        ),
        "set max_deliver to -1".to_owned(),
    );
    check(
        consumer.ack_wait < nats.ack_wait,
        format!(
            "ack_wait is {:?}, shorter than GANESH_ACK_WAIT={:?}: messages would be delivered again while they are being stored",
            consumer.ack_wait, nats.ack_wait
        ),
        format!(
            "set ack_wait to {:?} or more, or GANESH_ACK_WAIT lower",
            nats.ack_wait
        ),
    );
    check(
        !consumer.backoff.is_empty(),
        "it has a backoff, which takes the place of ack_wait".to_owned(),
        "remove the backoff".to_owned(),
    );
    let wanted = max_ack_pending(pipeline);
    check(
        consumer.max_ack_pending > 0 && consumer.max_ack_pending < wanted,
        format!(
            "max_ack_pending is {}: replicas would starve each other",
            consumer.max_ack_pending
        ),
        format!(
            "set max_ack_pending to {wanted} ({REPLICAS_WITH_ROOM} times GANESH_MAX_IN_FLIGHT) or more, or GANESH_MAX_IN_FLIGHT lower"
        ),
    );
    check(
        consumer.headers_only,
        "headers_only is true: bodies would be lost".to_owned(),
        "set headers_only to false".to_owned(),
    );
    let limited =
        consumer.max_batch > 0 || consumer.max_bytes > 0 || consumer.max_expires > Duration::ZERO;
    check(
        limited,
        "it limits pull requests (max_batch, max_bytes or max_expires), so the server would refuse ours".to_owned(),
        "remove max_batch, max_bytes and max_expires".to_owned(),
    );
    unfit
}
