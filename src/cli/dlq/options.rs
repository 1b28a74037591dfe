//! What `ganesh dlq` can be told.

use std::collections::HashMap;
use std::time::SystemTime;

use clap::{Arg, ArgMatches};
use strum::VariantArray as _;

use crate::cli::option_argument;
use crate::config::{Setting, given, is_subject, parse_duration};
use crate::event::Timestamp;
use crate::labels::Reason;
use crate::messaging::letters::scan::Filter;

const fn setting(env: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { env, default, help }
}

const REASON: Setting = setting(
    "GANESH_DLQ_REASON",
    "",
    "Letters with this reason only, or with one of several, separated by commas",
);
const SUBJECT: Setting = setting(
    "GANESH_DLQ_SUBJECT",
    "",
    "Letters of messages on this subject only; * and > are NATS wildcards",
);
const SINCE: Setting = setting(
    "GANESH_DLQ_SINCE",
    "",
    "Letters written in this time up to now, such as 30m or 2d, or from an RFC 3339 time on",
);
const LIMIT: Setting = setting(
    "GANESH_DLQ_LIMIT",
    "",
    "No more than this many letters, the oldest ones; without it, all",
);
pub(super) const JSON: Setting = setting(
    "GANESH_DLQ_JSON",
    "false",
    "Print one JSON object a line for each letter; their number goes to standard error",
);
pub(super) const RAW: Setting = setting(
    "GANESH_DLQ_RAW",
    "false",
    "Write the body to standard output as it is, all of it and nothing else",
);
pub(super) const DRY_RUN: Setting = setting(
    "GANESH_DLQ_DRY_RUN",
    "false",
    "Say for each letter what would be done, and do nothing",
);
pub(super) const RATE: Setting = setting(
    "GANESH_DLQ_RATE",
    "0",
    "Letters a second at most; 0 is as fast as the stream takes them",
);
pub(super) const MAX_GENERATION: Setting = setting(
    "GANESH_DLQ_MAX_GENERATION",
    "5",
    "A message that was replayed this often is not replayed again",
);
pub(super) const YES: Setting = setting(
    "GANESH_DLQ_YES",
    "false",
    "Delete without asking; expected where there is no terminal to ask on",
);

/// Every option, for `.env.example`.
pub const OPTIONS: &[Setting] = &[
    REASON,
    SUBJECT,
    SINCE,
    LIMIT,
    JSON,
    RAW,
    DRY_RUN,
    RATE,
    MAX_GENERATION,
    YES,
];
/// Which letters.
pub(super) const FILTERS: [Setting; 4] = [REASON, SUBJECT, SINCE, LIMIT];

/// Letters of one command: as many as there may be.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub(super) filter: Filter,
    /// The oldest so many.
    pub(super) limit: u64,
}

impl Selection {
    /// Whether it is all of a subject's letters.
    pub(super) fn is_by_subject_only(&self) -> bool {
        self.filter.reasons.is_empty() && self.filter.since.is_none() && self.limit == u64::MAX
    }
}

pub(super) fn argument(option: &Setting) -> Arg {
    option_argument(option, flag(option), "Dead letters")
}

fn flag(option: &Setting) -> String {
    option.flag().trim_start_matches("dlq-").to_owned()
}

/// The values that were given, and every mistake in them.
pub(super) struct Given {
    values: HashMap<&'static str, String>,
    mistakes: Vec<String>,
}

impl Given {
    /// Reads the options that a command has.
    pub(super) fn read<'a>(
        matches: &ArgMatches,
        options: impl IntoIterator<Item = &'a Setting>,
    ) -> Self {
        let mut read = Self {
            values: HashMap::new(),
            mistakes: Vec::new(),
        };
        for option in options {
            match given(option, matches, |variable| std::env::var_os(variable)) {
                Ok(value) => {
                    let value = value.unwrap_or_else(|| option.default.to_owned());
                    read.values.insert(option.env, value.trim().to_owned());
                }
                Err(mistake) => read.mistakes.push(mistake),
            }
        }
        read
    }

    pub(super) fn selection(&mut self) -> Selection {
        let reasons = Reason::VARIANTS.iter().map(|reason| reason.into_str());
        let reasons: Vec<_> = reasons.collect();
        let expected = format!("one or several of {}", reasons.join(", "));
        Selection {
            filter: Filter {
                reasons: self
                    .parse(&REASON, &expected, |raw| known(raw, &reasons))
                    .unwrap_or_default(),
                subject: self.parse(&SUBJECT, "a subject such as orders.* or events.>", |raw| {
                    is_subject(raw).then(|| raw.to_owned())
                }),
                since: self.parse(
                    &SINCE,
                    "a duration such as 30m, 2h or 7d, or a time such as 2026-01-31T08:00:00Z",
                    since,
                ),
            },
            limit: self
                .parse(&LIMIT, "a whole number of at least 1", |raw| {
                    raw.parse().ok().filter(|limit| *limit > 0)
                })
                .unwrap_or(u64::MAX),
        }
    }

    pub(super) fn switch(&mut self, option: &Setting) -> bool {
        let value = self.parse(option, "true or false", |raw| match raw {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        });
        value.unwrap_or(false)
    }

    pub(super) fn number(&mut self, option: &Setting, min: u32, max: u32) -> u32 {
        let expected = format!("a whole number from {min} to {max}");
        let value = self.parse(option, &expected, |raw| {
            raw.parse().ok().filter(|value| (min..=max).contains(value))
        });
        value.unwrap_or(min)
    }

    /// # Errors
    /// All mistakes at once, one a line.
    pub(super) fn finish<T>(self, value: T) -> Result<T, String> {
        if self.mistakes.is_empty() {
            Ok(value)
        } else {
            Err(self.mistakes.join("\n"))
        }
    }

    /// `None` when nothing was given, or a mistake.
    fn parse<T>(
        &mut self,
        option: &Setting,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let raw = self.values.get(option.env)?;
        if raw.is_empty() {
            return None;
        }
        let value = parse(raw);
        if value.is_none() {
            self.mistakes.push(format!(
                "--{} {raw:?} ({}): expected {expected}",
                flag(option),
                option.env
            ));
        }
        value
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
