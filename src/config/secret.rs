//! Values that must not be printed.

use std::fmt;

/// A secret: its `Debug` shows that it is there, never what it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret value.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// One server URL, or several separated by commas. What stands before an `@`, and
/// what follows a `?` (libpq takes a password there too), is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps a URL that was validated.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The URL with its password, for the client library.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, url) in self.0.split(',').enumerate() {
            let separator = if i == 0 { "" } else { "," };
            write!(f, "{separator}{}", redact(url.trim()))?;
        }
        Ok(())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The URL without user, password and query.
pub(super) fn redact(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    // The last `@` ends the user's part: a password may hold one unescaped.
    let (user, host) = rest.rsplit_once('@').unwrap_or(("", rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    let user = if user.is_empty() { "" } else { "[redacted]@" };
    let query = if query.is_empty() { "" } else { "?[redacted]" };
    format!("{scheme}{separator}{user}{host}{query}")
}
