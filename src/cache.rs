//! interim
use crate::error::Error;
use crate::event::Event;
#[derive(Clone)]
pub struct Cache;
#[derive(Clone, Copy)]
pub struct State<'a> {
    pub subject: &'a str,
    pub event: &'a Event,
    pub stream_seq: u64,
    pub invalidate: bool,
}
impl<'a> State<'a> {
    pub fn newer_of(self, other: Self) -> Self {
        let key = |s: &Self| (s.event.time, s.stream_seq);
        let newest = if key(&other) > key(&self) {
            other
        } else {
            self
        };
        Self {
            invalidate: self.invalidate || other.invalidate,
            ..newest
        }
    }
}
impl Cache {
    pub fn new(
        _c: &crate::config::CacheConfig,
        _p: &crate::config::PostgresConfig,
        _pool: sqlx::PgPool,
        _m: crate::telemetry::Metrics,
        _h: crate::telemetry::Health,
    ) -> Result<Self, redis::RedisError> {
        Ok(Self)
    }
    pub async fn run(self, stop: tokio_util::sync::CancellationToken) {
        stop.cancelled().await
    }

    pub fn is_usable(&self) -> bool {
        true
    }
    pub async fn write_committed(
        &self,
        _states: &[State<'_>],
        _epoch_advanced: bool,
    ) -> Result<(), Error> {
        Ok(())
    }
}
