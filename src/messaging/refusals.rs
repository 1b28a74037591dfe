//! What JetStream's refusals mean: whether waiting helps, and what to change.

use std::time::Duration;

use async_nats::jetstream::{self, ErrorCode};

use super::connection::setup_error;
use super::streams::api_error;
use crate::error::Error;

/// In the metadata of what ganesh made: the value that a limit of the server left of the one it asked for.
pub(super) const SERVER_LIMIT: &str = "ganesh-server-limit";

const BAD_REQUEST: usize = 400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Trying again may help: streams move, servers restart.
    Transient,
    /// Waiting does not help.
    Permanent,
}

use Meaning::{Permanent, Transient};

/// Refusals by their error code, with what to change. A code that is not here is permanent if its status
/// says that the request was bad.
const REFUSALS: [(u64, Meaning, &str); 17] = [
    // Another replica was faster: its stream or consumer can be checked.
    (10058, Transient, ""),
    (10013, Transient, ""),
    (10148, Transient, ""),
    (10002, Permanent, STORAGE),
    (10047, Permanent, STORAGE),
    (10122, Permanent, STORAGE),
    (10005, Transient, PEERS),
    (10023, Transient, PEERS),
    (
        10026,
        Permanent,
        "allow the account one more consumer (max_consumers)",
    ),
    (
        10027,
        Permanent,
        "ganesh needs three streams: allow the account more (max_streams)",
    ),
    (
        10039,
        Permanent,
        "enable JetStream for the account of this user",
    ),
    (10076, Transient, "enable JetStream on the server"),
    (10052, Permanent, ""),
    (
        10074,
        Permanent,
        "set GANESH_STREAM_REPLICAS to 1, or use a cluster",
    ),
    (
        10120,
        Permanent,
        "allow the account JetStream with so many replicas, or set GANESH_STREAM_REPLICAS",
    ),
    (
        10099,
        Permanent,
        "a work queue has one consumer: delete the other one, or use retention limits",
    ),
    (
        10100,
        Permanent,
        "a work queue has one consumer for a subject: delete the other one, or use retention limits",
    ),
];
const STORAGE: &str = "set GANESH_STREAM_MAX_BYTES lower, or allow account and server more storage \
     (max_file, max_file_store)";
const PEERS: &str = "set GANESH_STREAM_REPLICAS or GANESH_STREAM_MAX_BYTES lower, or add servers";

/// The error of a request that JetStream refused.
pub(super) fn refused(detail: &str, answer: &jetstream::Error) -> Error {
    let known = REFUSALS
        .iter()
        .find(|(code, ..)| *code == answer.error_code().0);
    let (meaning, fix) = match known {
        Some((_, meaning, fix)) => (*meaning, *fix),
        None if answer.code() == BAD_REQUEST => (Permanent, ""),
        None => (Transient, ""),
    };
    let fix = if fix.is_empty() {
        String::new()
    } else {
        format!(". To fix it: {fix}")
    };
    let detail = format!("{detail}: {answer}{fix}");
    match meaning {
        Permanent => setup_error(detail),
        Transient => api_error(&detail),
    }
}

pub(super) fn is(answer: &jetstream::Error, code: ErrorCode) -> bool {
    answer.error_code() == code
}

/// The largest `max_ack_pending` that server, account or stream allow a consumer, where they refused one
/// for it.
pub(super) fn ack_pending_limit(answer: &jetstream::Error) -> Option<i64> {
    let is_limit = is(answer, ErrorCode::CONSUMER_MAX_PENDING_ACK_EXCESS);
    limit_of(answer).filter(|_| is_limit)?.parse().ok()
}

/// The largest duplicate window that the server allows a stream, where it refused one for it.
pub(super) fn duplicates_limit(answer: &jetstream::Error) -> Option<Duration> {
    let is_limit = answer.to_string().starts_with("duplicates window");
    go_duration(limit_of(answer).filter(|_| is_limit)?)
}

/// The server says `… limit of 2000` and no more.
fn limit_of(answer: &jetstream::Error) -> Option<String> {
    let text = answer.to_string();
    let (_, limit) = text.split_once("limit of ")?;
    limit.split_whitespace().next().map(str::to_owned)
}

/// A duration as Go writes it: `1m30s`, `1h0m0s`, `1.5s`, `100ms`.
fn go_duration(text: impl AsRef<str>) -> Option<Duration> {
    const UNITS: [(&str, f64); 6] = [
        ("ns", 1e-9),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("h", 3_600.0),
        ("m", 60.0),
        ("s", 1.0),
    ];
    let mut rest = text.as_ref();
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = &after[unit.len()..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn answer(status: usize, code: u64, description: &str) -> jetstream::Error {
        let answer = serde_json::json!({
            "code": status, "err_code": code, "description": description,
        });
        serde_json::from_value(answer).expect("as the server writes it")
    }

    #[test]
    fn limits_are_read_from_the_servers_words() {
        let acks = answer(
            400,
            10121,
            "consumer max ack pending exceeds system limit of 2000",
        );
        assert_eq!(ack_pending_limit(&acks), Some(2_000));
        let text = "duplicates window can not be larger then server limit of 1h1m1.5s";
        let window = answer(500, 10052, text);
        assert_eq!(
            duplicates_limit(&window),
            Some(Duration::from_millis(3_661_500))
        );
        let other = answer(500, 10052, "maximum replicas is 5");
        assert_eq!(
            (ack_pending_limit(&other), duplicates_limit(&other)),
            (None, None)
        );
    }

    #[test]
    fn what_waiting_does_not_help_is_fatal_and_names_the_setting() {
        let full = refused("creating", &answer(500, 10047, "insufficient storage"));
        assert_eq!(full.class, Class::Fatal);
        assert!(full.detail.contains("GANESH_STREAM_MAX_BYTES"), "{full}");
        for (status, code, class) in [
            (500, 10052, Class::Fatal),
            (400, 99_999, Class::Fatal),
            (503, 10008, Class::Transient),
            (400, 10058, Class::Transient),
            (400, 10005, Class::Transient),
        ] {
            assert_eq!(
                refused("", &answer(status, code, "")).class,
                class,
                "{code}"
            );
        }
    }
}
