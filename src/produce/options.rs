//! What `ganesh produce` can be told, validated as a whole.

use std::time::Duration;

use serde::de::IgnoredAny;

use super::events::Chosen;
use crate::config::{Reader, parse_duration};
use crate::event::SUBJECT_MAX_BYTES;

/// Larger than any NATS server accepts is a mistake; the server's own limit is
/// checked once it is known.
const BODY_MAX_BYTES: u64 = 64 << 20;
/// Subscription buffers are sized by it.
const ACKS_IN_FLIGHT_MAX: u64 = 65_536;

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Attributes in headers, data in the body.
    Binary,
    /// The whole event as JSON in the body.
    Structured,
    /// The data in the body, and no attributes.
    Plain,
}

/// The end of a run, besides a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// This many messages.
    Count(u64),
    /// This much time.
    After(Duration),
    /// Nothing.
    Never,
}

impl End {
    /// Returns whether message `number` is not sent any more.
    pub(super) fn is_over(self, number: u64, now: Duration) -> bool {
        match self {
            Self::Count(count) => number >= count,
            Self::After(duration) => now >= duration,
            Self::Never => false,
        }
    }

    /// This time since the start of the run, or its end where that comes first.
    pub(super) fn not_after(self, until: Duration) -> Duration {
        match self {
            Self::After(duration) => until.min(duration),
            Self::Count(_) | Self::Never => until,
        }
    }
}

/// The options of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Messages a second; 0 is as fast as acknowledgements allow.
    pub rate_per_second: u32,
    /// The end of the run.
    pub end: End,
    /// Chosen values of all events.
    pub(crate) chosen: Chosen,
    pub(crate) subjects: u32,
    /// Target size of an event's data.
    pub(crate) body_bytes: usize,
    /// How an event is written.
    pub mode: Mode,
    pub(crate) duplicates_percent: f64,
    pub(crate) invalid_percent: f64,
    /// One in this many messages is sampled; 0 is none.
    pub sample: u32,
    /// The seed, if one was given.
    pub seed: Option<u64>,
    /// Messages that may wait for their acknowledgement.
    pub max_acks_in_flight: usize,
    pub(crate) json: bool,
}

impl Options {
    /// Reads every option. They count only when [`Reader::finish`] has no mistakes.
    pub fn read(r: &mut Reader) -> Self {
        const RATE_MAX: u64 = 10_000_000;
        let modes = [
            ("binary", Mode::Binary),
            ("structured", Mode::Structured),
            ("plain", Mode::Plain),
        ];
        let options = Self {
            rate_per_second: r.integer("GANESH_PRODUCE_RATE", 0, RATE_MAX),
            end: read_end(r),
            chosen: read_chosen(r),
            subjects: r.integer("GANESH_PRODUCE_SUBJECT_COUNT", 1, 10_000_000),
            body_bytes: r.integer("GANESH_PRODUCE_BYTES", 1, BODY_MAX_BYTES),
            mode: r.one_of("GANESH_PRODUCE_MODE", &modes),
            duplicates_percent: percent(r, "GANESH_PRODUCE_DUPLICATES"),
            invalid_percent: percent(r, "GANESH_PRODUCE_INVALID"),
            sample: r.integer("GANESH_PRODUCE_SAMPLE", 0, 1_000_000_000),
            seed: r.optional("GANESH_PRODUCE_SEED", "a whole number of 64 bits", |raw| {
                raw.parse().ok()
            }),
            max_acks_in_flight: r.integer(
                "GANESH_PRODUCE_MAX_ACKS_IN_FLIGHT",
                1,
                ACKS_IN_FLIGHT_MAX,
            ),
            json: r.boolean("GANESH_PRODUCE_JSON"),
        };
        options.check_together(r);
        options
    }

    /// Rules that no single option can break.
    fn check_together(&self, r: &mut Reader) {
        if self.duplicates_percent + self.invalid_percent > 100.0 {
            let expected = "no more than 100 together with GANESH_PRODUCE_DUPLICATES";
            r.conflict(
                "GANESH_PRODUCE_INVALID",
                "GANESH_PRODUCE_DUPLICATES",
                expected,
            );
        }
        if self.mode == Mode::Plain && self.duplicates_percent > 0.0 {
            let expected = "0 with --mode plain, where the Nats-Msg-Id is the event's id";
            r.conflict("GANESH_PRODUCE_DUPLICATES", "GANESH_PRODUCE_MODE", expected);
        }
    }
}

fn read_end(r: &mut Reader) -> End {
    let count = r.optional("GANESH_PRODUCE_COUNT", "1 or more", |raw| {
        raw.parse().ok().filter(|count| *count > 0)
    });
    let duration = r.optional(
        "GANESH_PRODUCE_DURATION",
        "a duration of at least 1ms such as 250ms, 30s, 5m or 2h",
        |raw| parse_duration(raw).filter(|duration| !duration.is_zero()),
    );
    match (count, duration) {
        (None, None) => End::Never,
        (None, Some(duration)) => End::After(duration),
        (Some(count), other) => {
            if other.is_some() {
                let expected = "only one of --count and --duration";
                r.conflict("GANESH_PRODUCE_COUNT", "GANESH_PRODUCE_DURATION", expected);
            }
            End::Count(count)
        }
    }
}

fn read_chosen(r: &mut Reader) -> Chosen {
    let attribute = |raw: &str| {
        // It also stands in JSON that is written as it is.
        let good = |c: char| !c.is_control() && !matches!(c, '"' | '\\');
        (raw.len() <= SUBJECT_MAX_BYTES && raw.chars().all(good)).then(|| raw.to_owned())
    };
    let expected = "at most 1024 bytes without control characters, quotes and backslashes";
    Chosen {
        subject: r.optional("GANESH_PRODUCE_SUBJECT", expected, attribute),
        event_type: r.optional("GANESH_PRODUCE_TYPE", expected, attribute),
        data: r.optional(
            "GANESH_PRODUCE_DATA",
            "JSON such as {\"celsius\":21}",
            |raw| {
                let json: Option<IgnoredAny> = serde_json::from_str(raw).ok();
                json.map(|_| raw.to_owned())
            },
        ),
    }
}

fn percent(r: &mut Reader, env: &'static str) -> f64 {
    r.parse(env, "0 to 100, such as 1 or 0.5", |raw| {
        let percent: f64 = raw.parse().ok()?;
        (0.0..=100.0).contains(&percent).then_some(percent)
    })
}
