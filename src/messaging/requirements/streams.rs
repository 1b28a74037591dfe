//! The settings of the event stream, the dead-letter stream and its bucket.

use std::time::Duration;

use serde_json::Value;

use super::Verdict;
use crate::config::{DLQ_SUBJECTS, NatsConfig};
use crate::messaging::letters::bucket;
use crate::messaging::reported::{ReportedConfig, duration, is_unset};
use crate::messaging::streams::{DLQ_DUPLICATE_WINDOW, own_subjects};

/// Any value of these is fit for every stream.
const ANY_VALUE: [&str; 22] = [
    "name",
    "description",
    "metadata",
    "max_consumers",
    "max_msgs",
    "max_bytes",
    "discard_new_per_subject",
    "num_replicas",
    "placement",
    "compression",
    "first_seq",
    "republish",
    "sources",
    "allow_direct",
    "mirror_direct",
    "deny_purge",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_atomic",
    "allow_batched",
    "template_owner",
    "subject_delete_marker_ttl",
];
/// Any value of these is fit for the event stream, too.
const ANY_VALUE_FOR_EVENTS: [&str; 12] = [
    "subjects",
    "storage",
    "discard",
    "duplicate_window",
    "max_age",
    "max_msgs_per_subject",
    "max_msg_size",
    "mirror",
    "subject_transform",
    "deny_delete",
    "allow_msg_counter",
    "allow_msg_schedules",
];
const ANOTHER_EVENTS: &str = "name another stream with GANESH_STREAM";
const ANOTHER_LETTERS: &str = "name another stream with GANESH_DLQ_STREAM";
const ANOTHER_BUCKET: &str = "delete the bucket, or name another with GANESH_DLQ_STREAM";

impl Verdict {
    pub(super) fn check_events(&mut self, stream: &ReportedConfig) {
        for setting in stream.given() {
            let (name, value) = setting;
            match name {
                "no_ack" => self.require(
                    false,
                    setting,
                    "producers cannot know that an event was stored",
                    "set no_ack to false",
                ),
                "retention" => self.require(
                    value == "limits" || value == "workqueue",
                    setting,
                    "what arrives before the consumer exists is dropped",
                    "use retention limits (or workqueue)",
                ),
                "consumer_limits" => self.require(
                    is_unset(&value["inactive_threshold"]),
                    setting,
                    "the server would delete the consumer, and its position with it, when ganesh is away for so long",
                    "set inactive_threshold of consumer_limits to 0",
                ),
                "sealed" => self.warn("sealed is true: it takes no more events"),
                "persist_mode" if value == "default" => {}
                "persist_mode" => self.require(
                    false,
                    setting,
                    "producers cannot know that an event is durable",
                    format_args!("persist_mode cannot be edited: {ANOTHER_EVENTS}"),
                ),
                _ if ANY_VALUE.contains(&name) || ANY_VALUE_FOR_EVENTS.contains(&name) => {}
                _ => self.refuse_unknown(setting, ANOTHER_EVENTS),
            }
        }
    }

    /// Settings that would make another stream than the one that exists do nothing.
    pub(super) fn warn_of_settings(
        &mut self,
        stream: &ReportedConfig,
        nats: &NatsConfig,
        is_filtered: bool,
    ) {
        let mut different = Vec::new();
        let mut compare = |name: &str, own: String, variable: &str, set: String| {
            if own != set {
                different.push(format!("{name} {own} ({variable} is {set})"));
            }
        };
        let (max_age, max_bytes) = (stream.duration("max_age"), stream.number("max_bytes"));
        let set = nats.stream_max_age;
        compare(
            "max_age is",
            format!("{max_age:?}"),
            "GANESH_STREAM_MAX_AGE",
            format!("{set:?}"),
        );
        let set = nats.stream_max_bytes.to_string();
        compare(
            "max_bytes is",
            max_bytes.to_string(),
            "GANESH_STREAM_MAX_BYTES",
            set,
        );
        // A consumer that takes some subjects alone is checked against the setting.
        if !is_filtered {
            let mut own = stream.texts("subjects");
            let mut set: Vec<&str> = nats.subjects.iter().map(String::as_str).collect();
            own.sort_unstable();
            set.sort_unstable();
            compare(
                "subjects are",
                own.join(","),
                "GANESH_SUBJECTS",
                set.join(","),
            );
        }
        if !different.is_empty() {
            self.warn(format_args!(
                "it exists, and ganesh changes no stream that exists: {}: edit the stream, or the settings",
                different.join(", ")
            ));
        }
    }

    pub(super) fn check_letters(&mut self, stream: &ReportedConfig) {
        self.check(
            !bucket::is_name(stream.text("name")),
            "its bucket has the same name, and no bucket can have this one",
            "name another with GANESH_DLQ_STREAM, of letters, digits, - and _",
        );
        let subjects = stream.texts("subjects");
        let own = own_subjects(stream.text("name"));
        let is_fit = |subject: &&str| [DLQ_SUBJECTS, ">", &own].contains(subject);
        self.check(
            !subjects.iter().any(is_fit),
            format_args!("its subjects are {subjects:?}"),
            format_args!("add the subject dlq.> (or {own}, if another stream has dlq.>)"),
        );
        let window = stream.duration("duplicate_window");
        let is_limited = stream.is_servers_limit(i128::try_from(window.as_nanos()).unwrap_or(0));
        if is_limited && window < DLQ_DUPLICATE_WINDOW {
            self.warn(format_args!(
                "duplicate_window is {window:?}, which is the server's limit: a letter that is written later \
                 again is a second one"
            ));
        }
        self.check(
            window < DLQ_DUPLICATE_WINDOW && !is_limited,
            format_args!("duplicate_window is {window:?}: a letter that is written later again would be a second one"),
            "set duplicate_window to 24h or more",
        );
        for setting in stream.given() {
            match setting.0 {
                "subjects" | "duplicate_window" | "consumer_limits" => {}
                "max_age" => self.warn(format_args!(
                    "max_age is {:?}: it removes older letters",
                    duration(setting.1)
                )),
                _ if self.check_loses_nothing(stream, setting, ANOTHER_LETTERS) => {}
                _ => self.refuse_unknown(setting, ANOTHER_LETTERS),
            }
        }
    }

    pub(super) fn check_bucket(&mut self, stream: &ReportedConfig, letters: &ReportedConfig) {
        let letters_name = letters.text("name");
        let wanted = bucket::subjects(letters_name);
        let subjects = stream.texts("subjects");
        let is_taken = |subject: &String| subjects.contains(&subject.as_str());
        self.check(
            !wanted.iter().all(is_taken),
            format_args!("its subjects are {subjects:?}"),
            format_args!("set them to {}", wanted.join(" and ")),
        );
        self.check(
            is_unset(stream.get("allow_rollup_hdrs")),
            "allow_rollup_hdrs is false: objects could not be replaced",
            "set allow_rollup_hdrs to true",
        );
        self.check_replicas(stream, letters);
        for setting in stream.given() {
            match setting.0 {
                "subjects" | "duplicate_window" | "consumer_limits" => {}
                "max_age" => self.require(
                    false,
                    setting,
                    "letters would lose what they have in it",
                    "remove max_age",
                ),
                "deny_purge" => self.require(
                    false,
                    setting,
                    "objects could not be removed",
                    format_args!("deny_purge cannot be edited: {ANOTHER_BUCKET}"),
                ),
                _ if self.check_loses_nothing(stream, setting, ANOTHER_BUCKET) => {}
                _ => self.refuse_unknown(setting, ANOTHER_BUCKET),
            }
        }
    }

    /// Its message was acknowledged: a letter must be as durable, and so must its object.
    pub(super) fn check_replicas(&mut self, stream: &ReportedConfig, other: &ReportedConfig) {
        let [own, wanted] = [stream, other].map(ReportedConfig::replicas);
        self.check(
            own < wanted,
            format_args!(
                "num_replicas is {own}, and that of {} is {wanted}: a lost server could lose letters",
                other.text("name")
            ),
            format_args!("set num_replicas to {wanted} or more"),
        );
    }

    /// For letters and their objects. Returns whether the setting is known.
    fn check_loses_nothing(
        &mut self,
        stream: &ReportedConfig,
        setting: (&str, &Value),
        another: &str,
    ) -> bool {
        let (name, value) = setting;
        let limit = value.as_i64().unwrap_or_default();
        let (fit, why, fix) = match name {
            "retention" => (
                value == "limits",
                "a letter that somebody consumed would be gone",
                "use retention limits",
            ),
            "discard" => (
                value == "new",
                "when it is full, it would drop the oldest letters",
                "set discard to new",
            ),
            "storage" => (
                value == "file",
                "a restart of the server would lose every letter",
                "storage cannot be edited: delete the stream, or name another with GANESH_DLQ_STREAM",
            ),
            "no_ack" => (
                false,
                "nobody would know that a letter is durable",
                "set no_ack to false",
            ),
            "max_msgs_per_subject" => (
                limit < 0 || !is_unset(stream.get("discard_new_per_subject")),
                "more letters of one subject would drop its oldest",
                "remove max_msgs_per_subject",
            ),
            "max_msg_size" => (
                limit < 0,
                "a message whose letter is larger would never be acknowledged",
                "remove max_msg_size",
            ),
            _ => return self.check_is_open(setting, another),
        };
        self.require(fit, setting, why, fix);
        true
    }

    /// Letters and objects can be written, read on their own subjects, and removed.
    fn check_is_open(&mut self, setting: (&str, &Value), another: &str) -> bool {
        let (name, value) = setting;
        let why = match name {
            "persist_mode" if value == "default" => return true,
            "persist_mode" => "a letter would count as stored before it is durable",
            "sealed" => "it takes no letters",
            "mirror" => "a mirror takes no letters",
            "deny_delete" => "letters that were replayed could not be removed",
            "allow_msg_counter" => "it takes counters alone",
            "subject_transform" => "letters would not be found under their subjects",
            _ => return ANY_VALUE.contains(&name),
        };
        self.require(
            false,
            setting,
            why,
            format_args!("remove {name}; where it cannot be edited, {another}"),
        );
        true
    }
}

/// The limits by which a stream removes messages, each with its value.
pub(crate) fn limits(stream: &ReportedConfig) -> Vec<String> {
    let mut limits = Vec::new();
    let max_age = stream.duration("max_age");
    if max_age > Duration::ZERO {
        limits.push(format!("max_age {max_age:?}"));
    }
    for name in ["max_bytes", "max_msgs", "max_msgs_per_subject"] {
        let limit = stream.number(name);
        if limit > 0 {
            limits.push(format!("{name} {limit}"));
        }
    }
    if !is_unset(stream.get("allow_msg_ttl")) {
        limits.push("allow_msg_ttl true".to_owned());
    }
    limits
}
