//! What a failure of the cache means: an answer that refuses, or no answer.

use std::time::Duration;

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};

use crate::error::{Class, Code, Dependency, Error};

#[derive(Debug)]
pub(super) enum CacheFailure {
    /// The server answered, and refused (out of memory, loading, no permission): the connection
    /// is whole and what was sent before and after is not touched by it.
    Refused(Error),
    /// The key holds something that ganesh did not write.
    Foreign(Error),
    /// No answer in time. The operation may still happen.
    Late(Error),
    /// The connection broke. The operation may have happened.
    Broken(Error),
}

impl CacheFailure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Refused(error)
            | Self::Foreign(error)
            | Self::Late(error)
            | Self::Broken(error) => error,
        }
    }

    pub(super) fn error(&self) -> &Error {
        match self {
            Self::Refused(error)
            | Self::Foreign(error)
            | Self::Late(error)
            | Self::Broken(error) => error,
        }
    }
}

/// Waits for an answer of the cache, at most `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    what: &str,
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, CacheFailure> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| failure(&error)),
        Err(_) => Err(CacheFailure::Late(Error::timeout(Dependency::Cache, what))),
    }
}

fn failure(error: &RedisError) -> CacheFailure {
    let described = classify(error);
    match error.kind() {
        // The same code in every version of either server.
        _ if error.code() == Some("WRONGTYPE") => CacheFailure::Foreign(described),
        ErrorKind::Server(_) | ErrorKind::Extension => CacheFailure::Refused(described),
        _ if error.is_timeout() => CacheFailure::Late(described),
        _ => CacheFailure::Broken(described),
    }
}

/// Converts an error of the client library. No error is fatal: without the cache reads are only
/// slower.
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
    Error::new(Dependency::Cache, Class::Transient, code, error.to_string())
}
