//! Rows are marked for `GET /v1/events/stream` while somebody listens and an hour after, and nothing is missed
//! where that begins and ends.

use std::time::Duration;

use reqwest::Method;
use sqlx::Executor;
use sqlx::postgres::PgPoolOptions;

use super::client::{Answer, request, send, store};
use super::tail_client::{Tail, by_time, id_of, refused, stored};
use super::tail_transactions::insert;
use crate::support::events::{event, events};
use crate::support::{Ganesh, PATIENCE, Stack, eventually};

const LAPSE: &str = "UPDATE tail SET (wanted_until, sure_until) = \
    (SELECT past, past FROM (SELECT clock_timestamp() - interval '1 s') AS it (past))";

/// How many rows have a mark, and how many have none.
async fn marks(stack: &Stack) -> (i64, i64) {
    let marks = "SELECT count(stored_in), count(*) - count(stored_in) FROM events";
    let marks = sqlx::query_as(marks).fetch_one(&stack.pool);
    marks.await.unwrap()
}

/// Leaves the marking so many minutes.
fn ends_in(minutes: u32) -> String {
    format!(
        "UPDATE tail SET (wanted_until, sure_until) = \
         (SELECT soon, soon FROM (SELECT clock_timestamp() + interval '{minutes} min') AS it (soon))"
    )
}

async fn resume(ganesh: &Ganesh, id: &str) -> Answer {
    refused(ganesh, &format!("after={id}")).await
}

#[tokio::test]
async fn rows_are_marked_while_somebody_listens_whichever_statement_stores_them() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &events("before", 100)).await;
    assert_eq!(marks(&stack).await, (0, 100));
    let mut tail = Tail::open(&ganesh, "").await;
    let after = events("after", 100);
    store(&stack, &after).await;
    // Sent again: an INSERT, not a COPY.
    store(&stack, &[after, events("then", 10)].concat()).await;
    let mut other = stack.pool.begin().await.unwrap();
    insert(&mut other, "other").await;
    insert(&mut other, "another").await;
    other.commit().await.unwrap();
    assert_eq!(marks(&stack).await, (112, 100));
    assert_eq!(tail.ids(112).await, stored(&stack).await[100..]);
    drop(tail);
    stack.pool.execute(LAPSE).await.unwrap();
    store(&stack, &events("alone", 50)).await;
    assert_eq!(marks(&stack).await, (112, 150));
}

/// Whoever writes with a role of its own may not read our tables, and may have some of the same names.
#[tokio::test]
async fn rows_of_another_role_and_of_every_isolation_are_marked() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let role = format!("writes_{}", std::process::id());
    let make = format!(
        "CREATE ROLE {role}; GRANT INSERT ON events TO {role}; REVOKE SELECT ON tail FROM PUBLIC; \
         GRANT USAGE ON SCHEMA public TO {role}"
    );
    stack.pool.execute(make.as_str()).await.unwrap();
    let one = PgPoolOptions::new().max_connections(1);
    let pool = one.connect(&stack.database_url).await.unwrap();
    let hide = format!(
        "CREATE TEMP TABLE tail (wanted_until timestamptz); GRANT SELECT ON tail TO {role}; SET ROLE {role}"
    );
    pool.execute(hide.as_str()).await.unwrap();
    // It keeps what it saw before anybody listened.
    let mut early = stack
        .pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    early.execute("SELECT count(*) FROM events").await.unwrap();
    let mut tail = Tail::open(&ganesh, "").await;
    let mut transaction = pool.begin().await.unwrap();
    insert(&mut transaction, "role").await;
    transaction.commit().await.unwrap();
    insert(&mut early, "early").await;
    early.commit().await.unwrap();
    assert_eq!(tail.ids(2).await, ["role", "early"]);
    pool.execute("RESET ROLE; DROP TABLE pg_temp.tail")
        .await
        .unwrap();
    pool.close().await;
    let drop_role = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    stack.pool.execute(drop_role.as_str()).await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_was_open_before_holds_the_beginning_back_and_the_log_names_it() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut open = stack.pool.begin().await.unwrap();
    insert(&mut open, "unmarked").await;
    let process: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *open)
        .await
        .unwrap();
    for query in ["", "newest=5"] {
        let refused = refused(&ganesh, query).await;
        let detail = refused.problem(503, "Service Unavailable");
        assert!(detail.contains("every transaction has ended"), "{detail}");
        // Who reads events need not know who else uses the database.
        assert!(!refused.body.contains("process"), "{refused:?}");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    let named = format!("process {process} ");
    assert!(ganesh.log().contains(&named), "{}", ganesh.log());
    insert(&mut open, "marked").await;
    let opening = async {
        let mut tail = Tail::open(&ganesh, "newest=5").await;
        tail.ids(3).await
    };
    let ending = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        open.commit().await.unwrap();
        store(&stack, &[event("later")]).await;
    };
    let (mut found, ()) = tokio::join!(opening, ending);
    found.sort();
    assert_eq!(found, ["later", "marked", "unmarked"]);
    // The same where the marking has ended.
    stack.pool.execute(LAPSE).await.unwrap();
    let mut open = stack.pool.begin().await.unwrap();
    insert(&mut open, "unmarked-again").await;
    let refused = refused(&ganesh, "").await;
    refused.problem(503, "Service Unavailable");
}

#[tokio::test]
async fn a_client_goes_on_within_the_hour_and_is_told_after_it() {
    let stack = Stack::start().await;
    let replicas = [stack.serve(&[]).await, stack.serve(&[]).await];
    let mut tail = Tail::open(&replicas[0], "").await;
    store(&stack, &events("first", 10)).await;
    tail.ids(10).await;
    let id = tail.id.clone();
    drop(tail);
    eventually("nobody listens", || async {
        replicas[0].metric("ganesh_tails").await < 0.5
    })
    .await;
    store(&stack, &events("meanwhile", 10)).await;
    stack.pool.execute(ends_in(2).as_str()).await.unwrap();
    let mut tail = Tail::open(&replicas[1], &format!("after={id}")).await;
    assert_eq!(tail.ids(10).await, stored(&stack).await[10..]);
    let last = tail.id.clone();
    drop(tail);
    eventually("nobody listens", || async {
        replicas[1].metric("ganesh_tails").await < 0.5
    })
    .await;
    stack.pool.execute(LAPSE).await.unwrap();
    store(&stack, &events("unseen", 10)).await;
    for id in [&id, &last] {
        for replica in &replicas {
            let refused = resume(replica, id).await;
            let detail = refused.problem(410, "Gone");
            assert!(detail.contains("/v1/events?from="), "{detail}");
            assert_eq!(refused.json()["parameter"], "after");
            let asked = request(replica, Method::GET, "/v1/events/stream");
            let refused = send(asked.header("last-event-id", id.as_str())).await;
            refused.problem(410, "Gone");
        }
    }
    // Another one begins, with all that is there.
    let mut tail = Tail::open(&replicas[0], "newest=30").await;
    let mut found = tail.ids(30).await;
    store(&stack, &[event("last")]).await;
    found.extend(tail.ids(1).await);
    assert_eq!(found, by_time(&stack).await);
}

/// Postgres can be away for long, and its clock can be set.
#[tokio::test]
async fn an_open_stream_whose_marking_ended_says_so_and_ends() {
    let stack = Stack::start().await;
    let replicas = [stack.serve(&[]).await, stack.serve(&[]).await];
    let mut tails = [
        Tail::open(&replicas[0], "").await,
        Tail::open(&replicas[1], "").await,
    ];
    store(&stack, &events("seen", 10)).await;
    for tail in &mut tails {
        tail.ids(10).await;
    }
    stack.pool.execute(LAPSE).await.unwrap();
    store(&stack, &events("unseen", 10)).await;
    for (tail, replica) in tails.iter_mut().zip(&replicas) {
        let lagged = tail.lagged().await;
        assert!(lagged.data.unwrap().contains("/v1/events?from="));
        assert!(tail.next().await.is_none());
        resume(replica, &tail.id).await.problem(410, "Gone");
    }
    let mut tail = Tail::open(&replicas[1], "").await;
    store(&stack, &[event("seen-again")]).await;
    assert_eq!(tail.ids(1).await, ["seen-again"]);
}

/// What is left of the marking, in seconds.
async fn left(stack: &Stack) -> f64 {
    let left = "SELECT extract(epoch FROM sure_until - clock_timestamp())::float8 FROM tail";
    let left = sqlx::query_scalar(left).fetch_one(&stack.pool);
    left.await.unwrap()
}

#[tokio::test]
async fn the_marking_goes_on_while_a_stream_is_open_and_no_longer() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    stack.pool.execute(ends_in(3).as_str()).await.unwrap();
    eventually("it is renewed", || async { left(&stack).await > 3_500.0 }).await;
    store(&stack, &[event("e")]).await;
    assert_eq!(tail.ids(1).await, ["e"]);
    // Not more than twice a minute.
    let writes = "SELECT xmin::text FROM tail";
    let writes = async || -> String {
        let writes = sqlx::query_scalar(writes).fetch_one(&stack.pool);
        writes.await.unwrap()
    };
    let before = writes().await;
    assert!(!tail.has_event_within(Duration::from_secs(2)).await);
    assert_eq!(writes().await, before);
    drop(tail);
    eventually("nobody listens", || async {
        ganesh.metric("ganesh_tails").await < 0.5
    })
    .await;
    stack.pool.execute(ends_in(3).as_str()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(left(&stack).await < 200.0);
}

#[tokio::test]
async fn replicas_begin_at_the_same_time_while_others_write() {
    let stack = Stack::start().await;
    let replicas = [stack.serve(&[]).await, stack.serve(&[]).await];
    for round in 0..5 {
        let opening = replicas
            .iter()
            .cycle()
            .take(8)
            .map(|replica| Tail::open(replica, ""));
        let opening = futures::future::join_all(opening);
        let written = events(&format!("during-{round}"), 200);
        let (mut tails, ()) = tokio::join!(opening, store(&stack, &written));
        let last = format!("last-{round}");
        store(&stack, &[event(&last)]).await;
        for tail in &mut tails {
            let find = async { while id_of(&tail.event().await) != last {} };
            tokio::time::timeout(PATIENCE, find).await.unwrap();
        }
        drop(tails);
        stack.pool.execute(LAPSE).await.unwrap();
    }
}

/// The row moves from the default partition to its own with its mark, or without one.
#[tokio::test]
async fn a_row_that_moves_to_another_partition_keeps_its_mark() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let ahead = |id: &str| ganesh::event::Event {
        time: super::search_moving::in_days(10),
        ..event(id)
    };
    store(&stack, &[ahead("unmarked")]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    store(&stack, &[ahead("marked")]).await;
    assert_eq!(tail.ids(1).await, ["marked"]);
    let found = async || -> Vec<(String, Option<String>, String)> {
        let found = "SELECT id, stored_in::text, tableoid::regclass::text FROM events ORDER BY id";
        let found = sqlx::query_as(found).fetch_all(&stack.pool);
        found.await.unwrap()
    };
    let before = found().await;
    super::search_moving::change_partitions(&stack.pool).await;
    let after = found().await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.0, &before.1), (&after.0, &after.1));
        assert_ne!(before.2, after.2);
    }
    assert!(before[0].1.is_some() && before[1].1.is_none());
    assert!(!tail.has_event_within(Duration::from_secs(1)).await);
}
