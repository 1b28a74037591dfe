//! What `ganesh dlq` can be told.

use std::time::SystemTime;

use clap::ArgMatches;
use strum::VariantArray as _;

use crate::config::{Reader, is_subject, parse_duration};
use crate::event::Timestamp;
use crate::labels::Reason;
use crate::messaging::letters::scan::Filter;

pub(super) const JSON: &str = "GANESH_DLQ_JSON";
pub(super) const RAW: &str = "GANESH_DLQ_RAW";
pub(super) const DRY_RUN: &str = "GANESH_DLQ_DRY_RUN";
pub(super) const RATE: &str = "GANESH_DLQ_RATE";
pub(super) const MAX_GENERATION: &str = "GANESH_DLQ_MAX_GENERATION";
pub(super) const YES: &str = "GANESH_DLQ_YES";
pub(super) const FILTERS: [&str; 4] = [
    "GANESH_DLQ_REASON",
    "GANESH_DLQ_SUBJECT",
    "GANESH_DLQ_SINCE",
    "GANESH_DLQ_LIMIT",
];
/// The settings that every command of `dlq` uses, beside its own.
pub(super) const SHARED: [&str; 4] = [
    "NATS_URL",
    "GANESH_DLQ_STREAM",
    "GANESH_LOG",
    "GANESH_LOG_FORMAT",
];

#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub(super) filter: Filter,
    /// Only this many, oldest first.
    pub(super) limit: u64,
}

pub(super) fn reader(matches: &ArgMatches) -> Reader {
    Reader::new(matches, std::env::vars_os())
}

pub(super) fn selection(r: &mut Reader) -> Selection {
    let reasons = Reason::VARIANTS
        .iter()
        .map(|reason| reason.into_str())
        .collect::<Vec<_>>();
    let expected = format!("one or several of {}", reasons.join(", "));
    let [reason, subject, since_time, limit] = FILTERS;
    Selection {
        filter: Filter {
            reasons: r
                .optional(reason, &expected, |raw| known(raw, &reasons))
                .unwrap_or_default(),
            subject: r.optional(subject, "a subject such as orders.* or events.>", |raw| {
                is_subject(raw).then(|| raw.to_owned())
            }),
            since: r.optional(
                since_time,
                "a duration such as 30m, 2h or 7d, or a time such as 2026-01-31T08:00:00Z",
                since,
            ),
        },
        limit: r
            .optional(limit, "1 or more", |raw| {
                raw.parse().ok().filter(|limit| *limit > 0)
            })
            .unwrap_or(u64::MAX),
    }
}

fn known(raw: &str, reasons: &[&str]) -> Option<Vec<String>> {
    raw.split(',')
        .map(|reason| {
            let reason = reason.trim();
            reasons.contains(&reason).then(|| reason.to_owned())
        })
        .collect()
}

fn since(raw: &str) -> Option<Timestamp> {
    if let Some(ago) = parse_duration(raw) {
        let since = SystemTime::now().checked_sub(ago)?;
        let since_epoch = since.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        return i64::try_from(since_epoch.as_micros())
            .ok()
            .map(Timestamp::from_micros);
    }
    Timestamp::parse_rfc3339(raw)
}
