//! Reads raw values into types and collects every mistake on the way.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::secret::{SecretUrl, redact};
use super::settings::SETTINGS;

/// Every mistake found in the configuration. Exit code 2.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    pub(super) fn push(&mut self, mistake: String) {
        self.0.push(mistake);
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Turns raw values into typed ones. A getter that fails notes the mistake and
/// goes on with the default, so that the rest is checked too.
#[derive(Debug)]
pub struct Reader {
    values: HashMap<&'static str, String>,
    errors: ConfigErrors,
}

impl Reader {
    /// A reader of these raw values; what is missing has its default.
    pub fn new(values: HashMap<&'static str, String>) -> Self {
        Self {
            values,
            errors: ConfigErrors::default(),
        }
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        self.errors.into_result(value)
    }

    /// Notes a mistake: the variable's name, what stood there, what was expected.
    pub(super) fn mistake(&mut self, env: &str, value: &str, expected: &str) {
        self.errors
            .push(format!("{env}={value:?}: expected {expected}"));
    }

    fn raw(&self, env: &str) -> &str {
        self.values
            .get(env)
            .map_or_else(|| default_of(env), String::as_str)
    }

    fn parse<T>(&mut self, env: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let raw = self.raw(env).trim().to_owned();
        parse(&raw).unwrap_or_else(|| {
            self.mistake(env, &redact(&raw), expected);
            // `defaults_are_valid` in tests/configuration.rs parses every default.
            parse(default_of(env)).expect("the default of a setting is valid")
        })
    }

    pub(super) fn optional(&self, env: &str) -> Option<String> {
        Some(self.raw(env).trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(super) fn text(&mut self, env: &str) -> String {
        self.parse(env, "some text", |raw| {
            (!raw.is_empty()).then(|| raw.to_owned())
        })
    }

    pub(super) fn boolean(&mut self, env: &str) -> bool {
        self.one_of(
            env,
            &[("true", true), ("false", false), ("1", true), ("0", false)],
        )
    }

    pub(super) fn one_of<T: Copy>(&mut self, env: &str, choices: &[(&str, T)]) -> T {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.parse(env, &format!("one of {}", names.join(", ")), |raw| {
            let (_, value) = choices
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(raw))?;
            Some(*value)
        })
    }

    pub(super) fn integer(&mut self, env: &str, min: u64, max: u64) -> u64 {
        self.parse(env, &format!("a whole number from {min} to {max}"), |raw| {
            raw.parse().ok().filter(|value| (min..=max).contains(value))
        })
    }

    pub(super) fn count(&mut self, env: &str, min: u64, max: u64) -> usize {
        usize::try_from(self.integer(env, min, max)).unwrap_or(usize::MAX)
    }

    pub(super) fn duration(&mut self, env: &str) -> Duration {
        self.parse(
            env,
            "a duration of at least 1ms such as 250ms, 30s, 5m, 2h or 7d",
            |raw| parse_duration(raw).filter(|duration| *duration >= Duration::from_millis(1)),
        )
    }

    pub(super) fn bytes(&mut self, env: &str) -> u64 {
        self.parse(
            env,
            "a size such as 1048576, 512KiB, 64MiB or 10GiB",
            parse_bytes,
        )
    }

    pub(super) fn byte_count(&mut self, env: &str, min: usize) -> usize {
        self.parse(
            env,
            &format!("a size of at least {min} bytes such as 512KiB, 64MiB or 1GiB"),
            |raw| {
                let bytes = usize::try_from(parse_bytes(raw)?).ok()?;
                (bytes >= min && bytes <= MAX_HELD_BYTES).then_some(bytes)
            },
        )
    }

    pub(super) fn socket_addr(&mut self, env: &str) -> SocketAddr {
        self.parse(env, "an address and port such as 127.0.0.1:8080", |raw| {
            raw.parse().ok()
        })
    }

    /// One URL, or several separated by commas, with one of these schemes.
    pub(super) fn server_urls(&mut self, env: &str, schemes: &[&str]) -> SecretUrl {
        let expected = format!("a URL such as {}", redact(default_of(env)));
        self.parse(env, &expected, |raw| {
            let good = |part: &str| {
                url::Url::parse(part.trim())
                    .is_ok_and(|url| schemes.contains(&url.scheme()) && url.has_host())
            };
            (!raw.is_empty() && raw.split(',').all(good)).then(|| SecretUrl::new(raw.to_owned()))
        })
    }

    pub(super) fn http_url(&mut self, env: &str) -> String {
        self.parse(env, "a URL that starts with http:// or https://", |raw| {
            let url = url::Url::parse(raw).ok()?;
            (["http", "https"].contains(&url.scheme()) && url.has_host()).then(|| raw.to_owned())
        })
    }

    /// A stream's or a consumer's name: NATS refuses the characters of subjects and paths.
    pub(super) fn jetstream_name(&mut self, env: &str) -> String {
        self.parse(
            env,
            "a name of 1 to 255 characters without spaces, dots, wildcards or slashes",
            |raw| {
                let good =
                    |c: char| c.is_ascii_graphic() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
                ((1..=255).contains(&raw.len()) && raw.chars().all(good)).then(|| raw.to_owned())
            },
        )
    }

    pub(super) fn subjects(&mut self, env: &str) -> Vec<String> {
        self.parse(
            env,
            "subjects such as events.>, separated by commas",
            |raw| {
                let subjects: Vec<String> = raw.split(',').map(|s| s.trim().to_owned()).collect();
                subjects
                    .iter()
                    .all(|s| valid_subject(s))
                    .then_some(subjects)
            },
        )
    }

    pub(super) fn log_filter(&mut self, env: &str) -> String {
        self.parse(
            env,
            "a level (error, warn, info, debug, trace) or directives such as ganesh=debug,info",
            |raw| {
                tracing_subscriber::EnvFilter::try_new(raw).ok()?;
                (!raw.is_empty()).then(|| raw.to_owned())
            },
        )
    }

    /// `key=value` pairs as in `OTEL_RESOURCE_ATTRIBUTES`, values percent-encoded
    /// (OpenTelemetry resource SDK, "Specifying resource information via an environment variable").
    pub(super) fn key_values(&mut self, env: &str) -> Vec<(String, String)> {
        self.parse(env, "key=value pairs separated by commas", |raw| {
            raw.split(',')
                .filter(|pair| !pair.trim().is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=')?;
                    let value = percent_encoding::percent_decode_str(value.trim())
                        .decode_utf8()
                        .ok()?;
                    (!key.trim().is_empty()).then(|| (key.trim().to_owned(), value.into_owned()))
                })
                .collect()
        })
    }
}

/// Above this the process could not keep what it promises about memory.
const MAX_HELD_BYTES: usize = 64 << 30;

fn default_of(env: &str) -> &'static str {
    SETTINGS
        .iter()
        .find(|setting| setting.env == env)
        .map(|setting| setting.default)
        .expect("every setting that is read stands in SETTINGS")
}

/// `250ms`, `30s`, `5m`, `2h`, `7d`.
pub(crate) fn parse_duration(raw: &str) -> Option<Duration> {
    let digits = raw.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let seconds_a_unit = match &raw[digits.len()..] {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds_a_unit).map(Duration::from_secs)
}

/// `1048576`, `512KiB`, `64MiB`, `10GiB`, `1TiB`.
fn parse_bytes(raw: &str) -> Option<u64> {
    let digits = raw.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().ok()?;
    let unit: u64 = match &raw[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Tokens without spaces, `*` alone in its token, `>` alone in the last one.
fn valid_subject(subject: &str) -> bool {
    let tokens: Vec<&str> = subject.split('.').collect();
    tokens.iter().enumerate().all(|(i, token)| {
        let last = i + 1 == tokens.len();
        !token.is_empty()
            && token.chars().all(|c| c.is_ascii_graphic())
            && (!token.contains('*') || *token == "*")
            && (!token.contains('>') || (*token == ">" && last))
    })
}
