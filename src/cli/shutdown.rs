//! Shutdown: SIGINT, SIGTERM, and the grace period that all steps of the shutdown share.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Reserved at the end of the grace period for the steps after the pipeline; half of a grace period under 6 s.
const RESERVE_MAX: Duration = Duration::from_secs(3);

/// The steps of a shutdown. The number: how many twelfths of the reserve remain at the step's deadline.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Held messages are stored and acknowledged.
    Drain = 12,
    /// NATS takes the last acknowledgements and releases.
    Flush = 8,
    /// The collector takes the last spans.
    Spans = 2,
    /// The log file takes the last lines.
    Log = 1,
}

/// The grace period. All clones share its beginning.
#[derive(Debug, Clone)]
pub(super) struct Shutdown {
    grace: Duration,
    began: Arc<OnceLock<Instant>>,
}

impl Shutdown {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            began: Arc::default(),
        }
    }

    /// Begins the grace period, if it has not begun.
    pub(super) fn begin(&self) {
        self.began.get_or_init(Instant::now);
    }

    /// Returns the deadline of a step. Begins the grace period if no signal did.
    pub(super) fn deadline(&self, step: Step) -> Instant {
        let began = *self.began.get_or_init(Instant::now);
        let reserve = RESERVE_MAX.min(self.grace / 2);
        let kept_back = reserve * step as u32 / Step::Drain as u32;
        began + self.grace.saturating_sub(kept_back)
    }
}

/// SIGINT and SIGTERM. After this call they no longer end the process.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Returns a token that the first signal cancels, after it has called `first`.
pub(super) fn stop_on_signal(
    first: impl FnOnce() + Send + 'static,
) -> io::Result<CancellationToken> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        first();
        cancelled.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_time_and_all_are_done_within_the_grace() {
        for grace in [1, 4, 25] {
            let grace = Duration::from_secs(grace);
            let shutdown = Shutdown::new(grace);
            shutdown.begin();
            let began = *shutdown.began.get().expect("it has begun");
            let steps = [Step::Drain, Step::Flush, Step::Spans, Step::Log];
            let until = steps.map(|step| shutdown.deadline(step) - began);
            assert!(until.is_sorted_by(|one, next| one < next), "{until:?}");
            assert!(until[0] >= grace / 2, "{until:?}");
            assert!(until[3] < grace, "{until:?}");
        }
        let until = Shutdown::new(Duration::from_secs(25)).deadline(Step::Drain);
        assert!(until > Instant::now() + Duration::from_secs(21));
    }
}
