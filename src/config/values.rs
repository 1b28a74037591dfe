//! What values look like: numbers, durations, sizes, addresses, names, lists.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::log_filter;
use super::reader::Reader;
use super::secret::{Secret, SecretUrl, split};
use super::settings::setting_of;
use super::subjects;

/// What sqlx reads in a URL.
#[rustfmt::skip] // by topic
const POSTGRES_PARAMETERS: &[&str] = &[
    "sslmode", "ssl-mode", "sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key",
    "host", "hostaddr", "port", "dbname", "user", "password",
    "application_name", "options", "options[", "statement-cache-capacity",
];

impl Reader {
    /// What clients can send in `Authorization`.
    pub(super) fn tokens(&mut self, env: &'static str) -> Vec<Secret> {
        let expected = "visible ASCII without spaces; several tokens one a line";
        self.optional(env, expected, parse_tokens)
            .unwrap_or_default()
    }

    /// Whose pages may ask: schemes and hosts, as browsers send them in `Origin`.
    pub(super) fn origins(&mut self, env: &'static str) -> Vec<String> {
        let expected = "origins such as https://app.example.com, separated by commas";
        let origins = self.optional(env, expected, |raw| {
            raw.split(',')
                .map(|part| {
                    let part = part.trim();
                    let origin = url::Url::parse(part).ok()?.origin();
                    (origin.ascii_serialization() == part).then(|| part.to_owned())
                })
                .collect()
        });
        origins.unwrap_or_default()
    }

    pub(super) fn folder(&mut self, env: &'static str) -> Option<PathBuf> {
        // A URL would be made as folders, and be logged.
        let path = |raw: &str| (!raw.contains("://")).then(|| PathBuf::from(raw));
        self.optional(env, "the path of a folder", path)
    }

    pub(crate) fn boolean(&mut self, env: &'static str) -> bool {
        self.one_of(
            env,
            &[("true", true), ("false", false), ("1", true), ("0", false)],
        )
    }

    pub(crate) fn one_of<T: Copy>(&mut self, env: &'static str, choices: &[(&str, T)]) -> T {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.parse(env, &format!("one of {}", names.join(", ")), |raw| {
            let (_, value) = choices
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(raw))?;
            Some(*value)
        })
    }

    /// The same of a setting without a default.
    pub(super) fn one_of_optional<T: Copy>(
        &mut self,
        env: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.optional(env, &format!("one of {}", names.join(", ")), |raw| {
            let mut choices = choices.iter();
            let (_, value) = choices.find(|(name, _)| name.eq_ignore_ascii_case(raw))?;
            Some(*value)
        })
    }

    /// A whole number between these two.
    pub(crate) fn integer<T: TryFrom<u64>>(&mut self, env: &'static str, min: u64, max: u64) -> T {
        self.parse(env, &format!("{min} to {max}"), |raw| {
            let number = raw.parse().ok()?;
            let number = (min..=max).contains(&number).then_some(number)?;
            T::try_from(number).ok()
        })
    }

    /// A duration between these two, which are written as a user would.
    pub(crate) fn duration(&mut self, env: &'static str, min: &str, max: &str) -> Duration {
        const PROOF: &str = "the limits of a duration are durations";
        let least = parse_duration(min).expect(PROOF);
        let most = parse_duration(max).expect(PROOF);
        self.parse(
            env,
            &format!("{min} to {max}, written as 250ms, 30s, 5m, 2h or 7d"),
            |raw| parse_duration(raw).filter(|duration| (least..=most).contains(duration)),
        )
    }

    /// A size between these two, which are written as a user would.
    pub(super) fn bytes<T: TryFrom<u64>>(&mut self, env: &'static str, min: &str, max: &str) -> T {
        const PROOF: &str = "the limits of a size are sizes";
        let least = parse_bytes(min).expect(PROOF);
        let most = parse_bytes(max).expect(PROOF);
        self.parse(
            env,
            &format!("{min} to {max}, written as 1048576, 512KiB, 64MiB or 10GiB"),
            |raw| {
                let bytes = parse_bytes(raw)?;
                let bytes = (least..=most).contains(&bytes).then_some(bytes)?;
                T::try_from(bytes).ok()
            },
        )
    }

    pub(super) fn socket_addr(&mut self, env: &'static str) -> SocketAddr {
        self.parse(env, "an address and port such as 127.0.0.1:8080", |raw| {
            raw.parse().ok()
        })
    }

    /// An address to listen on; `None` is `off`.
    pub(super) fn socket_addr_or_off(&mut self, env: &'static str) -> Option<SocketAddr> {
        let expected = "an address and port such as 127.0.0.1:8080, or off";
        self.parse(env, expected, |raw| match raw {
            "off" => Some(None),
            address => address.parse().ok().map(Some),
        })
    }

    /// One or several URLs of NATS servers.
    pub(super) fn nats_urls(&mut self, env: &'static str) -> SecretUrl {
        let expected = format!(
            "a URL such as {}, or several separated by commas, without path, parameters and fragment",
            setting_of(env).default
        );
        self.parse(env, &expected, |raw| {
            let good = |part| is_server_url(part, &["nats", "tls"], &NATS_PARTS);
            split(raw)
                .into_iter()
                .all(good)
                .then(|| SecretUrl::new(raw.to_owned()))
        })
    }

    /// One URL with one of these schemes that `T`, the client's own type, accepts too. The client
    /// would log the value of a parameter that it does not know.
    pub(super) fn server_url<T: FromStr>(
        &mut self,
        env: &'static str,
        schemes: &[&str],
        parameters: &'static [&'static str],
    ) -> SecretUrl {
        self.optional_server_url::<T>(env, (env, schemes), parameters)
            .expect("the default of a setting is valid")
    }

    /// The URL of Postgres in this setting, if it has a value.
    pub(super) fn postgres_url(&mut self, env: &'static str) -> Option<SecretUrl> {
        let like = ("POSTGRES_URL", &["postgresql", "postgres"][..]);
        self.optional_server_url::<PgConnectOptions>(env, like, POSTGRES_PARAMETERS)
    }

    /// The default of `like` is the example.
    fn optional_server_url<T: FromStr>(
        &mut self,
        env: &'static str,
        (like, schemes): (&str, &[&str]),
        parameters: &'static [&'static str],
    ) -> Option<SecretUrl> {
        let expected = format!(
            "one URL such as {}, without fragment, and with no parameters but {}",
            setting_of(like).default,
            parameters.join(", ")
        );
        let parts = UrlParts {
            user: true,
            path: true,
            parameters,
        };
        self.optional(env, &expected, |raw| {
            let one = split(raw).len() == 1 && is_server_url(raw, schemes, &parts);
            (one && T::from_str(raw).is_ok()).then(|| SecretUrl::new(raw.to_owned()))
        })
    }

    /// Where the collector is. A path is for HTTP only.
    pub(super) fn otlp_endpoint(&mut self, env: &'static str, has_path: bool) -> Option<SecretUrl> {
        let path = if has_path { "" } else { "path, " };
        let expected = format!(
            "a URL that starts with http:// or https://, without user, {path}parameters and fragment"
        );
        let parts = UrlParts {
            user: false,
            path: has_path,
            parameters: &[],
        };
        self.optional(env, &expected, |raw| {
            let good = is_server_url(raw, &["http", "https"], &parts);
            good.then(|| SecretUrl::new(raw.to_owned()))
        })
    }

    /// The URL of an HTTP server, or none. One behind a proxy has a path.
    pub(super) fn optional_url(
        &mut self,
        env: &'static str,
        schemes: &[&str],
    ) -> Option<SecretUrl> {
        let schemes_text = schemes.join(":// or ");
        let expected = format!(
            "a URL that starts with {schemes_text}://, without user, parameters and fragment"
        );
        self.optional(env, &expected, |raw| {
            let good = is_server_url(raw, schemes, &PAGE_PARTS);
            good.then(|| SecretUrl::new(raw.to_owned()))
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

    /// Postgres would fold, cut or refuse others.
    pub(super) fn schema_name(&mut self, env: &'static str) -> String {
        let expected =
            "a name of 1 to 63 letters, digits, _ and - (ASCII) that does not begin with pg_";
        self.parse(env, expected, |raw| {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            let good = (1..=63).contains(&raw.len()) && raw.chars().all(good);
            (good && !raw.starts_with("pg_")).then(|| raw.to_owned())
        })
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
        let pairs = self.optional(env, "key=value pairs separated by commas", |raw| {
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
        });
        pairs.unwrap_or_default()
    }
}

/// One token a line; `None` where there is none, or one that no client can send.
pub(crate) fn parse_tokens(text: &str) -> Option<Vec<Secret>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let token = |line: &str| {
        let is_visible = line.chars().all(|c| c.is_ascii_graphic());
        is_visible.then(|| Secret::new(line.to_owned()))
    };
    let tokens: Option<Vec<Secret>> = lines.map(token).collect();
    tokens.filter(|tokens| !tokens.is_empty())
}

/// What a URL may have beside scheme, host and port: what would do nothing is a mistake.
struct UrlParts {
    user: bool,
    path: bool,
    /// A name that ends with `[` stands for all that begin so.
    parameters: &'static [&'static str],
}

const NATS_PARTS: UrlParts = UrlParts {
    user: true,
    path: false,
    parameters: &[],
};
const PAGE_PARTS: UrlParts = UrlParts {
    user: false,
    path: true,
    parameters: &[],
};

impl UrlParts {
    fn allow(&self, url: &url::Url) -> bool {
        let known = |name: &str| {
            let mut parameters = self.parameters.iter();
            parameters
                .any(|known| *known == name || known.ends_with('[') && name.starts_with(known))
        };
        (self.user || url.username().is_empty() && url.password().is_none())
            && (self.path || matches!(url.path(), "" | "/"))
            && url.query_pairs().all(|(name, _)| known(&name))
            && url.fragment().is_none()
    }
}

fn is_server_url(raw: &str, schemes: &[&str], parts: &UrlParts) -> bool {
    url::Url::parse(raw).is_ok_and(|url| {
        // A comma in the host: two addresses, the second one without its scheme.
        let host = url.host_str().unwrap_or_default();
        let good_host = !host.is_empty() && !host.contains(',');
        schemes.contains(&url.scheme()) && good_host && parts.allow(&url)
    })
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
