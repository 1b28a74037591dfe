//! What an error of Postgres means here, by SQLSTATE (the class decides, the code labels).

use sqlx::postgres::PgDatabaseError;

use crate::error::{Class, Code, Dependency, Error};

pub(crate) fn classify(error: &sqlx::Error) -> Error {
    let (class, code) = match error {
        sqlx::Error::Database(database) => {
            let state = database.code();
            let unnamed = database.constraint().is_none();
            by_sqlstate(state.as_deref().unwrap_or(""), unnamed)
        }
        sqlx::Error::PoolTimedOut => (Class::Transient, Code::Timeout),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => (Class::Transient, Code::Connection),
        // What the client could not encode or decode: no row fails alone by that.
        _ => (Class::Transient, Code::Response),
    };
    Error::new(Dependency::Postgres, class, code, describe(error))
}

/// Appendix A of Postgres's manual, by the first two characters of the state.
fn by_sqlstate(state: &str, unnamed_constraint: bool) -> (Class, Code) {
    match state {
        "23505" => return (Class::Transient, Code::Duplicate),
        // A row that met a partition being attached: no constraint has a name then.
        "23514" if unnamed_constraint => return (Class::Transient, Code::Conflict),
        // lock_not_available, query_canceled: our own time limits.
        "55P03" | "57014" => return (Class::Transient, Code::Timeout),
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
            format!("{words} (SQLSTATE {state})")
        }
        other => other.to_string(),
    }
}

/// A server's message, without the user and the database of `POSTGRES_URL`, which it may name.
fn without_credentials(state: &str, message: &str) -> String {
    if state == "28P01" {
        return "password authentication failed for the user of POSTGRES_URL".to_owned();
    }
    match state.get(..2).unwrap_or("") {
        "28" => "the server does not let the user of POSTGRES_URL in: its log says why".to_owned(),
        "3D" => "the database of POSTGRES_URL does not exist".to_owned(),
        "08" | "42" | "53" | "55" | "57" => without_names(message),
        _ => message.to_owned(),
    }
}

fn without_names(message: &str) -> String {
    let mut shown = message.to_owned();
    for before in ["user \"", "role \"", "database \""] {
        if let Some((start, rest)) = shown.split_once(before)
            && let Some((_, end)) = rest.split_once('"')
        {
            shown = format!("{start}{before}[redacted]\"{end}");
        }
    }
    // As poolers have it.
    for before in ["no such user: ", "no such database: "] {
        if let Some((start, _)) = shown.split_once(before) {
            shown = format!("{start}{before}[redacted]");
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
