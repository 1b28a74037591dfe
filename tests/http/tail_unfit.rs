//! Marks that nobody can rely on: streams say so, with the statement that mends it, and storing goes on.

use std::time::Duration;

use sqlx::Executor;

use super::client::store;
use super::tail_client::{Tail, by_time, refused};
use super::tail_transactions::insert;
use crate::support::events::event;
use crate::support::ganesh::run;
use crate::support::{Ganesh, Stack};

/// A new stream is refused. Returns why, and the statement that mends it.
async fn refusal(ganesh: &Ganesh, query: &str) -> (String, String) {
    let refused = refused(ganesh, query).await;
    let detail = refused.problem(503, "Service Unavailable");
    assert!(detail.contains("GET /v1/events/stream would"), "{detail}");
    let (why, statement) = detail.rsplit_once(": ").unwrap();
    (why.to_owned(), statement.to_owned())
}

/// The stream ends, and its id is worth nothing.
async fn assert_told(mut tail: Tail) -> String {
    tail.lagged().await;
    assert!(tail.next().await.is_none());
    tail.id
}

async fn assert_gone(ganesh: &Ganesh, id: &str) {
    let refused = refused(ganesh, &format!("after={id}")).await;
    refused.problem(410, "Gone");
}

/// What somebody changes, and a word of why no stream begins then.
const CHANGES: [(&str, &str); 4] = [
    (
        "ALTER TABLE events DISABLE TRIGGER mark_for_tail",
        "disabled",
    ),
    ("DROP TRIGGER mark_for_tail ON events", "missing"),
    (
        "CREATE OR REPLACE TRIGGER mark_for_tail BEFORE INSERT ON events FOR EACH STATEMENT \
         WHEN (false) EXECUTE FUNCTION mark_for_tail()",
        "changed",
    ),
    (
        "ALTER TABLE events ALTER stored_in DROP DEFAULT",
        "stored_in",
    ),
];

#[tokio::test]
async fn where_somebody_changed_what_marks_rows_streams_say_what_to_do_and_storing_goes_on() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    for (number, (change, word)) in CHANGES.into_iter().enumerate() {
        let mut tail = Tail::open(&ganesh, "").await;
        let seen = format!("seen-{number}");
        store(&stack, &[event(&seen)]).await;
        assert_eq!(tail.ids(1).await, [seen]);
        stack.pool.execute(change).await.unwrap();
        store(&stack, &[event(&format!("unseen-{number}"))]).await;
        let id = assert_told(tail).await;
        let (why, statement) = refusal(&ganesh, &format!("after={id}")).await;
        assert!(why.contains(word), "{why}");
        assert_eq!(ganesh.admin("/readyz").await.0, 200);
        stack.pool.execute(statement.as_str()).await.unwrap();
        assert_gone(&ganesh, &id).await;
    }
    assert_eq!(stack.rows().await, 8);
}

#[tokio::test]
async fn serve_starts_without_the_trigger_that_marks_rows_and_doctor_says_what_to_do() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    for change in [
        CHANGES[0].0,
        "ALTER TABLE tail DROP CONSTRAINT tail_pkey",
        CHANGES[1].0,
    ] {
        stack.pool.execute(change).await.unwrap();
    }
    let ganesh = stack.serve(&[]).await;
    for _ in 0..2 {
        let (_, statement) = refusal(&ganesh, "newest=5").await;
        let doctor = run(Some(&stack), &["doctor"], &[]);
        let said = String::from_utf8(doctor.stdout).unwrap();
        let fits = |line: &str| line.starts_with("FAILED") && line.ends_with(&statement);
        assert!(said.lines().any(fits), "{statement}: {said}");
        stack.pool.execute(statement.as_str()).await.unwrap();
    }
    store(&stack, &[event("e")]).await;
    let mut tail = Tail::open(&ganesh, "newest=5").await;
    assert_eq!(tail.ids(1).await, ["e"]);
}

/// The database is one that `pg_restore` made, of a cluster whose transactions had higher numbers.
const RESTORE: &str = "\
    UPDATE tail SET basis = replace(basis, (SELECT system_identifier FROM pg_control_system())::text, '1'); \
    INSERT INTO events (id, source, time, type, nats_subject, stream_seq, published_at, trace_id, stored_in) \
    VALUES ('restored', '/other', now(), 't', 'events.test', 0, now(), '', '1000000000000')";

#[tokio::test]
async fn a_restored_copy_goes_on_with_no_id_and_with_no_mark_of_the_original() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    store(&stack, &[event("before")]).await;
    assert_eq!(tail.ids(1).await, ["before"]);
    stack.pool.execute(RESTORE).await.unwrap();
    let id = assert_told(tail).await;
    for query in ["newest=5", &format!("after={id}")] {
        let (why, statement) = refusal(&ganesh, query).await;
        assert!(why.contains("pg_restore"), "{why}");
        assert!(statement.starts_with("UPDATE events"), "{statement}");
    }
    let (_, statement) = refusal(&ganesh, "").await;
    stack.pool.execute(statement.as_str()).await.unwrap();
    assert_gone(&ganesh, &id).await;
    let mut tail = Tail::open(&ganesh, "newest=5").await;
    assert_eq!(tail.ids(2).await, by_time(&stack).await);
    store(&stack, &[event("after")]).await;
    assert_eq!(tail.ids(1).await, ["after"]);
}

/// The marking is over soon, and the commit of what renews it waits for the test.
const STALL: &str = "\
    UPDATE tail SET (wanted_until, sure_until) = \
        (SELECT soon, soon FROM (SELECT clock_timestamp() + interval '700 ms') AS it (soon)); \
    CREATE TABLE go_on (); \
    CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        WHILE NOT EXISTS (SELECT FROM go_on) LOOP PERFORM pg_sleep(0.01); END LOOP; \
        RETURN NULL; \
    END $$; \
    CREATE CONSTRAINT TRIGGER stall AFTER UPDATE ON tail DEFERRABLE INITIALLY DEFERRED \
    FOR EACH ROW EXECUTE FUNCTION stall()";

#[tokio::test]
async fn a_renewal_that_takes_longer_than_the_marking_lasts_hides_no_event() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    store(&stack, &[event("seen")]).await;
    assert_eq!(tail.ids(1).await, ["seen"]);
    stack.pool.execute(STALL).await.unwrap();
    tokio::time::sleep(Duration::from_millis(750)).await;
    let mut unseen = stack.pool.begin().await.unwrap();
    insert(&mut unseen, "unseen").await;
    unseen.commit().await.unwrap();
    let go_on = "INSERT INTO go_on DEFAULT VALUES";
    stack.pool.execute(go_on).await.unwrap();
    store(&stack, &[event("later")]).await;
    let id = assert_told(tail).await;
    assert_gone(&ganesh, &id).await;
}
