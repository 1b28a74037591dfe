//! What `ganesh produce` can be told, validated as a whole.

use std::fmt;
use std::time::Duration;

use crate::config::{Setting, parse_duration};

const fn setting(env: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { env, default, help }
}

/// Every option, in the order in which `--help` lists them. The flag of
/// `GANESH_PRODUCE_RATE` is `--rate`: see [`flag`].
pub const OPTIONS: &[Setting] = &[
    setting(
        "GANESH_PRODUCE_RATE",
        "1000",
        "Messages a second, whether or not the server keeps up; 0 is as fast as acknowledgements allow",
    ),
    setting(
        "GANESH_PRODUCE_COUNT",
        "",
        "End after this many messages, duplicates and invalid ones among them",
    ),
    setting(
        "GANESH_PRODUCE_DURATION",
        "",
        "End after this time, such as 30s or 5m; without it and --count, at Ctrl-C or SIGTERM",
    ),
    setting(
        "GANESH_PRODUCE_SUBJECTS",
        "1000",
        "Subjects that the events are about; few are busy, most are quiet (Zipf)",
    ),
    setting(
        "GANESH_PRODUCE_BYTES",
        "230",
        "Size of an event's data, in bytes, to within an element of the list that it ends with",
    ),
    setting(
        "GANESH_PRODUCE_MODE",
        "binary",
        "How an event is written: binary, structured, or plain (no CloudEvent: the body alone)",
    ),
    setting(
        "GANESH_PRODUCE_DUPLICATES",
        "0",
        "Percentage of messages that repeat an acknowledged event (same source, id, time and data) under another Nats-Msg-Id",
    ),
    setting(
        "GANESH_PRODUCE_INVALID",
        "0",
        "Percentage of messages that must be refused: no id, bad time, broken JSON, wrong version",
    ),
    setting(
        "GANESH_PRODUCE_SAMPLE",
        "1000",
        "One in this many messages carries a sampled traceparent, the others flag 00; 0 means none",
    ),
    setting(
        "GANESH_PRODUCE_SEED",
        "",
        "Ids and contents follow from it, so two runs of a seed have the same ones; time stays the real time, so they are other events. Without it, a random one that is printed",
    ),
    setting(
        "GANESH_PRODUCE_MAX_ACKS_IN_FLIGHT",
        "4096",
        "Messages that wait for their acknowledgement, at most",
    ),
    setting(
        "GANESH_PRODUCE_READ_RATE",
        "0",
        "Reads a second of the newest state of subjects that are sent, over HTTP, to measure freshness",
    ),
    setting(
        "GANESH_PRODUCE_API_URL",
        "http://127.0.0.1:8080",
        "Where those reads go; the token is GANESH_API_TOKEN",
    ),
    setting(
        "GANESH_PRODUCE_JSON",
        "false",
        "Print the report as one JSON object on standard output",
    ),
];

/// The flag of an option, without its dashes.
pub fn flag(option: &Setting) -> String {
    option.flag().trim_start_matches("produce-").to_owned()
}

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

/// What ends a run besides a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// This many messages.
    Count(u64),
    /// This much time.
    After(Duration),
    /// Nothing.
    Never,
}

/// The options of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Messages a second; 0 is as fast as acknowledgements allow.
    pub rate_per_second: u32,
    /// What ends the run.
    pub end: End,
    /// How many subjects the events are about.
    pub subjects: u32,
    /// Target size of an event's data.
    pub body_bytes: usize,
    /// How an event is written.
    pub mode: Mode,
    /// Percentage of messages that repeat an event.
    pub duplicates_percent: f64,
    /// Percentage of messages that are no events.
    pub invalid_percent: f64,
    /// One in this many messages is sampled; 0 is none.
    pub sample: u32,
    /// The seed, if one was given.
    pub seed: Option<u64>,
    /// Messages that may wait for their acknowledgement.
    pub max_acks_in_flight: usize,
    /// Reads a second; 0 is none.
    pub read_rate_per_second: u32,
    /// Where reads go, without a slash at its end.
    pub api_url: String,
    /// Whether the report is printed as JSON.
    pub json: bool,
}

impl Options {
    /// Reads every option; `given` answers what was given for a variable's flag
    /// or for the variable itself.
    ///
    /// # Errors
    /// All mistakes at once, one a line, each with the flag and what was expected.
    pub fn read(given: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut reader = OptionReader {
            given: &given,
            mistakes: Vec::new(),
        };
        let options = Self::read_each(&mut reader);
        options.check_together(&mut reader);
        if reader.mistakes.is_empty() {
            Ok(options)
        } else {
            Err(reader.mistakes.join("\n"))
        }
    }

    fn read_each(r: &mut OptionReader<'_>) -> Self {
        const RATE_MAX: u64 = 10_000_000;
        Self {
            rate_per_second: r.small("GANESH_PRODUCE_RATE", 0, RATE_MAX),
            end: read_end(r),
            subjects: r.small("GANESH_PRODUCE_SUBJECTS", 1, 10_000_000),
            body_bytes: r.size("GANESH_PRODUCE_BYTES", 1, BODY_MAX_BYTES),
            mode: r.parse("GANESH_PRODUCE_MODE", "binary, structured or plain", mode),
            duplicates_percent: r.percent("GANESH_PRODUCE_DUPLICATES"),
            invalid_percent: r.percent("GANESH_PRODUCE_INVALID"),
            sample: r.small("GANESH_PRODUCE_SAMPLE", 0, 1_000_000_000),
            seed: r.optional("GANESH_PRODUCE_SEED", "a whole number of 64 bits", |raw| {
                raw.parse().ok()
            }),
            max_acks_in_flight: r.size("GANESH_PRODUCE_MAX_ACKS_IN_FLIGHT", 1, ACKS_IN_FLIGHT_MAX),
            read_rate_per_second: r.small("GANESH_PRODUCE_READ_RATE", 0, 100_000),
            api_url: r.parse(
                "GANESH_PRODUCE_API_URL",
                "a URL that starts with http://",
                http_url,
            ),
            json: r.parse("GANESH_PRODUCE_JSON", "true or false", boolean),
        }
    }

    /// Rules that no single option can break.
    fn check_together(&self, r: &mut OptionReader<'_>) {
        if self.duplicates_percent + self.invalid_percent > 100.0 {
            r.mistake(
                "GANESH_PRODUCE_INVALID",
                &self.invalid_percent.to_string(),
                "no more than 100 together with --duplicates",
            );
        }
        if self.mode == Mode::Plain && self.duplicates_percent > 0.0 {
            r.mistake(
                "GANESH_PRODUCE_DUPLICATES",
                &self.duplicates_percent.to_string(),
                "0 with --mode plain, where the Nats-Msg-Id is the event's id",
            );
        }
        if self.mode == Mode::Plain && self.read_rate_per_second > 0 {
            r.mistake(
                "GANESH_PRODUCE_READ_RATE",
                &self.read_rate_per_second.to_string(),
                "0 with --mode plain, whose events have no subject to read",
            );
        }
    }
}

fn read_end(r: &mut OptionReader<'_>) -> End {
    let count = r.optional(
        "GANESH_PRODUCE_COUNT",
        "a whole number of at least 1",
        |raw| raw.parse().ok().filter(|count| *count > 0),
    );
    let duration = r.optional(
        "GANESH_PRODUCE_DURATION",
        "a duration of at least 1ms such as 250ms, 30s, 5m or 2h",
        |raw| parse_duration(raw).filter(|duration| !duration.is_zero()),
    );
    match (count, duration) {
        (None, None) => End::Never,
        (Some(count), None) => End::Count(count),
        (None, Some(duration)) => End::After(duration),
        (Some(count), Some(_)) => {
            let expected = "only one of --count and --duration";
            r.mistake("GANESH_PRODUCE_COUNT", &count.to_string(), expected);
            End::Count(count)
        }
    }
}

/// Notes a mistake and goes on with the default, so that the rest is checked too.
struct OptionReader<'a> {
    given: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<String>,
}

impl OptionReader<'_> {
    fn mistake(&mut self, env: &str, value: &str, expected: &str) {
        let flag = flag(option_of(env));
        self.mistakes
            .push(format!("--{flag} {value:?} ({env}): expected {expected}"));
    }

    /// `None` when nothing was given and there is no default.
    fn optional<T>(
        &mut self,
        env: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let default = option_of(env).default;
        let given = (self.given)(env).unwrap_or_default();
        let raw = match given.trim() {
            "" => default,
            given => given,
        };
        if raw.is_empty() {
            return None;
        }
        parse(raw).or_else(|| {
            self.mistake(env, raw, expected);
            parse(default)
        })
    }

    fn parse<T>(&mut self, env: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        // `the_defaults_are_valid` in tests/quick/produce.rs parses every default.
        self.optional(env, expected, parse)
            .expect("an option with a valid default")
    }

    fn integer<T: TryFrom<u64>>(&mut self, env: &str, min: u64, max: u64) -> T {
        self.parse(env, &format!("a whole number from {min} to {max}"), |raw| {
            let number = raw
                .parse()
                .ok()
                .filter(|value| (min..=max).contains(value))?;
            T::try_from(number).ok()
        })
    }

    fn small(&mut self, env: &str, min: u64, max: u64) -> u32 {
        self.integer(env, min, max)
    }

    fn size(&mut self, env: &str, min: u64, max: u64) -> usize {
        self.integer(env, min, max)
    }

    fn percent(&mut self, env: &str) -> f64 {
        self.parse(env, "a percentage from 0 to 100 such as 1 or 0.5", |raw| {
            let percent: f64 = raw.parse().ok()?;
            (0.0..=100.0).contains(&percent).then_some(percent)
        })
    }
}

fn option_of(env: &str) -> &'static Setting {
    OPTIONS
        .iter()
        .find(|option| option.env == env)
        .expect("every option that is read stands in OPTIONS")
}

fn mode(raw: &str) -> Option<Mode> {
    [Mode::Binary, Mode::Structured, Mode::Plain]
        .into_iter()
        .find(|mode| raw.eq_ignore_ascii_case(&mode.to_string()))
}

fn boolean(raw: &str) -> Option<bool> {
    match raw {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// TLS is not built in: reads are for tests and demonstrations on private networks.
fn http_url(raw: &str) -> Option<String> {
    let url = url::Url::parse(raw).ok()?;
    (url.scheme() == "http" && url.has_host()).then(|| raw.trim_end_matches('/').to_owned())
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Structured => "structured",
            Self::Plain => "plain",
        })
    }
}
