//! Which lines are logged: as configured, or otherwise for a while.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::reload::Handle;

use crate::event::Timestamp;

/// The filter of the process's log lines. Cloning clones an `Arc`.
#[derive(Clone)]
pub(crate) struct LogFilter(Arc<SharedFilter>);

struct SharedFilter {
    handle: Handle<EnvFilter, Registry>,
    in_force: Mutex<FilterInForce>,
}

struct FilterInForce {
    state: FilterState,
    /// The task that ends a change.
    end: Option<AbortHandle>,
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
        let state = FilterState {
            filter: configured.clone(),
            until: None,
            configured,
        };
        Self(Arc::new(SharedFilter {
            handle,
            in_force: Mutex::new(FilterInForce { state, end: None }),
        }))
    }

    pub(crate) fn state(&self) -> FilterState {
        self.in_force().state.clone()
    }

    /// Logs by `filter` from now on, and after `lasting` by the configured one again. An
    /// earlier change ends with it. Expects a filter that the configuration would accept.
    pub(crate) fn change_for(&self, filter: String, lasting: Duration) {
        tracing::info!(filter, ?lasting, "log filter changes");
        let lasting_micros = i64::try_from(lasting.as_micros()).unwrap_or(i64::MAX);
        let until = Timestamp::now().micros().saturating_add(lasting_micros);
        let until = Timestamp::from_micros(until).to_string();
        let mut in_force = self.in_force();
        self.apply(&filter);
        in_force.state.filter = filter;
        in_force.state.until = Some(until.clone());
        let end = tokio::spawn(self.clone().end_after(lasting, until));
        if let Some(earlier) = in_force.end.replace(end.abort_handle()) {
            earlier.abort();
        }
    }

    async fn end_after(self, lasting: Duration, until: String) {
        tokio::time::sleep(lasting).await;
        let configured = {
            let mut in_force = self.in_force();
            let state = &mut in_force.state;
            // Another change may have come while this task was on its way here.
            if state.until != Some(until) {
                return;
            }
            state.until = None;
            state.filter.clone_from(&state.configured);
            self.apply(&state.configured);
            state.configured.clone()
        };
        tracing::info!(
            filter = configured,
            "log filter is the configured one again"
        );
    }

    fn apply(&self, filter: &str) {
        self.0
            .handle
            .reload(parse(filter))
            .expect("the process's subscriber is there for as long as the process");
    }

    fn in_force(&self) -> MutexGuard<'_, FilterInForce> {
        self.0
            .in_force
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
