//! A flood of reads, and what it takes from the pipeline. How much that is, benches/flood.rs measures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Method;

use crate::http::client::{get, request, store};
use crate::postgres_faults::connections::proxied;
use crate::support::events::{event, events, publish};
use crate::support::flood::Flood;
use crate::support::proxy::{Manner, Proxy};
use crate::support::stack::read_url;
use crate::support::{Ganesh, Stack, eventually};

const HELD: &str = "ganesh_in_flight_messages";
const REDELIVERED: &str = "ganesh_messages_redelivered_total";
const POSTGRES_UP: &str = "ganesh_dependency_up{dependency=\"postgres\"}";

/// Every connection of reads hangs, and every place of theirs is taken: what writes need, and what says whether
/// Postgres answers, has connections still.
#[tokio::test]
async fn reads_that_all_hang_take_nothing_from_the_pipeline() {
    const EVENTS: usize = 4_000;
    let stack = Stack::start().await;
    let (proxy, through) = proxied(&stack).await;
    let url = read_url(&through);
    let settings = [
        ("POSTGRES_READ_URL", url.as_str()),
        ("GANESH_BATCH_MAX_EVENTS", "200"),
    ];
    stack.make_streams().await;
    let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader";
    sqlx::query(grant).execute(&stack.pool).await.unwrap();
    let ganesh = stack.serve(&settings).await;
    // More than there are places for, and few enough to leave the processor alone while they wait.
    let flood = Flood::start(&ganesh, 16);
    eventually("reads are answered", || async { flood.answered() > 100 }).await;
    proxy.behave(Manner::Hold);
    let until = flood.refused() + 32;
    eventually("reads hang", || async { flood.refused() > until }).await;
    let hung = flood.answered();
    store(&stack, &events("beside", EVENTS)).await;
    assert_eq!(flood.answered(), hung, "not all of them");
    assert!(ganesh.metric(POSTGRES_UP).await > 0.5);
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
    proxy.behave(Manner::Pass);
    eventually("reads are answered again", || async {
        flood.answered() > hung + 100
    })
    .await;
    flood.end().await;
    assert_eq!(usize::try_from(stack.rows().await), Ok(EVENTS));
}

/// Its pipeline is behind until the proxy lets pass. Reads go past it: nothing else makes them slow.
async fn behind(stack: &Stack) -> (Ganesh, Proxy) {
    let (proxy, through) = proxied(stack).await;
    let settings = [
        ("POSTGRES_URL", through.as_str()),
        ("POSTGRES_READ_URL", stack.database_url.as_str()),
        ("GANESH_MAX_IN_FLIGHT", "200"),
        ("GANESH_BATCH_MAX_EVENTS", "10"),
    ];
    let ganesh = stack.serve(&settings).await;
    store(stack, &[event("first")]).await;
    proxy.behave(Manner::Delay(Duration::from_millis(100)));
    publish(&stack.jetstream().await, &events("e", 5_000)).await;
    ganesh.wait_for_metric(HELD, 150.0).await;
    (ganesh, proxy)
}

#[tokio::test]
async fn while_the_pipeline_is_behind_a_flood_waits_for_turns_and_after_that_it_does_not() {
    let stack = Stack::start().await;
    let (ganesh, proxy) = behind(&stack).await;
    let flood = Flood::start(&ganesh, 128);
    eventually(
        "some reads are answered, and others get no turn",
        || async { flood.answered() > 10 && flood.refused() > 10 },
    )
    .await;
    assert!(ganesh.metric(HELD).await > 100.0, "it has caught up");
    flood.end().await;
    proxy.behave(Manner::Pass);
    stack.wait_until_drained().await;
    let flood = Flood::start(&ganesh, 8);
    eventually("places have rested", || async { flood.answered() > 500 }).await;
    flood.end().await;
}

/// What waits in the same line as a flood of others has its turn.
#[tokio::test]
async fn searches_and_streams_have_their_turn_beside_a_flood_of_other_reads() {
    let stack = Stack::start().await;
    let (ganesh, proxy) = behind(&stack).await;
    let flood = Flood::of_states(&ganesh, 200);
    eventually("it waits", || async { flood.refused() > 10 }).await;
    let answered = AtomicU64::new(0);
    eventually("searches are answered", || async {
        let status = get(&ganesh, "/v1/events?data.none=eq.1&limit=1")
            .await
            .status;
        let more = u64::from(matches!(status, 200 | 422));
        answered.fetch_add(more, Ordering::Relaxed) + more >= 3
    })
    .await;
    eventually("a stream begins", || async {
        let asked = request(&ganesh, Method::GET, "/v1/events/stream");
        asked.send().await.unwrap().status() == 200
    })
    .await;
    assert!(ganesh.metric(HELD).await > 100.0, "it has caught up");
    flood.end().await;
    proxy.behave(Manner::Pass);
    stack.wait_until_drained().await;
}
