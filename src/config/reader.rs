//! Reads raw values into types and collects every mistake on the way.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::log_filter;
use super::secret::{SecretUrl, redact, split};
use super::settings::SETTINGS;
use super::subjects;

/// Every mistake found in the configuration. Exit code 2.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Turns raw values into typed ones. A getter that fails notes the mistake and
/// goes on with the default, so that the rest is checked too.
#[derive(Default)]
pub struct Reader {
    values: HashMap<&'static str, String>,
    errors: ConfigErrors,
    /// The variables of those mistakes.
    mistaken: HashSet<&'static str>,
}

impl Reader {
    /// Sets a raw value; what is not set has its default.
    pub fn set(&mut self, env: &'static str, value: String) {
        self.values.insert(env, value);
    }

    /// Another default than that of [`SETTINGS`].
    pub fn set_default(&mut self, env: &'static str, value: &str) {
        self.values.entry(env).or_insert_with(|| value.to_owned());
    }

    /// Notes a mistake in these words.
    pub(super) fn fail(&mut self, env: &'static str, mistake: String) {
        self.mistaken.insert(env);
        self.errors.0.push(mistake);
    }

    /// Notes a mistake: the variable's name, what stood there, what was expected.
    fn mistake(&mut self, env: &'static str, value: &str, expected: &str) {
        self.fail(env, format!("{env}={value:?}: expected {expected}"));
    }

    /// Notes that a setting does not go with another one, unless one of them is wrong by
    /// itself: what stands for it then is the default, and nobody asked for that.
    pub(super) fn conflict(&mut self, env: &'static str, other: &'static str, expected: &str) {
        if !self.mistaken.contains(env) && !self.mistaken.contains(other) {
            let value = presentable(env, self.raw(env).trim());
            self.mistake(env, &value, expected);
        }
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.errors.0.is_empty() {
            Ok(value)
        } else {
            Err(self.errors)
        }
    }

    fn raw(&self, env: &str) -> &str {
        self.values
            .get(env)
            .map_or_else(|| default_of(env), String::as_str)
    }

    fn parse<T>(
        &mut self,
        env: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let raw = self.raw(env).trim().to_owned();
        parse(&raw).unwrap_or_else(|| {
            self.mistake(env, &presentable(env, &raw), expected);
            // `defaults_are_valid` in tests/quick/configuration.rs parses every default.
            parse(default_of(env)).expect("the default of a setting is valid")
        })
    }

    pub(super) fn optional(&self, env: &str) -> Option<String> {
        Some(self.raw(env).trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(super) fn text(&mut self, env: &'static str) -> String {
        self.parse(env, "some text", |raw| {
            (!raw.is_empty()).then(|| raw.to_owned())
        })
    }

    pub(super) fn boolean(&mut self, env: &'static str) -> bool {
        self.one_of(
            env,
            &[("true", true), ("false", false), ("1", true), ("0", false)],
        )
    }

    pub(super) fn one_of<T: Copy>(&mut self, env: &'static str, choices: &[(&str, T)]) -> T {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.parse(env, &format!("one of {}", names.join(", ")), |raw| {
            let (_, value) = choices
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(raw))?;
            Some(*value)
        })
    }

    pub(super) fn integer(&mut self, env: &'static str, min: u64, max: u64) -> u64 {
        self.parse(env, &format!("a whole number from {min} to {max}"), |raw| {
            raw.parse().ok().filter(|value| (min..=max).contains(value))
        })
    }

    pub(super) fn count(&mut self, env: &'static str, min: u64, max: u64) -> usize {
        usize::try_from(self.integer(env, min, max)).unwrap_or(usize::MAX)
    }

    /// A duration between these two, which are written as a user would.
    pub(super) fn duration(&mut self, env: &'static str, min: &str, max: &str) -> Duration {
        const PROOF: &str = "the limits of a duration are durations";
        let least = parse_duration(min).expect(PROOF);
        let most = parse_duration(max).expect(PROOF);
        self.parse(
            env,
            &format!("a duration from {min} to {max}, such as 250ms, 30s, 5m, 2h or 7d"),
            |raw| parse_duration(raw).filter(|duration| (least..=most).contains(duration)),
        )
    }

    /// A size between these two, which are written as a user would.
    pub(super) fn bytes(&mut self, env: &'static str, min: &str, max: &str) -> u64 {
        const PROOF: &str = "the limits of a size are sizes";
        let least = parse_bytes(min).expect(PROOF);
        let most = parse_bytes(max).expect(PROOF);
        self.parse(
            env,
            &format!("a size from {min} to {max}, such as 1048576, 512KiB, 64MiB or 10GiB"),
            |raw| parse_bytes(raw).filter(|bytes| (least..=most).contains(bytes)),
        )
    }

    pub(super) fn byte_count(&mut self, env: &'static str, min: &str, max: &str) -> usize {
        usize::try_from(self.bytes(env, min, max)).unwrap_or(usize::MAX)
    }

    pub(super) fn socket_addr(&mut self, env: &'static str) -> SocketAddr {
        self.parse(env, "an address and port such as 127.0.0.1:8080", |raw| {
            raw.parse().ok()
        })
    }

    /// One or several URLs of NATS servers.
    pub(super) fn nats_urls(&mut self, env: &'static str) -> SecretUrl {
        let expected = format!(
            "a URL such as {}, or several separated by commas",
            default_of(env)
        );
        self.parse(env, &expected, |raw| {
            let good = |part| is_server_url(part, &["nats", "tls"]);
            split(raw)
                .into_iter()
                .all(good)
                .then(|| SecretUrl::new(raw.to_owned()))
        })
    }

    /// One URL with one of these schemes that `T`, the client's own type, accepts too.
    pub(super) fn server_url<T: FromStr>(
        &mut self,
        env: &'static str,
        schemes: &[&str],
    ) -> SecretUrl {
        let expected = format!("one URL such as {}", default_of(env));
        self.parse(env, &expected, |raw| {
            let one = split(raw).len() == 1 && is_server_url(raw, schemes);
            (one && T::from_str(raw).is_ok()).then(|| SecretUrl::new(raw.to_owned()))
        })
    }

    /// Without TLS, which the exporter is built without.
    pub(super) fn http_url(&mut self, env: &'static str) -> SecretUrl {
        self.parse(env, "a URL that starts with http://", |raw| {
            is_server_url(raw, &["http"]).then(|| SecretUrl::new(raw.to_owned()))
        })
    }

    /// A stream's or a consumer's name: NATS refuses the characters of subjects and paths.
    pub(super) fn jetstream_name(&mut self, env: &'static str) -> String {
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

    pub(super) fn subjects(&mut self, env: &'static str) -> Vec<String> {
        self.parse(
            env,
            "subjects such as events.>, separated by commas",
            |raw| {
                let subjects: Vec<String> = raw.split(',').map(|s| s.trim().to_owned()).collect();
                subjects
                    .iter()
                    .all(|s| subjects::is_valid(s))
                    .then_some(subjects)
            },
        )
    }

    pub(super) fn log_filter(&mut self, env: &'static str) -> String {
        self.parse(env, log_filter::EXPECTED, |raw| {
            log_filter::is_log_filter(raw).then(|| raw.to_owned())
        })
    }

    /// `key=value` pairs as in `OTEL_RESOURCE_ATTRIBUTES`, values percent-encoded
    /// (OpenTelemetry resource SDK, "Specifying resource information via an environment variable").
    pub(super) fn key_values(&mut self, env: &'static str) -> Vec<(String, String)> {
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

/// What of a wrong value may be shown: all of it, unless it may hold a password.
fn presentable(env: &str, value: &str) -> String {
    let url = env.ends_with("_URL") || env.ends_with("_ENDPOINT");
    if url || value.contains("://") || value.contains('@') {
        redact(value)
    } else {
        value.to_owned()
    }
}

fn is_server_url(raw: &str, schemes: &[&str]) -> bool {
    url::Url::parse(raw).is_ok_and(|url| {
        // A comma in the host: two addresses, the second one without its scheme.
        let host = url.host_str().unwrap_or_default();
        schemes.contains(&url.scheme()) && !host.is_empty() && !host.contains(',')
    })
}

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
