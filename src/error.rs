//! One error type for the three dependencies, with a class that says what to do
//! and a code from a closed list, which is the only error label of a metric.

#![allow(missing_docs, reason = "strum writes `into_str`")]

use std::fmt;

use strum::{IntoStaticStr, VariantArray};

use crate::text;

/// A server that ganesh depends on: the label `dependency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Dependency {
    /// NATS with JetStream.
    Nats,
    Postgres,
    /// Dragonfly or Redis.
    Cache,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Try again later; nothing is wrong with the data.
    Transient,
    /// A row (or a message) is to blame: take it out, go on with the rest.
    Poison,
    /// Retrying does not help: stop and report it.
    Fatal,
}

/// The kind of an error: the label `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub enum Code {
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// The server works on something that conflicts (deadlock, serialization, lock).
    Conflict,
    /// The server is short of something (disk, memory, connections, a lock that somebody holds).
    Resources,
    /// The server is shutting down, starting, or read-only.
    Unavailable,
    /// Upkeep attaches a partition, and refuses rows of its time meanwhile.
    Upkeep,
    /// A row broke a rule of its types or constraints.
    RejectedRow,
    /// The key is there already.
    Duplicate,
    /// Missing table, column, database or permission.
    Setup,
    /// An answer that ganesh does not understand.
    Response,
}

impl Code {
    /// Of the transient ones, those that usually say something of the rows: a part of them may pass.
    pub(crate) fn is_about_rows(self) -> bool {
        matches!(self, Self::Conflict | Self::Timeout)
    }
}

/// An error of a dependency.
#[derive(Debug, Clone)]
pub struct Error {
    pub(crate) dependency: Dependency,
    pub(crate) class: Class,
    pub(crate) code: Code,
    /// The words for people, without payloads.
    pub(crate) detail: String,
}

impl Error {
    pub(crate) fn new(
        dependency: Dependency,
        class: Class,
        code: Code,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            dependency,
            class,
            code,
            // A server's words can quote a message (a trigger's do), and a log line is one line.
            detail: text::on_one_line(&detail.into()),
        }
    }

    pub(crate) fn timeout(dependency: Dependency, what: &str) -> Self {
        Self::new(
            dependency,
            Class::Transient,
            Code::Timeout,
            format!("{what}: no answer in time"),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}): {}",
            self.dependency.into_str(),
            self.code.into_str(),
            self.detail
        )
    }
}

impl std::error::Error for Error {}
