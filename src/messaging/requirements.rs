//! What ganesh requires of a stream or a consumer that exists already.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy};

use crate::config::{NatsConfig, PipelineConfig, covers};

/// `max_ack_pending` is shared by all replicas, and one that fills it starves the
/// others: room for this many of them.
pub(crate) const REPLICAS_WITH_ROOM: usize = 16;

/// A setting of an existing stream or consumer that breaks a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// `stream EVENTS` or `consumer ganesh`.
    pub(crate) what: String,
    pub(crate) problem: String,
    pub(crate) fix: String,
}

impl Violation {
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

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}. To fix it: {}",
            self.what, self.problem, self.fix
        )
    }
}

/// The least `max_ack_pending` of the consumer with this configuration.
pub(super) fn max_ack_pending(pipeline: &PipelineConfig) -> i64 {
    i64::try_from(pipeline.max_in_flight * REPLICAS_WITH_ROOM).unwrap_or(i64::MAX)
}

/// The subjects of a filtered consumer.
fn filters(consumer: &Config) -> Vec<&str> {
    let one = Some(&consumer.filter_subject).filter(|subject| !subject.is_empty());
    let filters = one.into_iter().chain(&consumer.filter_subjects);
    filters.map(String::as_str).collect()
}

/// Returns the settings of an existing consumer that break a promise.
pub(crate) fn consumer_violations(
    consumer: &Config,
    nats: &NatsConfig,
    pipeline: &PipelineConfig,
) -> Vec<Violation> {
    let mut checks = Checks {
        what: format!("consumer {}", nats.consumer),
        violations: Vec::new(),
    };
    check_delivery(&mut checks, consumer, nats);
    check_acknowledgement(&mut checks, consumer, nats);
    check_limits(&mut checks, consumer, pipeline);
    checks.violations
}

struct Checks {
    what: String,
    violations: Vec<Violation>,
}

impl Checks {
    fn check(&mut self, broken: bool, problem: &str, fix: &str) {
        if broken {
            self.violations
                .push(Violation::new(self.what.clone(), problem, fix));
        }
    }
}

/// Every message of the stream is delivered, whole.
fn check_delivery(checks: &mut Checks, consumer: &Config, nats: &NatsConfig) {
    checks.check(
        consumer.deliver_subject.is_some(),
        "it is a push consumer",
        "delete it, or name another with GANESH_CONSUMER",
    );
    let skips = matches!(
        consumer.deliver_policy,
        DeliverPolicy::New | DeliverPolicy::Last | DeliverPolicy::LastPerSubject
    );
    checks.check(
        skips,
        &format!(
            "deliver_policy is {:?}: messages that the stream has already would never be stored",
            consumer.deliver_policy
        ),
        "deliver_policy cannot be edited: delete the consumer, or name another with GANESH_CONSUMER",
    );
    let filters = filters(consumer);
    let is_taken = |subject: &String| filters.iter().any(|filter| covers(filter, subject));
    checks.check(
        !filters.is_empty() && !nats.subjects.iter().all(is_taken),
        &format!(
            "it takes {} alone: other messages of the stream would never be stored",
            filters.join(", ")
        ),
        "remove filter_subject and filter_subjects, or name another consumer with GANESH_CONSUMER",
    );
    checks.check(
        consumer.headers_only,
        "headers_only is true: bodies would be lost",
        "set headers_only to false",
    );
}

/// A message is done when its row is committed, and not before.
fn check_acknowledgement(checks: &mut Checks, consumer: &Config, nats: &NatsConfig) {
    checks.check(
        consumer.ack_policy != AckPolicy::Explicit,
        &format!(
            "ack_policy is {:?}: a message would count as done before its row is committed",
            consumer.ack_policy
        ),
        "ack_policy cannot be edited: delete the consumer, or name another with GANESH_CONSUMER",
    );
    checks.check(
        consumer.max_deliver > 0,
        &format!(
            "max_deliver is {}: the server would give up on a message silently",
            consumer.max_deliver
        ),
        "set max_deliver to -1",
    );
    checks.check(
        consumer.ack_wait < nats.ack_wait,
        &format!(
            "ack_wait is {:?}, shorter than GANESH_ACK_WAIT={:?}: messages would be delivered again while they are being stored",
            consumer.ack_wait, nats.ack_wait
        ),
        &format!(
            "set ack_wait to {:?} or more, or GANESH_ACK_WAIT lower",
            nats.ack_wait
        ),
    );
    checks.check(
        !consumer.backoff.is_empty(),
        "it has a backoff, which takes the place of ack_wait",
        "remove the backoff",
    );
}

/// Each replica may pull as much as it can hold.
fn check_limits(checks: &mut Checks, consumer: &Config, pipeline: &PipelineConfig) {
    let wanted = max_ack_pending(pipeline);
    checks.check(
        consumer.max_ack_pending > 0 && consumer.max_ack_pending < wanted,
        &format!(
            "max_ack_pending is {}: replicas would starve each other",
            consumer.max_ack_pending
        ),
        &format!(
            "set max_ack_pending to {wanted} ({REPLICAS_WITH_ROOM} times GANESH_MAX_IN_FLIGHT) or more, or GANESH_MAX_IN_FLIGHT lower"
        ),
    );
    checks.check(
        consumer.max_batch > 0 || consumer.max_bytes > 0 || consumer.max_expires > Duration::ZERO,
        "it limits pull requests (max_batch, max_bytes or max_expires), so the server would refuse ours",
        "remove max_batch, max_bytes and max_expires",
    );
}
