//! How ganesh reaches Postgres: URLs, to which the variables of `libpq` add what they leave out.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;
use url::Url;

use super::reader::Reader;
use super::secret::SecretUrl;
use super::{PartitionInterval, PostgresConfig};
use crate::tls::{self, IdentityFiles, TlsFiles};

/// The variables of `libpq`, and their names in a URL.
const PARAMETERS: [(&str, &[&str]); 4] = [
    ("sslmode", &["sslmode", "ssl-mode"]),
    ("sslrootcert", &["sslrootcert", "ssl-root-cert", "ssl-ca"]),
    ("sslcert", &["sslcert", "ssl-cert"]),
    ("sslkey", &["sslkey", "ssl-key"]),
];
const MODES: [(&str, &str); 5] = [
    ("disable", "disable"),
    ("prefer", "prefer"),
    ("require", "require"),
    ("verify-ca", "verify-ca"),
    ("verify-full", "verify-full"),
];

impl PostgresConfig {
    /// Where the reads of the API go.
    pub(crate) fn url_of_reads(&self) -> &SecretUrl {
        self.read_url.as_ref().unwrap_or(&self.url)
    }

    pub(super) fn read(r: &mut Reader) -> Self {
        let url = r
            .postgres_url("POSTGRES_URL")
            .expect("the default of a setting is valid");
        let read_url = r.postgres_url("POSTGRES_READ_URL");
        let complete = Complements::read(r);
        let url = complete.add_to(&url);
        let read_url = read_url.map(|url| complete.add_to(&url));
        r.check_files_of("POSTGRES_URL", &url);
        if let Some(read_url) = &read_url {
            r.check_files_of("POSTGRES_READ_URL", read_url);
        }
        Self {
            url,
            read_url,
            schema: r.schema_name("GANESH_POSTGRES_SCHEMA"),
            migrate_on_start: r.boolean("GANESH_MIGRATE_ON_START"),
            partition_interval: r.one_of(
                "GANESH_PARTITION_INTERVAL",
                &[
                    ("hour", PartitionInterval::Hour),
                    ("day", PartitionInterval::Day),
                ],
            ),
            retention_days: Some(r.integer("GANESH_RETENTION_DAYS", 0, 36_500))
                .filter(|days| *days > 0),
        }
    }
}

/// What a URL gets that says nothing of it.
struct Complements {
    mode: Option<&'static str>,
    tls: TlsFiles,
    passwords: Option<String>,
}

impl Complements {
    fn read(r: &mut Reader) -> Self {
        let passwords = "a file with lines host:port:database:user:password";
        Self {
            mode: r.one_of_optional("PGSSLMODE", &MODES),
            tls: r.tls_files("PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"),
            passwords: r.checked("PGPASSFILE", passwords, |file| {
                std::fs::read_to_string(file).map_err(|error| format!("cannot be read ({error})"))
            }),
        }
    }

    fn add_to(&self, url: &SecretUrl) -> SecretUrl {
        // The configuration was refused if it is none.
        let Ok(given) = Url::parse(url.expose()) else {
            return url.clone();
        };
        let mut parsed = given.clone();
        let file = |path: Option<&PathBuf>| path.map(|path| path.to_string_lossy().into_owned());
        let identity = self.tls.identity.as_ref();
        // As libpq has it, which encrypts no socket.
        let mode = if is_socket(&parsed) {
            Some("disable")
        } else {
            self.mode
        };
        let values = [
            mode.map(str::to_owned),
            file(self.tls.ca.as_ref()),
            file(identity.map(|identity| &identity.certificate)),
            file(identity.map(|identity| &identity.key)),
        ];
        for ((name, names), value) in PARAMETERS.into_iter().zip(values) {
            let is_set = parsed
                .query_pairs()
                .any(|(given, _)| names.contains(&&*given));
            if let Some(value) = value.filter(|_| !is_set) {
                parsed.query_pairs_mut().append_pair(name, &value);
            }
        }
        if let Some(password) = self.password(url, &parsed) {
            // Fails for a URL without host only, which was refused.
            let _ = parsed.set_password(Some(&password));
        }
        if parsed == given {
            return url.clone();
        }
        SecretUrl::new(parsed.into())
    }

    /// That of `PGPASSFILE`, for a URL without one.
    fn password(&self, url: &SecretUrl, parsed: &Url) -> Option<String> {
        let in_query = parsed.query_pairs().any(|(name, _)| name == "password");
        if parsed.password().is_some() || in_query {
            return None;
        }
        let options: PgConnectOptions = url.expose().parse().ok()?;
        // As libpq has it: a socket is named by its folder.
        let socket = parsed
            .query_pairs()
            .find(|(name, value)| name == "host" && value.starts_with('/'));
        let host: &str = match &socket {
            Some((_, folder)) => folder,
            None => options.get_host(),
        };
        let port = options.get_port().to_string();
        let database = options.get_database().unwrap_or(options.get_username());
        let wanted = [host, &port, database, options.get_username()];
        password_in(self.passwords.as_deref()?, wanted)
    }
}

/// Whether a host is a folder with a socket.
fn is_socket(url: &Url) -> bool {
    let is_folder =
        |(name, value): (Cow<'_, str>, Cow<'_, str>)| name == "host" && value.starts_with('/');
    let host = url.host_str().unwrap_or_default();
    host.to_ascii_lowercase().starts_with("%2f") || url.query_pairs().any(is_folder)
}

/// The password of the first line that fits. A field may be `*`; `\` quotes what follows.
fn password_in(lines: &str, wanted: [&str; 4]) -> Option<String> {
    let lines = lines.lines().filter(|line| !line.starts_with('#'));
    lines.map(fields).find_map(|mut fields| {
        let password = fields.pop()?;
        let fits = |(field, wanted): (&String, &str)| field == "*" || field == wanted;
        (fields.len() == wanted.len() && fields.iter().zip(wanted).all(fits)).then_some(password)
    })
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == ':' && fields.len() < 5 {
            fields.push(String::new());
            continue;
        }
        let last = fields.last_mut().expect("it begins with one");
        if character == '\\' {
            last.extend(characters.next());
        } else {
            last.push(character);
        }
    }
    fields
}

/// The files that a URL names.
pub(crate) fn files_of(url: &SecretUrl) -> TlsFiles {
    let Ok(parsed) = Url::parse(url.expose()) else {
        return TlsFiles::default();
    };
    let file = |index: usize| {
        let (_, names) = PARAMETERS[index];
        let mut pairs = parsed.query_pairs();
        pairs
            .find(|(name, _)| names.contains(&&**name))
            .map(|(_, value)| PathBuf::from(&*value))
    };
    let pair = file(2).zip(file(3));
    TlsFiles {
        ca: file(1),
        identity: pair.map(|(certificate, key)| IdentityFiles { certificate, key }),
    }
}

impl Reader {
    /// Checks the files of a URL; their names are not shown, as no part of a URL is.
    fn check_files_of(&mut self, env: &'static str, url: &SecretUrl) {
        let files = files_of(url);
        let check = |file: &Path, what: &str, check: fn(&Path) -> Result<(), String>| {
            check(file).map_err(|why| format!("its {what} {why}"))
        };
        let mut found = Ok(());
        if let Some(ca) = &files.ca {
            found = found.and_then(|()| check(ca, "sslrootcert", tls::check_ca));
        }
        if let Some(identity) = &files.identity {
            found = found
                .and_then(|()| check(&identity.certificate, "sslcert", tls::check_certificate))
                .and_then(|()| tls::check_key(identity).map_err(|why| format!("its sslkey {why}")));
        }
        if let Err(why) = found {
            self.refuse(
                env,
                &format!("{why}: expected PEM files that are valid and fit"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let lines = "# comment\nother:5432:db:me:no\n\\:\\:1:5432:*:me:six\nhost:*:db:me:p\\:a\\\\:b\n*:*:*:*:last\n";
        let password = |host| password_in(lines, [host, "5432", "db", "me"]);
        assert_eq!(password("host").as_deref(), Some("p:a\\:b"));
        assert_eq!(password("::1").as_deref(), Some("six"));
        assert_eq!(password("elsewhere").as_deref(), Some("last"));
        assert_eq!(password_in("host:1:db:me", ["host", "1", "db", "me"]), None);
    }
}
