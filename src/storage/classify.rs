//! What an error of Postgres means here, by SQLSTATE (the class decides, the code labels).

use std::borrow::Cow;

use sqlx::postgres::PgDatabaseError;

use super::exclusion;
use crate::config::HIDDEN;
use crate::error::{Class, Code, Dependency, Error};
use crate::tls::{self, LinkVariables, TlsFiles};

/// What stands before the state in an error's detail.
const BEFORE_STATE: &str = " (SQLSTATE ";

pub(crate) fn classify(error: &sqlx::Error) -> Error {
    let (class, code) = match error {
        sqlx::Error::Database(database) => {
            let state = database.code();
            by_sqlstate(state.as_deref().unwrap_or(""), database.constraint())
        }
        sqlx::Error::PoolTimedOut => (Class::Transient, Code::Timeout),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => (Class::Transient, Code::Connection),
        // What ganesh or sqlx refuses before any statement of ours.
        sqlx::Error::Configuration(_) => (Class::Fatal, Code::Setup),
        // What the client could not encode or decode: no row fails alone by that.
        _ => (Class::Transient, Code::Response),
    };
    Error::new(Dependency::Postgres, class, code, describe(error))
}

pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Appendix A of Postgres's manual, by the first two characters of the state.
fn by_sqlstate(state: &str, constraint: Option<&str>) -> (Class, Code) {
    match state {
        "23505" => return (Class::Transient, Code::Duplicate),
        // A row that met a partition being attached: the constraint has no name then.
        "23514" if constraint.is_none() => return (Class::Transient, Code::Conflict),
        "23514" if constraint == Some(exclusion::CONSTRAINT) => {
            return (Class::Transient, Code::Upkeep);
        }
        // lock_not_available: somebody holds a lock for longer than lock_timeout.
        "55P03" => return (Class::Transient, Code::Resources),
        // query_canceled: statement_timeout.
        "57014" => return (Class::Transient, Code::Timeout),
        _ => {}
    }
    match state.get(..2).unwrap_or("") {
        "08" => (Class::Transient, Code::Connection),
        "40" => (Class::Transient, Code::Conflict),
        "53" | "58" => (Class::Transient, Code::Resources),
        "25" | "55" | "57" => (Class::Transient, Code::Unavailable),
        "22" | "23" | "54" => (Class::Poison, Code::RejectedRow),
        "28" | "3D" | "42" => (Class::Fatal, Code::Setup),
        // Blamed on a row only if that row fails alone while others succeed.
        _ => (Class::Poison, Code::Response),
    }
}

/// The message and the state, never the row: `DETAIL` quotes values.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => {
            let state = database.code();
            let state = state.as_deref().unwrap_or("none");
            let words = without_credentials(state, database.message());
            format!("{words}{BEFORE_STATE}{state})")
        }
        sqlx::Error::Configuration(why) => why.to_string(),
        other => refusal(other).unwrap_or_else(|| other.to_string()),
    }
}

/// What one side did not accept in the other's TLS: at a start, waiting does not help.
pub(crate) fn refusal(error: &sqlx::Error) -> Option<String> {
    const VARIABLES: LinkVariables = LinkVariables {
        url: "POSTGRES_URL",
        ca: "sslrootcert (PGSSLROOTCERT)",
        certificate: "sslcert (PGSSLCERT)",
        key: "sslkey (PGSSLKEY)",
    };
    // Which files there are, the pool does not tell.
    tls::refusal(error, &TlsFiles::default(), VARIABLES)
}

/// The SQLSTATE in the detail of an error of Postgres.
pub(crate) fn sqlstate_in(detail: &str) -> Option<&str> {
    let (_, state) = detail.rsplit_once(BEFORE_STATE)?;
    let state = state.strip_suffix(')')?;
    (state.len() == 5).then_some(state)
}

/// A server's message, without the user and the database of a URL, which it may name.
fn without_credentials(state: &str, message: &str) -> String {
    let class = state.get(..2).unwrap_or("");
    if !matches!(class, "08" | "28" | "3D" | "42" | "53" | "55" | "57") {
        return message.to_owned();
    }
    let shown = without_names(message);
    // In another language, names stand elsewhere.
    let others = shown.replace(HIDDEN, "");
    if matches!(class, "28" | "3D") && (others.contains('"') || !others.is_ascii()) {
        return "the server refuses this user or this database".to_owned();
    }
    shown
}

fn without_names(message: &str) -> String {
    let mut shown = message.to_owned();
    for before in ["host \"", "user \"", "role \"", "database \""] {
        if let Some((start, rest)) = shown.split_once(before)
            && let Some((_, end)) = rest.split_once('"')
        {
            let before = before.trim_end_matches('"');
            shown = format!("{start}{before}{HIDDEN}{end}");
        }
    }
    // As poolers have it.
    for before in ["no such user: ", "no such database: "] {
        if let Some((start, _)) = shown.split_once(before) {
            shown = format!("{start}{before}{HIDDEN}");
        }
    }
    shown
}

/// The row that `COPY` stumbled over, counted from 0, if its error names one
/// (`COPY events, line 7, column data`). Its context comes last: before it a parser or a
/// trigger can have a line of its own (`JSON data, line 1: …`).
pub(crate) fn copy_line(error: &sqlx::Error) -> Option<usize> {
    let database = error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()?;
    let (_, after) = database.r#where()?.rsplit_once("COPY events, line ")?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<usize>().ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::without_credentials;

    #[test]
    fn a_refusal_names_neither_user_nor_database_in_any_language() {
        for (state, message, shown) in [
            ("28000", "mend me", "mend me"),
            (
                "28P01",
                "password authentication failed for user \"u\"",
                "password authentication failed for user [redacted]",
            ),
            (
                "3D000",
                "database \"d\" does not exist",
                "database [redacted] does not exist",
            ),
            (
                "28000",
                "no pg_hba.conf entry for host \"h\", user \"u\", database \"d\"",
                "no pg_hba.conf entry for host [redacted], user [redacted], database [redacted]",
            ),
            (
                "28P01",
                "autenticazione fallita per l'utente \"u\"",
                "the server refuses this user or this database",
            ),
            (
                "28P01",
                "Passwort-Authentifizierung für Benutzer »u« fehlgeschlagen",
                "the server refuses this user or this database",
            ),
            (
                "53300",
                "too many connections for role \"u\"",
                "too many connections for role [redacted]",
            ),
            ("08P01", "no such user: u", "no such user: [redacted]"),
            (
                "42P01",
                "relation \"events\" does not exist",
                "relation \"events\" does not exist",
            ),
            ("P0001", "unknown user \"bob\"", "unknown user \"bob\""),
        ] {
            assert_eq!(without_credentials(state, message), shown);
        }
    }
}
