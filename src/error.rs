//! One error type for the three dependencies, with a class that says what to do
//! and a code from a closed list, which is the only error label of a metric.

use std::fmt;

use crate::text;

/// What can be away or refuse us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency {
    /// NATS with JetStream.
    Nats,
    /// Postgres.
    Postgres,
    /// Dragonfly or Redis.
    Cache,
}

impl Dependency {
    /// Every dependency.
    pub const ALL: [Self; 3] = [Self::Nats, Self::Postgres, Self::Cache];

    /// Its value in the label `dependency`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Postgres => "postgres",
            Self::Cache => "cache",
        }
    }
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again later; nothing is wrong with the data.
    Transient,
    /// A row (or a message) is to blame: take it out, go on with the rest.
    Poison,
    /// Nothing that we do helps: stop and say so.
    Fatal,
}

/// The closed list of the label `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// The server works on something that conflicts (deadlock, serialization, lock).
    Conflict,
    /// The server is short of something (disk, memory, connections).
    Resources,
    /// The server is shutting down, starting, or read-only.
    Unavailable,
    /// A row broke a rule of its types or constraints.
    RejectedRow,
    /// The key is there already.
    Duplicate,
    /// Missing table, column, database or permission.
    Setup,
    /// An answer that we do not understand.
    Response,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 9] = [
        Self::Connection,
        Self::Timeout,
        Self::Conflict,
        Self::Resources,
        Self::Unavailable,
        Self::RejectedRow,
        Self::Duplicate,
        Self::Setup,
        Self::Response,
    ];

    /// Its value in the label `code`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Resources => "resources",
            Self::Unavailable => "unavailable",
            Self::RejectedRow => "rejected_row",
            Self::Duplicate => "duplicate",
            Self::Setup => "setup",
            Self::Response => "response",
        }
    }
}

/// What a dependency answered, or did not.
#[derive(Debug)]
pub struct Error {
    /// Who.
    pub dependency: Dependency,
    /// What to do about it.
    pub class: Class,
    /// The label.
    pub code: Code,
    /// The words for people, without payloads.
    pub detail: String,
}

impl Error {
    /// An error with these words.
    pub fn new(
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

    /// No answer within a limit of ours.
    pub fn timeout(dependency: Dependency, what: &str) -> Self {
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
            self.dependency.as_str(),
            self.code.as_str(),
            self.detail
        )
    }
}

impl std::error::Error for Error {}
