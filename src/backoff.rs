//! How long to wait between attempts.

use std::time::Duration;

/// Waits that double, with jitter, so that replicas do not return all at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    ceiling: Duration,
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const CEILING: Duration = Duration::from_secs(5);

    /// From 100 ms to 5 s.
    pub(crate) const fn new() -> Self {
        Self::between(Self::FIRST, Self::CEILING)
    }

    pub(crate) const fn between(first: Duration, ceiling: Duration) -> Self {
        Self {
            first,
            ceiling,
            next: first,
        }
    }

    /// The next wait begins with the shortest again.
    pub(crate) const fn reset(&mut self) {
        self.next = self.first;
    }

    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(rand::random_range(0.5..1.0));
        self.next = (self.next * 2).min(self.ceiling);
        wait
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
    }

    /// Waits no longer than until `recovery`, and starts anew then: after a long outage the
    /// ceiling would be most of the time that it takes to be back.
    pub(crate) async fn wait_or(&mut self, recovery: impl Future<Output = ()>) {
        tokio::select! {
            () = self.wait() => {}
            () = recovery => self.reset(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_recovery_ends_the_wait_and_starts_anew() {
        let mut backoff = Backoff::new();
        backoff.next = Backoff::CEILING;
        let began = Instant::now();
        backoff.wait_or(sleep(Duration::from_millis(10))).await;
        assert_eq!(began.elapsed(), Duration::from_millis(10));
        assert_eq!(backoff.next, Backoff::FIRST);
        backoff.wait_or(ready(())).await;
        assert_eq!(began.elapsed(), Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_waits_double_to_the_ceiling_with_jitter() {
        let mut backoff = Backoff::new();
        let mut longest = Backoff::FIRST;
        for _ in 0..10 {
            let began = Instant::now();
            backoff.wait_or(pending()).await;
            let (waited, most) = (began.elapsed(), longest + Duration::from_millis(1));
            assert!(
                waited >= longest / 2 && waited <= most,
                "{waited:?} of {longest:?}"
            );
            longest = (longest * 2).min(Backoff::CEILING);
        }
    }
}
