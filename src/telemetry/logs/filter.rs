//! Which lines are logged: as configured, or otherwise for a while.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::reload::Handle;

use crate::event::Timestamp;

/// The filter of the process's log lines. Cloning clones an `Arc`.
#[derive(Clone)]
pub(crate) struct LogFilter(Arc<SharedFilter>);

struct SharedFilter {
    configured: String,
    handle: Handle<EnvFilter, Registry>,
    change: Mutex<Option<TemporaryFilter>>,
}

/// A filter in place of the configured one.
struct TemporaryFilter {
    filter: String,
    until: Timestamp,
    due: Instant,
    end: AbortHandle,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilterState {
    pub(crate) filter: String,
    /// RFC 3339; then the configured filter comes back. `None`: it is in force.
    pub(crate) until: Option<String>,
    /// `GANESH_LOG`.
    pub(crate) configured: String,
}

impl LogFilter {
    pub(super) fn new(configured: String, handle: Handle<EnvFilter, Registry>) -> Self {
        Self(Arc::new(SharedFilter {
            configured,
            handle,
            change: Mutex::new(None),
        }))
    }

    pub(crate) fn state(&self) -> FilterState {
        let change = self.change();
        FilterState {
            filter: change
                .as_ref()
                .map_or_else(|| self.0.configured.clone(), |change| change.filter.clone()),
            until: change.as_ref().map(|change| change.until.to_string()),
            configured: self.0.configured.clone(),
        }
    }

    /// Logs by `filter` from now on, and after `lasting` by the configured one again. An
    /// earlier change ends with it. Expects a filter that the configuration would accept.
    pub(crate) fn change_for(&self, filter: String, lasting: Duration) {
        tracing::info!(filter, ?lasting, "log filter changes");
        let lasting_micros = i64::try_from(lasting.as_micros()).unwrap_or(i64::MAX);
        let mut change = self.change();
        self.apply(&filter);
        let due = Instant::now() + lasting;
        let next = TemporaryFilter {
            filter,
            until: Timestamp::from_micros(Timestamp::now().micros().saturating_add(lasting_micros)),
            due,
            end: tokio::spawn(self.clone().end_at(due)).abort_handle(),
        };
        if let Some(earlier) = change.replace(next) {
            earlier.end.abort();
        }
    }

    async fn end_at(self, due: Instant) {
        tokio::time::sleep_until(due).await;
        {
            let mut change = self.change();
            // Another change may have come while this task was on its way here.
            if change.as_ref().is_none_or(|change| change.due > due) {
                return;
            }
            *change = None;
            self.apply(&self.0.configured);
        }
        tracing::info!(
            filter = self.0.configured,
            "log filter is the configured one again"
        );
    }

    fn apply(&self, filter: &str) {
        self.0
            .handle
            .reload(parse(filter))
            .expect("the process's subscriber is there for as long as the process");
    }

    fn change(&self) -> MutexGuard<'_, Option<TemporaryFilter>> {
        self.0
            .change
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}

/// The filter that these directives mean. Those that mean nothing are left out: the
/// configuration has refused them before.
pub(super) fn parse(directives: &str) -> EnvFilter {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse_lossy(directives)
}

/// The most that a filter can ask for.
pub(super) fn ceiling() -> Targets {
    Targets::new()
        .with_default(LevelFilter::TRACE)
        // Below that the client shows whole messages, payloads and all.
        .with_target("async_nats", LevelFilter::INFO)
        // The exporter complains at every batch while no collector listens;
        // running without one is a supported way to run.
        .with_target("opentelemetry", LevelFilter::OFF)
}
