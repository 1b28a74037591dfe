//! Values that must not be printed.

use std::fmt;
use std::path::PathBuf;

/// A secret: its `Debug` shows that it is there, never what it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn new(value: String) -> Self {
        Self(value)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// A secret, or the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretSource {
    Given(Secret),
    File(PathBuf),
}

impl SecretSource {
    /// What it is at the moment, without white space around it.
    ///
    /// # Errors
    /// When the file cannot be read, in words that follow its name.
    pub(crate) fn read(&self) -> Result<String, String> {
        match self {
            Self::Given(secret) => Ok(secret.expose().to_owned()),
            Self::File(file) => super::reader::read_file(file),
        }
    }
}

/// One server URL, or several separated by commas. Only scheme, host and port are ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps a URL that was validated.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The URL with its password, for the client library.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Each of the URLs, with its password.
    pub(crate) fn expose_each(&self) -> impl Iterator<Item = &str> {
        split(&self.0).into_iter()
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Splits a list of URLs. A comma separates two URLs only before another `scheme://`; elsewhere it
/// may belong to a password or a query.
pub(super) fn split(urls: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut from = 0;
    let query = urls.find(['?', '#']).unwrap_or(urls.len());
    for (comma, _) in urls[..query].match_indices(',') {
        if starts_with_scheme(urls[comma + 1..].trim_start()) {
            parts.push(urls[from..comma].trim());
            from = comma + 1;
        }
    }
    parts.push(urls[from..].trim());
    parts
}

fn starts_with_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphabetic())
    })
}

/// Returns URLs without secrets. Text that is no URL might be all password.
pub(super) fn redact(urls: &str) -> String {
    let shown: Option<Vec<String>> = split(urls).into_iter().map(redact_one).collect();
    shown.map_or_else(|| HIDDEN.to_owned(), |shown| shown.join(","))
}

/// Stands for what is not shown.
pub(crate) const HIDDEN: &str = "[redacted]";

/// `None` for what is no URL.
fn redact_one(raw: &str) -> Option<String> {
    let url = url::Url::parse(raw).ok().filter(url::Url::has_host)?;
    let scheme = url.scheme();
    let secret = !url.username().is_empty() || url.password().is_some();
    // An `@` elsewhere: a password with an unescaped `/`, `?`, `#` or `@`, whose parts
    // stand where host and path are expected.
    if raw.matches('@').count() != usize::from(secret) {
        return Some(format!("{scheme}://{HIDDEN}"));
    }
    let user = if secret { "[redacted]@" } else { "" };
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    let query = match (url.query(), url.fragment()) {
        (None, None) => "",
        _ => "?[redacted]",
    };
    let path = match url.path() {
        "" | "/" => url.path(),
        _ => "/[redacted]",
    };
    Some(format!("{scheme}://{user}{host}{port}{path}{query}"))
}
