//! A rolling update: old and new processes work side by side on one consumer, and old ones end one by one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ganesh::event::Event;
use sqlx::Executor;
use tokio_util::sync::CancellationToken;

use crate::support::Stack;
use crate::support::events::{event, events, publish};
use crate::support::ganesh::run;
use crate::support::ledger::assert_each_is_one_row_or_one_letter;

const REDELIVERED: &str = "ganesh_messages_redelivered_total";
/// Kubernetes takes a pod out of its Service at about the moment at which it ends it. The chart's `preStop`
/// waits for that.
const LEAVES_SERVICE: Duration = Duration::from_millis(200);

/// The addresses of the API that the Service leads to.
type Service = Arc<Mutex<Vec<String>>>;

/// Reads one event after the other until it is told to stop. Returns how many.
async fn read_all_the_time(service: Service, stop: CancellationToken) -> u32 {
    for reads in 0.. {
        if stop.is_cancelled() {
            return reads;
        }
        let api = {
            let service = service.lock().unwrap();
            service[reads as usize % service.len()].clone()
        };
        // Each on a connection of its own.
        let answer = reqwest::get(format!("{api}/v1/events/before-0")).await;
        assert_eq!(answer.expect("a replica answers").status(), 200);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    unreachable!("the test ends before")
}

/// Publishes 1,000 events a second until it is told to stop. Returns them.
async fn publish_all_the_time(stack: &Stack, stop: &CancellationToken) -> Vec<Event> {
    let jetstream = stack.jetstream().await;
    let mut all = Vec::new();
    while !stop.is_cancelled() {
        let next = events(&format!("during-{}", all.len()), 20);
        publish(&jetstream, &next).await;
        all.extend(next);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all
}

#[tokio::test]
async fn a_rolling_update_leaves_no_gap_in_reads_and_redelivers_nothing() {
    let stack = Stack::start().await;
    let mut replicas = vec![stack.serve(&[]).await, stack.serve(&[]).await];
    let mut all = events("before", 1);
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    let service: Service = Arc::default();
    let apis = replicas.iter().map(|replica| replica.api.clone());
    service.lock().unwrap().extend(apis);
    let stop = CancellationToken::new();
    let reads = tokio::spawn(read_all_the_time(service.clone(), stop.clone()));
    let update = async {
        for _ in 0..2 {
            let new = stack.serve(&[]).await;
            service.lock().unwrap().push(new.api.clone());
            replicas.push(new);
            service.lock().unwrap().remove(0);
            tokio::time::sleep(LEAVES_SERVICE).await;
            let old = replicas.remove(0);
            // What an old one releases, another one gets as a redelivery.
            assert!(old.metric(REDELIVERED).await < f64::EPSILON);
            assert!(old.terminate().await.success());
        }
        stop.cancel();
    };
    let ((), during) = tokio::join!(update, publish_all_the_time(&stack, &stop));
    assert!(reads.await.unwrap() > 20, "too few to prove anything");
    all.extend(during);
    stack.wait_until_drained().await;
    for new in &replicas {
        assert!(new.metric(REDELIVERED).await < f64::EPSILON);
    }
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
}

/// What the next version would do first: a column more, which the old one does not know.
async fn expand(stack: &Stack) {
    let expand = "ALTER TABLE events ADD COLUMN of_next_version text; \
        INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
        VALUES (1000, 'of the next version', true, '\\x00', 0)";
    stack.pool.execute(expand).await.unwrap();
}

#[tokio::test]
async fn on_the_schema_of_the_next_version_the_old_one_goes_on_and_starts_again() {
    let stack = Stack::start().await;
    let old = stack.serve(&[]).await;
    expand(&stack).await;
    let mut all = vec![event("while it runs")];
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    assert!(old.terminate().await.success());

    let migrated = run(Some(&stack), &["migrate"], &[]);
    assert!(migrated.status.success(), "{migrated:?}");
    let doctor = run(Some(&stack), &["doctor"], &[]);
    assert!(doctor.status.success(), "{doctor:?}");
    for said in [migrated.stdout, doctor.stdout] {
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("1 migrations of a newer version"), "{said}");
    }
    let again = stack.serve(&[]).await;
    all.push(event("after its restart"));
    publish(&stack.jetstream().await, &all[1..]).await;
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert!(again.log().contains("newer version"), "{}", again.log());
}
