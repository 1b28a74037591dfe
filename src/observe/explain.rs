//! What happened to one message: asked of every place that may know, told as one story.
//!
//! ```text
//!  question ─ which message? ─▶ stream, consumer ─▶ Postgres ─▶ dead letters ─▶ Jaeger ─▶ newest state, cache
//!                                                                                        └▶ Explanation
//! ```
//!
//! Each place may be away: the others answer, and the gap is said. Nothing is changed anywhere, and every
//! search is bounded. The stream is asked for single messages and never read through.

pub(crate) mod answer;
mod ending;
mod inquiry;
mod jaeger;
pub(crate) mod question;
mod searches;
mod story;

use async_nats::jetstream::Context;
use sqlx::PgPool;

pub(crate) use self::answer::Explanation;
use self::inquiry::Inquiry;
pub(crate) use self::question::Question;
use crate::config::Config;

/// Whom to ask. A place that cannot be reached says why.
pub(crate) struct Places<'a> {
    /// Names the stream, the consumer, the letters, the cache and Jaeger.
    pub(crate) config: &'a Config,
    pub(crate) jetstream: Result<Context, String>,
    pub(crate) postgres: Result<PgPool, String>,
}

/// Asks all places about one message.
pub(crate) async fn explain(places: &Places<'_>, question: Question) -> Explanation {
    let mut inquiry = Inquiry::new(places);
    inquiry.find(&question).await;
    inquiry.ask_stream().await;
    inquiry.ask_rows().await;
    inquiry.ask_letters().await;
    inquiry.ask_jaeger(&question).await;
    inquiry.ask_subject().await;
    answer::of(question, inquiry)
}
