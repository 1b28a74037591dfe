//! How ganesh reaches NATS and logs in there.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use time::OffsetDateTime;
use url::Url;

use super::reader::Reader;
use super::secret::{Secret, SecretSource, SecretUrl};
use super::{NatsConfig, subjects};
use crate::tls::rfc3339;

/// The login. What a file holds is read again for each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NatsLogin {
    /// The server has to know nobody.
    Anonymous,
    User {
        user: SecretSource,
        password: SecretSource,
        /// It stands in `NATS_URL`.
        is_in_url: bool,
    },
    Token(SecretSource),
    /// The seed of a user's key.
    Nkey(SecretSource),
    /// JWT and seed, as `nsc` writes them.
    Credentials(SecretSource),
}

impl NatsLogin {
    /// Who logs in, without a secret; a user in a URL might be a token.
    pub(crate) fn in_words(&self) -> Option<String> {
        let words = match self {
            Self::Anonymous => return None,
            Self::User {
                is_in_url: true, ..
            } => "as the user in NATS_URL".to_owned(),
            Self::User { user, .. } => format!("as {}", user.read().ok()?),
            Self::Token(_) => "by a token".to_owned(),
            Self::Nkey(seed) => {
                let key = nkeys::KeyPair::from_seed(&seed.read().ok()?).ok()?;
                format!("as {}", key.public_key())
            }
            Self::Credentials(credentials) => {
                let credentials = parse_credentials(&credentials.read().ok()?)?;
                let claims = claims(&credentials.jwt)?;
                let until = match expiry(&credentials.jwt) {
                    Some(until) => format!(" until {}", rfc3339(until)),
                    None => String::new(),
                };
                let claim = |name: &str| claims[name].as_str().unwrap_or_default();
                format!("as {} ({}){until}", claim("name"), claim("sub"))
            }
        };
        Some(words)
    }
}

/// A user's JWT, and the seed of its key.
pub(crate) struct Credentials {
    pub(crate) jwt: String,
    pub(crate) seed: String,
}

impl NatsConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let url = r.nats_urls("NATS_URL");
        Self {
            login: r.nats_login(&url),
            tls: r.tls_files("NATS_CA", "NATS_CERT", "NATS_KEY"),
            tls_first: r.boolean("GANESH_NATS_TLS_FIRST"),
            api_prefix: r.nats_api_prefix(),
            inbox_prefix: r.parse("GANESH_NATS_INBOX_PREFIX", PREFIX, parse_prefix),
            url,
            stream: r.jetstream_name("GANESH_STREAM"),
            subjects: r.subjects("GANESH_SUBJECTS"),
            stream_max_age: r.duration("GANESH_STREAM_MAX_AGE", "1s", "36500d"),
            stream_max_bytes: r.bytes("GANESH_STREAM_MAX_BYTES", "1KiB", "1024TiB"),
            stream_replicas: r.optional("GANESH_STREAM_REPLICAS", "1 to 5, or empty", |raw| {
                raw.parse()
                    .ok()
                    .filter(|replicas| (1..=5).contains(replicas))
            }),
            consumer: r.jetstream_name("GANESH_CONSUMER"),
            dlq_stream: r.jetstream_name("GANESH_DLQ_STREAM"),
            ack_wait: r.duration("GANESH_ACK_WAIT", "1s", "1h"),
        }
    }

    /// Whether a connection without TLS is refused: by one setting for all servers, as a server may name others
    /// that are in no list of ours.
    pub(crate) fn needs_tls(&self) -> bool {
        self.tls_first
            || !self.tls.is_empty()
            || self.url.expose_each().any(|url| url.starts_with("tls:"))
    }
}

impl Reader {
    fn nats_login(&mut self, url: &SecretUrl) -> NatsLogin {
        let user = self.secret("NATS_USER");
        let password = self.secret("NATS_PASSWORD");
        let pair = match (user, password) {
            (Some(user), Some(password)) => Some(NatsLogin::User {
                user,
                password,
                is_in_url: false,
            }),
            (Some(_), None) => {
                self.refuse("NATS_USER", "expected NATS_PASSWORD, too");
                None
            }
            (None, Some(_)) => {
                self.refuse("NATS_PASSWORD", "expected NATS_USER, too");
                None
            }
            (None, None) => None,
        };
        let token = self.secret("NATS_TOKEN").map(NatsLogin::Token);
        let seed = "a user's seed, which begins with SU, or a file that holds one";
        let nkey = self.secret_or_file("NATS_NKEY", seed, |text| {
            let text = text.trim();
            check_seed(text).map_err(str::to_owned)
        });
        let credentials = "a credentials file with a user's JWT and seed, as nsc writes it";
        let credentials = self.secret_or_file("NATS_CREDS", credentials, |text| {
            check_credentials(&parse_credentials(text).ok_or("has not both")?)
        });
        let given = [
            ("NATS_URL", login_of(url)),
            ("NATS_USER", pair),
            ("NATS_TOKEN", token),
            ("NATS_NKEY", nkey.map(NatsLogin::Nkey)),
            ("NATS_CREDS", credentials.map(NatsLogin::Credentials)),
        ];
        let mut given = given
            .into_iter()
            .filter_map(|(env, login)| Some((env, login?)));
        let Some((first, login)) = given.next() else {
            return NatsLogin::Anonymous;
        };
        if let Some((other, _)) = given.next() {
            let expected = format!("expected one login, and {first} has another");
            self.refuse(other, &expected);
        }
        login
    }

    /// What comes before the name of a request to JetStream.
    fn nats_api_prefix(&mut self) -> String {
        let domain = self.optional(
            "GANESH_NATS_DOMAIN",
            "a name without dots, spaces and wildcards",
            |raw| {
                let good = subjects::is_valid(raw) && !raw.contains(['.', '*', '>']);
                good.then(|| format!("$JS.{raw}.API"))
            },
        );
        let prefix = self.optional("GANESH_NATS_API_PREFIX", PREFIX, parse_prefix);
        if domain.is_some() && prefix.is_some() {
            self.refuse(
                "GANESH_NATS_API_PREFIX",
                "expected no GANESH_NATS_DOMAIN beside it, which is a prefix, too",
            );
        }
        domain.or(prefix).unwrap_or_else(|| "$JS.API".to_owned())
    }
}

const PREFIX: &str = "a subject without wildcards";

fn parse_prefix(raw: &str) -> Option<String> {
    let good = subjects::is_valid(raw) && !raw.contains(['*', '>']);
    good.then(|| raw.to_owned())
}

/// The login of the first URL that has one: user and password, or a user alone, which is a token.
fn login_of(url: &SecretUrl) -> Option<NatsLogin> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text).decode_utf8_lossy();
        SecretSource::Given(Secret::new(text.into_owned()))
    };
    let mut urls = url.expose_each().filter_map(|url| Url::parse(url).ok());
    let url = urls.find(|url| !url.username().is_empty())?;
    let user = decoded(url.username());
    Some(match url.password() {
        Some(password) => NatsLogin::User {
            user,
            password: decoded(password),
            is_in_url: true,
        },
        None => NatsLogin::Token(user),
    })
}

fn check_seed(seed: &str) -> Result<(), &'static str> {
    let known = nkeys::KeyPair::from_seed(seed).map_err(|_| "is no seed")?;
    match known.key_pair_type() {
        nkeys::KeyPairType::User => Ok(()),
        _ => Err("is the seed of something else than a user"),
    }
}

fn check_credentials(credentials: &Credentials) -> Result<(), String> {
    check_seed(&credentials.seed)?;
    match expiry(&credentials.jwt) {
        Some(until) if until < OffsetDateTime::now_utc() => {
            Err(format!("holds a JWT that expired at {}", rfc3339(until)))
        }
        _ => Ok(()),
    }
}

/// Until when a JWT is valid, if it says so.
fn expiry(jwt: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(claims(jwt)?.get("exp")?.as_i64()?).ok()
}

fn claims(jwt: &str) -> Option<Value> {
    let claims = jwt.split('.').nth(1)?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// Two blocks between lines of dashes: the JWT, then the seed.
pub(crate) fn parse_credentials(text: &str) -> Option<Credentials> {
    let block = |mark: &str| {
        let mut lines = text.lines().map(str::trim);
        let begin = |line: &str| line.starts_with("---") && line.contains(mark);
        lines.find(|line| begin(line))?;
        let block = lines.find(|line| !line.is_empty())?;
        (!block.starts_with('-')).then(|| block.to_owned())
    };
    Some(Credentials {
        jwt: block("BEGIN NATS USER JWT")?,
        seed: block("BEGIN USER NKEY SEED")?,
    })
}
