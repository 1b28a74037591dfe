//! How a place is asked: within the time of the question, and not again once it was silent.

use std::time::Duration;

use async_nats::jetstream::Context;
use serde::Serialize;
use sqlx::PgPool;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::inquiry::Inquiry;
use crate::error::{Code, Error};

/// What a search that ends early with a part of its answer leaves of its time.
const MARGIN: Duration = Duration::from_millis(100);

/// A place that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AskedPlace {
    Stream,
    Consumer,
    Postgres,
    DeadLetters,
    Jaeger,
    Cache,
    Replica,
}

impl AskedPlace {
    /// As people read it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stream => "the stream",
            Self::Consumer => "the consumer",
            Self::Postgres => "Postgres",
            Self::DeadLetters => "the dead letters",
            Self::Jaeger => "Jaeger",
            Self::Cache => "the cache",
            Self::Replica => "the replica",
        }
    }
}

/// A place that could not be asked.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct NotAsked {
    pub(crate) place: AskedPlace,
    pub(crate) why: String,
    /// It did not answer, and would not answer the next question either.
    #[serde(skip)]
    is_silent: bool,
}

/// How long a question may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuestionLimits {
    /// All of it.
    pub(crate) until: Instant,
    /// One answer of a place.
    pub(crate) each: Duration,
}

impl QuestionLimits {
    /// For one more answer.
    pub(crate) fn left(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        left.min(self.each)
    }

    /// For a search that says itself how far it came.
    pub(super) fn of_search(&self) -> Duration {
        self.left().saturating_sub(MARGIN)
    }
}

impl Inquiry<'_> {
    pub(super) fn pool(&mut self) -> Option<PgPool> {
        match &self.places.postgres {
            Ok(pool) => Some(pool.clone()),
            Err(why) => {
                self.gap(AskedPlace::Postgres, why.clone());
                None
            }
        }
    }

    pub(super) fn jetstream(&mut self, place: AskedPlace) -> Option<Context> {
        match &self.places.jetstream {
            Ok(jetstream) => Some(jetstream.clone()),
            Err(why) => {
                self.gap(place, why.clone());
                None
            }
        }
    }

    /// Its answer, if there is one in time. A place that was silent is not asked again.
    pub(super) async fn ask<T>(
        &mut self,
        place: AskedPlace,
        asking: impl Future<Output = Result<T, Error>>,
    ) -> Option<T> {
        if self.is_silent(place) {
            return None;
        }
        let left = self.places.limits.left();
        if left.is_zero() {
            self.gap(place, "the time of the question was over".to_owned());
            return None;
        }
        let is_postgres = matches!(place, AskedPlace::Postgres);
        let _counting = is_postgres.then(|| self.places.time_in_postgres.begin());
        match timeout(left, asking).await {
            Ok(Ok(answer)) => {
                self.has_answer = true;
                Some(answer)
            }
            Ok(Err(error)) => {
                let is_silent = matches!(error.code, Code::Timeout | Code::Connection);
                self.add_gap(place, error.detail, is_silent);
                None
            }
            Err(_) => {
                self.add_gap(place, "no answer in time".to_owned(), true);
                None
            }
        }
    }

    pub(super) fn is_silent(&self, place: AskedPlace) -> bool {
        let mut gaps = self.not_asked.iter();
        gaps.any(|gap| gap.place == place && gap.is_silent)
    }

    /// Says once why a place could not be asked.
    pub(super) fn gap(&mut self, place: AskedPlace, why: String) {
        self.add_gap(place, why, false);
    }

    pub(super) fn add_gap(&mut self, place: AskedPlace, why: String, is_silent: bool) {
        match self.not_asked.iter_mut().find(|gap| gap.place == place) {
            Some(gap) => gap.is_silent |= is_silent,
            None => self.not_asked.push(NotAsked {
                place,
                why,
                is_silent,
            }),
        }
    }
}
