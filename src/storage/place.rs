//! Places of reads. While the pipeline is behind, a place rests after each read: then writes have the machine,
//! and reads together a small share of its time, however many ask. Waiting is no use of a place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::queries::Reads;

/// While writes go first, reads of one kind get one part in so many of the time.
const SHARE: u32 = 20;
/// The longest rest, however long the read took.
const REST_MAX: Duration = Duration::from_secs(30);
/// How often it is asked whether the pipeline is behind still.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Places for one kind of reads.
#[derive(Clone)]
pub(super) struct ReadPlaces {
    permits: Arc<Semaphore>,
    count: u32,
    /// Of reads of all kinds: one for each connection. Nobody waits in this line for more than the few that have
    /// a place of their kind.
    connections: Arc<Semaphore>,
    writes_go_first: Arc<AtomicBool>,
}

/// The right to read, until it is dropped. Then its place rests, and its connection is free at once.
pub(crate) struct ReadPlace {
    permit: Option<OwnedSemaphorePermit>,
    _connection: OwnedSemaphorePermit,
    began: Instant,
    /// Where only a part of the time counts.
    counted: Option<TimeInPostgres>,
    of: ReadPlaces,
}

/// How long something has been asked of Postgres. Cloning clones an `Arc`.
#[derive(Debug, Clone, Default)]
pub(crate) struct TimeInPostgres(Arc<AtomicU64>);

/// Counts until it is dropped.
pub(crate) struct Counting<'a> {
    since: Instant,
    nanos: &'a AtomicU64,
}

impl TimeInPostgres {
    pub(crate) fn begin(&self) -> Counting<'_> {
        Counting {
            since: Instant::now(),
            nanos: &self.0,
        }
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        let nanos = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl ReadPlaces {
    pub(super) fn new(
        count: u32,
        connections: &Arc<Semaphore>,
        writes_go_first: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(count as usize)),
            count,
            connections: connections.clone(),
            writes_go_first: writes_go_first.clone(),
        }
    }

    pub(super) async fn take(&self) -> ReadPlace {
        const OPEN: &str = "nobody closes these semaphores";
        let permit = self.permits.clone().acquire_owned().await.expect(OPEN);
        let connection = self.connections.clone().acquire_owned().await.expect(OPEN);
        ReadPlace {
            permit: Some(permit),
            _connection: connection,
            began: Instant::now(),
            counted: None,
            of: self.clone(),
        }
    }
}

impl ReadPlace {
    /// From now on only what is counted there is use of the place: its reader asks others, too.
    pub(super) fn count_only(&mut self) -> TimeInPostgres {
        self.counted.insert(TimeInPostgres::default()).clone()
    }

    fn used(&self) -> Duration {
        match &self.counted {
            None => self.began.elapsed(),
            Some(counted) => Duration::from_nanos(counted.0.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for ReadPlace {
    fn drop(&mut self) {
        let (permit, writes_go_first) = (self.permit.take(), self.of.writes_go_first.clone());
        if !writes_go_first.load(Ordering::Relaxed) {
            return;
        }
        let rest = self.used() * (SHARE * self.of.count - 1);
        let end = Instant::now() + rest.min(REST_MAX);
        // There is none when the process ends.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            while writes_go_first.load(Ordering::Relaxed) && Instant::now() < end {
                sleep(LOOK_EVERY.min(end - Instant::now())).await;
            }
            drop(permit);
        });
    }
}

impl Reads {
    /// Lets writes go first whenever `is_behind` says so.
    pub(crate) async fn give_way(self, is_behind: impl Fn() -> bool, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.writes_go_first.store(is_behind(), Ordering::Relaxed);
            let _ = stop.run_until_cancelled(sleep(LOOK_EVERY)).await;
        }
        self.writes_go_first.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads for a while, one after the other; how many there were.
    async fn reads_of(places: &ReadPlaces, took: Duration, time: Duration) -> u32 {
        let end = Instant::now() + time;
        let mut reads = 0;
        while Instant::now() < end
            && let Ok(place) = tokio::time::timeout_at(end, places.take()).await
        {
            sleep(took).await;
            drop(place);
            reads += 1;
        }
        reads
    }

    fn places(count: u32, connections: &Arc<Semaphore>) -> (ReadPlaces, Arc<AtomicBool>) {
        let writes_go_first = Arc::new(AtomicBool::new(true));
        let places = ReadPlaces::new(count, connections, &writes_go_first);
        (places, writes_go_first)
    }

    #[tokio::test(start_paused = true)]
    async fn reads_have_a_small_share_of_the_time_while_writes_go_first_and_all_of_it_after_that() {
        for count in [2, 4] {
            let (places, writes_go_first) = places(count, &Arc::new(Semaphore::new(4)));
            let (took, time) = (Duration::from_millis(10), Duration::from_secs(100));
            let clients = (0..16).map(|_| reads_of(&places, took, time));
            let reads: u32 = futures::future::join_all(clients).await.iter().sum();
            let share = (took * reads).as_secs_f64() / time.as_secs_f64();
            assert!((0.8..1.2).contains(&(share * f64::from(SHARE))), "{share}");
            let rest = places.take().await;
            sleep(Duration::from_secs(10)).await;
            drop(rest);
            writes_go_first.store(false, Ordering::Relaxed);
            sleep(LOOK_EVERY).await;
            assert!(reads_of(&places, took, Duration::from_secs(10)).await > 800);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_does_not_rest_for_the_time_in_which_its_reader_waited() {
        let connections = Arc::new(Semaphore::new(1));
        let (places, _) = places(1, &connections);
        let waits = async |limit| tokio::time::timeout(limit, places.take()).await.ok();
        // No connection comes.
        let taken = connections
            .clone()
            .acquire_owned()
            .await
            .expect("it is open");
        assert!(waits(Duration::from_secs(2)).await.is_none());
        // It comes late, and nothing is read.
        let late = async {
            sleep(Duration::from_secs(2)).await;
            drop(taken);
        };
        let (place, ()) = tokio::join!(waits(Duration::from_secs(3)), late);
        drop(place);
        let began = Instant::now();
        let mut place = waits(REST_MAX).await.expect("it rests no longer");
        assert!(began.elapsed() <= LOOK_EVERY, "{:?}", began.elapsed());
        // Its reader asks others for a second.
        let time = place.count_only();
        sleep(Duration::from_secs(1)).await;
        let counting = time.begin();
        sleep(Duration::from_millis(10)).await;
        drop(counting);
        drop(place);
        let began = Instant::now();
        waits(REST_MAX).await.expect("it rests no longer");
        let rest = began.elapsed();
        let expected = Duration::from_millis(10) * (SHARE - 1);
        assert!((expected..expected * 2).contains(&rest), "{rest:?}");
    }
}
