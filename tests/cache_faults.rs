//! P5 while the way to the cache misbehaves. What the cache itself goes through (away, hanging,
//! out of memory, evicting, foreign keys, flushed, a replica, restored) is in `tests/newest/`.

use std::time::{Duration, Instant};

use ganesh::event::{Event, Timestamp};
use rustix::process::Signal;

use crate::support::events::{events, publish};
use crate::support::proxy::{Manner, Proxy, Way};
use crate::support::reads::{assert_newest, latest, latest_by_cache, of};
use crate::support::servers::send_signal;
use crate::support::{Ganesh, Stack, eventually};

const CACHE_UP: &str = "ganesh_dependency_up{dependency=\"cache\"}";
const SKIPPED: &str = "ganesh_cache_requests_total{operation=\"write\",result=\"skipped\"}";
const FAILED: &str = "ganesh_cache_requests_total{operation=\"write\",result=\"error\"}";
const WRITTEN: &str = "ganesh_cache_requests_total{operation=\"write\",result=\"ok\"}";
const REDELIVERED: &str = "ganesh_messages_redelivered_total";
/// What one batch may lose to a slow cache.
const WRITE_LIMIT: Duration = Duration::from_millis(500);
/// Writers with `GANESH_WRITERS=1`.
const WRITERS_PER_PLACE: f64 = 4.0;

async fn proxied(stack: &Stack) -> (Proxy, String) {
    let proxy = Proxy::start(stack.cache.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    (proxy, url)
}

/// So many events of one subject, each newer than the one before.
fn newer_and_newer(prefix: &str, count: i64) -> Vec<Event> {
    let now = Timestamp::now().micros();
    (0..count)
        .map(|i| {
            of(
                "s",
                &format!("{prefix}-{i}"),
                Timestamp::from_micros(now + i),
            )
        })
        .collect()
}

async fn store(stack: &Stack, events: &[Event]) {
    publish(&stack.jetstream().await, events).await;
    stack.wait_until_drained().await;
}

async fn until_cache_is_up(ganesh: &Ganesh) {
    eventually("the cache is used again", || async {
        ganesh.metric(CACHE_UP).await > 0.5
    })
    .await;
}

#[tokio::test]
async fn a_cache_slower_than_its_limit_costs_few_batches_that_limit_and_is_skipped_by_the_rest() {
    let stack = Stack::start().await;
    let (proxy, url) = proxied(&stack).await;
    let settings = [
        ("REDIS_URL", url.as_str()),
        ("GANESH_BATCH_MAX_EVENTS", "50"),
        ("GANESH_WRITERS", "1"),
    ];
    let ganesh = stack.serve(&settings).await;
    store(&stack, &newer_and_newer("first", 1)).await;
    latest_by_cache(&ganesh, "s").await;
    // Fast enough that it is connected to, and too slow for a batch's write.
    proxy.behave(Manner::Delay(Duration::from_millis(350)));
    let began = Instant::now();
    store(&stack, &newer_and_newer("slow", 5_000)).await;
    let took = began.elapsed();
    let (failed, skipped) = (ganesh.metric(FAILED).await, ganesh.metric(SKIPPED).await);
    // A hundred batches, of which each would wait for the limit.
    assert!(failed >= 1.0, "the cache was not slow");
    assert!(
        failed + skipped >= 50.0,
        "{failed} failed, {skipped} skipped"
    );
    // Each connection that is tried may cost every writer one wait, side by side.
    assert!(
        failed <= 5.0 * WRITERS_PER_PLACE,
        "{failed} of a hundred batches waited for it"
    );
    let waited = WRITE_LIMIT.mul_f64(failed / WRITERS_PER_PLACE);
    assert!(
        took < waited + Duration::from_secs(8),
        "{took:?}, {failed} waits"
    );
    // A second after the last acknowledgement.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_newest(&stack, &[&ganesh], &["s".to_owned()]).await;
    proxy.behave(Manner::Pass);
    until_cache_is_up(&ganesh).await;
    latest_by_cache(&ganesh, "s").await;
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}

/// Stores a backlog with a cache that answers so late; rows a second, by the times at which Postgres
/// began to store them.
async fn drained_per_second(stack: &Stack, late: Duration) -> f64 {
    const EVENTS: usize = 30_000;
    let (proxy, url) = proxied(stack).await;
    proxy.behave_one_way(Way::ToClient, Manner::Delay(late));
    let name = format!("late-{}", rand::random::<u32>());
    // Storing a batch takes less than the cache does: two writers alone would wait for it most of the time.
    let settings = [
        ("REDIS_URL", url.as_str()),
        ("GANESH_BATCH_MAX_EVENTS", "1000"),
    ];
    let ganesh = stack.serve(&settings).await;
    // Until it has the cache, each batch advances the epoch, one after the other.
    latest_by_cache(&ganesh, "none").await;
    send_signal(ganesh.pid(), Signal::STOP);
    publish(&stack.jetstream().await, &events(&name, EVENTS)).await;
    send_signal(ganesh.pid(), Signal::CONT);
    stack.wait_until_drained().await;
    let written = ganesh.metric(WRITTEN).await;
    assert!(written >= 15.0, "{written} of 30 batches went to the cache");
    assert!(ganesh.terminate().await.success());
    let (rows, seconds): (i64, f64) = sqlx::query_as(
        "SELECT count(*), extract(epoch FROM max(stored_at) - min(stored_at))::float8 \
         FROM events WHERE starts_with(id, $1)",
    )
    .bind(format!("{name}-"))
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(rows, i64::try_from(EVENTS).unwrap());
    f64::from(u32::try_from(rows).unwrap()) / seconds
}

#[tokio::test]
async fn a_cache_that_answers_late_costs_less_than_a_fifth_of_the_rate() {
    let stack = Stack::start().await;
    // It makes the stream.
    assert!(stack.serve(&[]).await.terminate().await.success());
    let mut shares = Vec::new();
    // Other tests run beside it, so one good pair of five is enough.
    for _ in 0..5 {
        let undisturbed = drained_per_second(&stack, Duration::ZERO).await;
        let late = drained_per_second(&stack, Duration::from_millis(90)).await;
        shares.push(late / undisturbed);
        if late >= undisturbed * 0.8 {
            return;
        }
    }
    panic!("late against undisturbed: {shares:?}");
}

#[tokio::test]
async fn connections_to_the_cache_that_are_cut_under_load_change_no_answer() {
    let stack = Stack::start().await;
    let (proxy, url) = proxied(&stack).await;
    let through = [
        ("REDIS_URL", url.as_str()),
        ("GANESH_BATCH_MAX_EVENTS", "20"),
    ];
    let (one, two) = (stack.serve(&through).await, stack.serve(&[]).await);
    store(&stack, &newer_and_newer("first", 1)).await;
    latest_by_cache(&two, "s").await;
    let jetstream = stack.jetstream().await;
    for round in 0..10 {
        let events = newer_and_newer(&format!("round-{round}"), 100);
        let cut = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if round % 2 == 0 {
                proxy.cut();
            } else {
                proxy.half_close();
            }
        };
        tokio::join!(publish(&jetstream, &events), cut);
        stack.wait_until_drained().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_newest(&stack, &[&one, &two], &["s".to_owned()]).await;
    }
    assert_eq!(stack.rows().await, 1_001);
    assert!(one.metric(REDELIVERED).await < f64::EPSILON);
}

#[tokio::test]
async fn a_way_to_the_cache_that_swallows_everything_holds_up_neither_events_nor_reads() {
    let stack = Stack::start().await;
    let (proxy, url) = proxied(&stack).await;
    let ganesh = stack.serve(&[("REDIS_URL", &url)]).await;
    store(&stack, &newer_and_newer("first", 1)).await;
    latest_by_cache(&ganesh, "s").await;
    proxy.behave(Manner::Swallow);
    for round in 0..3 {
        let began = Instant::now();
        store(&stack, &newer_and_newer(&format!("round-{round}"), 10)).await;
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
        let began = Instant::now();
        let answer = latest(&ganesh, "s").await;
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(answer.status, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_newest(&stack, &[&ganesh], &["s".to_owned()]).await;
    }
    // What was swallowed is gone: whoever went on with that connection would misread answers.
    proxy.behave(Manner::Pass);
    until_cache_is_up(&ganesh).await;
    latest_by_cache(&ganesh, "s").await;
    assert_newest(&stack, &[&ganesh], &["s".to_owned()]).await;
}
