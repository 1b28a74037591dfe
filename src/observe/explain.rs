//! What happened to one message: asked of every place that may know, told as one story.
//!
//! ```text
//!  question ─ which message? ─▶ stream, consumer ─▶ Postgres ─▶ dead letters ─▶ Jaeger ─▶ replica
//!                                                     Explanation ◀─ newest state, cache ◀─┘
//! ```
//!
//! Each place may be away: the others answer, and the gap is said. Nothing is changed anywhere, and every
//! search is bounded. The stream is asked for single messages and never read through.

pub(crate) mod answer;
mod asking;
mod ending;
mod inquiry;
mod jaeger;
pub(crate) mod question;
pub(crate) mod remembered;
mod searches;
mod story;

use std::time::Duration;

use async_nats::jetstream::Context;
use sqlx::PgPool;
use tokio::time::timeout;

pub(crate) use self::answer::Explanation;
pub(crate) use self::asking::QuestionLimits;
use self::inquiry::Inquiry;
pub(crate) use self::question::Question;
use self::remembered::RememberedMessage;
use crate::config::Config;
use crate::messaging::connection;
use crate::storage::place::TimeInPostgres;

/// Whom to ask. A place that cannot be reached says why.
pub(crate) struct Places<'a> {
    /// Names the stream, the consumer, the letters, the cache and Jaeger.
    pub(crate) config: &'a Config,
    pub(crate) jetstream: Result<Context, String>,
    pub(crate) postgres: Result<PgPool, String>,
    /// Counts how long Postgres is asked.
    pub(crate) time_in_postgres: TimeInPostgres,
    /// What one replica remembers.
    pub(crate) remembered: Result<Vec<RememberedMessage>, String>,
    pub(crate) limits: QuestionLimits,
}

/// A NATS connection of one question.
///
/// # Errors
/// Why there is none.
pub(crate) async fn jetstream(config: &Config, limit: Duration) -> Result<Context, String> {
    let connecting = connection::connect_aside("ganesh-explain", &config.nats);
    match timeout(limit, connecting).await {
        Ok(Ok(client)) => Ok(connection::jetstream(client, &config.nats)),
        Ok(Err(error)) => Err(format!("NATS at {}: {}", config.nats.url, error.detail)),
        Err(_) => Err(format!("NATS at {} does not answer", config.nats.url)),
    }
}

/// Asks all places about one message.
pub(crate) async fn explain(places: &Places<'_>, question: Question) -> Explanation {
    let mut inquiry = Inquiry::new(places);
    inquiry.find(&question).await;
    inquiry.ask_stream().await;
    inquiry.ask_rows().await;
    inquiry.ask_letters().await;
    inquiry.ask_jaeger(&question).await;
    inquiry.ask_replica();
    inquiry.ask_subject().await;
    answer::of(question, inquiry)
}
