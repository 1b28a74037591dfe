//! The connections of a listener: so many, and which of them keep the server waiting.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How often a newcomer looks for a connection that waits for its client.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const NO_PANIC: &str = "nothing panics while it holds this lock";

type Open = Arc<Mutex<Vec<Arc<Occupant>>>>;

/// Places for connections. A newcomer gets the place of the one that has waited longest for its
/// client, so connections that ask nothing keep nobody out.
pub(super) struct Connections {
    permits: Arc<Semaphore>,
    open: Open,
}

struct Occupant {
    /// Since when it waits for its client, which has to send a request or to take an answer. `None`
    /// while a request is at work.
    waits_since: Mutex<Option<Instant>>,
    close: CancellationToken,
}

/// A connection's place, which is free again when this is dropped.
pub(super) struct Place {
    occupant: Arc<Occupant>,
    open: Open,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(connections_max: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections_max)),
            open: Arc::default(),
        }
    }

    /// Waits for a place: only while a request is at work on every connection.
    pub(super) async fn place(&self) -> Place {
        let permit = loop {
            if let Ok(permit) = self.permits.clone().try_acquire_owned() {
                break permit;
            }
            self.close_longest_waiting();
            if let Ok(permit) = timeout(LOOK_EVERY, self.permits.clone().acquire_owned()).await {
                break permit.expect("nobody closes this semaphore");
            }
        };
        let occupant = Arc::new(Occupant {
            waits_since: Mutex::new(Some(Instant::now())),
            close: CancellationToken::new(),
        });
        lock(&self.open).push(occupant.clone());
        Place {
            occupant,
            open: self.open.clone(),
            _permit: permit,
        }
    }

    fn close_longest_waiting(&self) {
        let open = lock(&self.open);
        let waiting = open
            .iter()
            .filter(|occupant| !occupant.close.is_cancelled())
            .filter_map(|occupant| Some((occupant.waits_since()?, occupant)));
        if let Some((_, longest)) = waiting.min_by_key(|(since, _)| *since) {
            longest.close.cancel();
        }
    }
}

impl Occupant {
    fn waits_since(&self) -> Option<Instant> {
        *self.waits_since.lock().expect(NO_PANIC)
    }
}

impl Place {
    /// Notes that a request is at work, or that it is the client's turn.
    pub(super) fn set_at_work(&self, at_work: bool) {
        let since = (!at_work).then(Instant::now);
        *self.occupant.waits_since.lock().expect(NO_PANIC) = since;
    }

    /// Waits until the connection has to end: it has waited longer than `limit` for its client, or
    /// a newcomer needs the place.
    pub(super) async fn lost(&self, limit: Duration) {
        let waited = async {
            loop {
                let since = self.occupant.waits_since();
                sleep_until(since.unwrap_or_else(Instant::now) + limit).await;
                if since.is_some() && since == self.occupant.waits_since() {
                    return;
                }
            }
        };
        let _ = self.occupant.close.run_until_cancelled(waited).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.open).retain(|other| !Arc::ptr_eq(other, &self.occupant));
    }
}

fn lock(open: &Open) -> MutexGuard<'_, Vec<Arc<Occupant>>> {
    open.lock().expect(NO_PANIC)
}
