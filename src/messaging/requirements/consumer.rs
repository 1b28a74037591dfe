//! The settings of the consumer.

use serde_json::Value;

use super::Verdict;
use crate::config::{NatsConfig, PipelineConfig, covers};
use crate::event::Timestamp;
use crate::messaging::pull::{PULL_EXPIRES, PULLS_MAX};
use crate::messaging::reported::{ReportedConfig, duration, is_unset};

/// `max_ack_pending` is shared by all replicas, and one that fills it starves the
/// others: room for this many of them.
const REPLICAS_WITH_ROOM: usize = 16;
/// In the metadata of a consumer: the database that it feeds.
pub(in crate::messaging) const DATABASE: &str = "ganesh-database";
const ANOTHER: &str = "delete the consumer, or name another with GANESH_CONSUMER";
/// Any value of these is fit.
const ANY_VALUE: [&str; 9] = [
    "durable_name",
    "name",
    "description",
    "metadata",
    "opt_start_seq",
    "opt_start_time",
    "sample_freq",
    "num_replicas",
    "mem_storage",
];

/// The least `max_ack_pending` of the consumer with this configuration.
pub(in crate::messaging) fn max_ack_pending(pipeline: &PipelineConfig) -> i64 {
    i64::try_from(pipeline.max_in_flight * REPLICAS_WITH_ROOM).unwrap_or(i64::MAX)
}

/// The patterns of a consumer that takes some subjects alone; empty if it takes all.
pub(in crate::messaging) fn filters(consumer: &ReportedConfig) -> Vec<&str> {
    let one = Some(consumer.text("filter_subject")).filter(|subject| !subject.is_empty());
    let several = consumer.texts("filter_subjects");
    one.into_iter().chain(several).collect()
}

impl Verdict {
    pub(super) fn check_consumer(
        &mut self,
        consumer: &ReportedConfig,
        nats: &NatsConfig,
        pipeline: &PipelineConfig,
    ) {
        for (name, value) in consumer.given() {
            let is_known = ANY_VALUE.contains(&name)
                || self.check_delivery((name, value))
                || self.check_acknowledgement((name, value), nats)
                || self.check_limits((name, value), consumer, pipeline);
            if !is_known && !name.starts_with("filter_subject") {
                self.refuse_unknown((name, value), "name another consumer with GANESH_CONSUMER");
            }
        }
        self.check_filters(&filters(consumer), nats);
    }

    /// Two databases on one consumer would each get a part of the events.
    pub(super) fn check_database(&mut self, consumer: &ReportedConfig, database: Option<&str>) {
        let Some(database) = database else { return };
        match consumer.metadata(DATABASE) {
            None => self.warn(format_args!(
                "its metadata does not say which database it feeds, so that nobody would notice a second one: \
                 set {DATABASE} to {database}"
            )),
            Some(other) => self.check(
                other != database,
                format_args!(
                    "{DATABASE} is {}, and this database is {database}: each would get a part of the events",
                    crate::text::on_one_line(other)
                ),
                format_args!(
                    "name another consumer with GANESH_CONSUMER; if this database took the other one's place, \
                     set {DATABASE} in the consumer's metadata to {database}"
                ),
            ),
        }
    }

    /// Every message of the stream is delivered, whole and at once. Returns whether the setting is one
    /// of these.
    fn check_delivery(&mut self, setting: (&str, &Value)) -> bool {
        let (name, value) = setting;
        let is_one_of = |words: &[&str]| value.as_str().is_some_and(|text| words.contains(&text));
        match name {
            "deliver_subject" => self.check(
                true,
                "it is a push consumer",
                "delete it, or name another with GANESH_CONSUMER",
            ),
            "deliver_policy" => self.require(
                is_one_of(&["all", "by_start_sequence", "by_start_time"]),
                setting,
                "messages that the stream has already would never be stored",
                format_args!("deliver_policy cannot be edited: {ANOTHER}"),
            ),
            "replay_policy" => self.require(
                is_one_of(&["instant"]),
                setting,
                "a backlog would be delivered as slowly as it was published",
                format_args!("replay_policy cannot be edited: {ANOTHER}"),
            ),
            "headers_only" => self.require(
                false,
                setting,
                "bodies would be lost",
                "set headers_only to false",
            ),
            "priority_policy" if is_one_of(&["none"]) => {}
            "priority_policy" => self.require(
                false,
                setting,
                "the server would deliver nothing to ganesh, whose pulls name no priority group",
                "remove priority_policy and priority_groups, or name another consumer with GANESH_CONSUMER",
            ),
            // They come with a policy.
            "priority_groups" | "priority_timeout" => {}
            "pause_until" => self.check_pause(value),
            _ => return false,
        }
        true
    }

    /// A pause ends by itself, or when somebody ends it: ganesh waits.
    fn check_pause(&mut self, until: &Value) {
        let until = until.as_str().unwrap_or_default();
        let ends = Timestamp::parse_rfc3339(until);
        if ends.is_none_or(|ends| ends > Timestamp::now()) {
            self.warn(format_args!(
                "it is paused (pause_until is {}): nothing is delivered until then, unless somebody resumes it",
                crate::text::on_one_line(until)
            ));
        }
    }

    fn check_filters(&mut self, filters: &[&str], nats: &NatsConfig) {
        let is_taken = |subject: &String| filters.iter().any(|filter| covers(filter, subject));
        self.check(
            !filters.is_empty() && !nats.subjects.iter().all(is_taken),
            format_args!(
                "it takes {} alone: other messages of the stream would never be stored",
                filters.join(", ")
            ),
            "remove filter_subject and filter_subjects, or name another consumer with GANESH_CONSUMER",
        );
    }

    /// A message is done when its row is committed, and not before. Returns whether the setting is one
    /// of these.
    fn check_acknowledgement(&mut self, setting: (&str, &Value), nats: &NatsConfig) -> bool {
        let (name, value) = setting;
        match name {
            "ack_policy" => self.require(
                value == "explicit",
                setting,
                "a message would count as done before its row is committed",
                format_args!("ack_policy cannot be edited: {ANOTHER}"),
            ),
            "max_deliver" => self.require(
                value.as_i64().is_some_and(|count| count < 0),
                setting,
                "the server would give up on a message silently",
                "set max_deliver to -1",
            ),
            "ack_wait" => {
                let (ack_wait, wanted) = (duration(value), nats.ack_wait);
                self.check(
                    ack_wait < wanted,
                    format_args!(
                        "ack_wait is {ack_wait:?}, shorter than GANESH_ACK_WAIT={wanted:?}: messages would be delivered again while they are being stored"
                    ),
                    format_args!("set ack_wait to {wanted:?} or more, or GANESH_ACK_WAIT lower"),
                );
            }
            "backoff" => self.check(
                !is_unset(value),
                "it has a backoff, which takes the place of ack_wait",
                "remove the backoff",
            ),
            "inactive_threshold" => self.require(
                false,
                setting,
                "the server would delete the consumer, and its position with it, when ganesh is away for so long",
                "set inactive_threshold to 0",
            ),
            _ => return false,
        }
        true
    }

    /// Each replica may pull as much as it can hold. Returns whether the setting is one of these.
    fn check_limits(
        &mut self,
        setting: (&str, &Value),
        consumer: &ReportedConfig,
        pipeline: &PipelineConfig,
    ) -> bool {
        let (name, value) = setting;
        let number = value.as_i64().unwrap_or_default();
        match name {
            "max_ack_pending" if consumer.is_servers_limit(number.into()) => {
                self.warn(format_args!(
                    "max_ack_pending is {number}, which is the server's limit: all replicas together hold \
                     no more messages"
                ));
            }
            "max_ack_pending" => {
                let wanted = max_ack_pending(pipeline);
                self.require(
                    number < 0 || number >= wanted,
                    setting,
                    "replicas would starve each other",
                    format_args!(
                        "set max_ack_pending to {wanted} ({REPLICAS_WITH_ROOM} times GANESH_MAX_IN_FLIGHT) or more, or GANESH_MAX_IN_FLIGHT lower"
                    ),
                );
            }
            "max_waiting" => {
                let wanted = i64::try_from(REPLICAS_WITH_ROOM * PULLS_MAX).unwrap_or(i64::MAX);
                self.require(
                    number >= wanted,
                    setting,
                    "the server would refuse pulls of replicas",
                    format_args!("max_waiting cannot be edited, and {wanted} is enough: {ANOTHER}"),
                );
            }
            "max_batch" => self.warn(format_args!(
                "max_batch is {number}: no pull asks for more messages, which costs throughput"
            )),
            "max_bytes" => {
                let most = pipeline.max_in_flight_bytes;
                self.require(
                    usize::try_from(number).is_ok_and(|bytes| bytes >= most),
                    setting,
                    "the server would refuse pulls of ganesh, or a large message could never be delivered",
                    format_args!(
                        "remove max_bytes, or set it to {most} (GANESH_MAX_IN_FLIGHT_BYTES) or more"
                    ),
                );
            }
            "max_expires" => self.require(
                duration(value) >= PULL_EXPIRES,
                setting,
                "the server would refuse the pulls of ganesh",
                format_args!("remove max_expires, or set it to {PULL_EXPIRES:?} or more"),
            ),
            _ => return false,
        }
        true
    }
}
