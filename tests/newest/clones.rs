//! A database and its clone, which share a cache.

use ganesh::event::Event;

use crate::support::cache_server::keys_of;
use crate::support::events::publish;
use crate::support::reads::{ago, latest_by_cache, of};
use crate::support::{Ganesh, Stack, eventually};

const EPOCH: i64 = 5_000_000_000_000_000;

async fn epoch(stack: &Stack) -> i64 {
    let epoch = sqlx::query_scalar("SELECT epoch FROM cache_epoch");
    epoch.fetch_one(&stack.pool).await.unwrap()
}

async fn store(stack: &Stack, event: Event) {
    publish(&stack.jetstream().await, &[event]).await;
    stack.wait_until_drained().await;
}

async fn wait_for_the_cache(ganesh: &Ganesh) {
    let up = "ganesh_dependency_up{dependency=\"cache\"}";
    ganesh.wait_for_metric(up, 1.0).await;
}

#[tokio::test]
async fn a_clone_and_its_original_never_answer_each_others_states() {
    let (original, clone) = (Stack::start().await, Stack::start().await);
    let cache = original.redis_url();
    let shared = [("REDIS_URL", cache.as_str())];
    let one = original.serve(&[]).await;
    let other = clone.serve(&shared).await;
    for ganesh in [&one, &other] {
        wait_for_the_cache(ganesh).await;
    }
    store(&original, of("s", "of-the-original", ago(10))).await;
    store(&clone, of("s", "of-the-clone", ago(10))).await;
    // As in a copy of all tables.
    for stack in [&original, &clone] {
        let copied = sqlx::query("UPDATE cache_epoch SET epoch = $1");
        copied.bind(EPOCH).execute(&stack.pool).await.unwrap();
    }
    for (ganesh, keys) in [(&one, 1), (&other, 2)] {
        eventually("it uses the epoch", || async {
            latest_by_cache(ganesh, "s").await;
            let stored = keys_of(&original.cache, "s").await;
            let of_epoch = stored.iter().filter(|key| key.contains(&EPOCH.to_string()));
            of_epoch.count() == keys
        })
        .await;
    }
    let ids = [
        latest_by_cache(&one, "s").await,
        latest_by_cache(&other, "s").await,
    ];
    let ids = ids.map(|answer| answer.id.unwrap_or_default());
    assert_eq!(ids, ["of-the-original", "of-the-clone"]);
}

#[tokio::test]
async fn every_start_advances_the_epoch() {
    let stack = Stack::start().await;
    let one = stack.serve(&[]).await;
    wait_for_the_cache(&one).await;
    let before = epoch(&stack).await;
    let two = stack.serve(&[]).await;
    wait_for_the_cache(&two).await;
    assert!(epoch(&stack).await > before);
    assert!(two.terminate().await.success());
}
