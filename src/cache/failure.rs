//! What a failure of the cache means: an answer that refuses, or no answer.

use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};

use crate::error::{Class, Code, Dependency, Error};

#[derive(Debug)]
pub(super) struct CacheFailure {
    pub(super) kind: FailureKind,
    pub(super) error: Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server answered, and refused (out of memory, loading, no permission): the connection
    /// is whole and what was sent before and after is not touched by it.
    Refused,
    /// The key holds something that ganesh did not write.
    Foreign,
    /// No answer in time. The operation may still happen.
    Late,
    /// The connection broke. The operation may have happened.
    Broken,
}

impl CacheFailure {
    pub(super) fn late(what: &str) -> Self {
        Self {
            kind: FailureKind::Late,
            error: Error::timeout(Dependency::Cache, what),
        }
    }
}

/// No error is fatal: without the cache reads are only slower.
pub(super) fn cache_error(code: Code, what: impl Into<String>) -> Error {
    Error::new(Dependency::Cache, Class::Transient, code, what)
}

/// Waits for an answer of the cache, at most `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    what: &str,
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, CacheFailure> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| failure(&error)),
        Err(_) => Err(CacheFailure::late(what)),
    }
}

fn failure(error: &RedisError) -> CacheFailure {
    let kind = match error.kind() {
        // The same code in every version of either server.
        _ if error.code() == Some("WRONGTYPE") => FailureKind::Foreign,
        ErrorKind::Server(_) | ErrorKind::Extension => FailureKind::Refused,
        _ if error.is_timeout() => FailureKind::Late,
        _ => FailureKind::Broken,
    };
    let error = classify(error);
    CacheFailure { kind, error }
}

/// Converts an error of the client library.
pub(super) fn classify(error: &RedisError) -> Error {
    let code = match (error.kind(), error.code()) {
        (_, Some("OOM")) => Code::Resources,
        (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
        | (ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig, _) => Code::Setup,
        (_, Some("BUSY" | "MISCONF" | "NOREPLICAS"))
        | (
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain,
            ),
            _,
        ) => Code::Unavailable,
        _ if error.is_timeout() => Code::Timeout,
        _ if error.is_unrecoverable_error() => Code::Connection,
        _ => Code::Response,
    };
    cache_error(code, words(error))
}

/// The error's words, without the user of `REDIS_URL`, whom a refusal names.
pub(crate) fn words(error: &RedisError) -> String {
    match error.code() {
        Some("NOPERM") => "NOPERM: the user of REDIS_URL lacks a permission".to_owned(),
        _ => error.to_string(),
    }
}
