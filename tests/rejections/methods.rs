//! Rows that one way of writing refuses and the other one takes.

use ganesh::event::Event;
use sqlx::Executor;

use crate::support::events::{events, publish};
use crate::support::ganesh::run;
use crate::support::keys::publish_in_one_batch;
use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::{Ganesh, Stack, eventually};

const SAID: &str = "Postgres refuses COPY";

/// A role that may read and write and owns nothing, and row-level security that lets it; its address.
async fn secure_rows(stack: &Stack) -> String {
    stack.make_streams().await;
    let database = stack.database_url.rsplit('/').next().unwrap();
    let role = format!("writer_of_{database}");
    let statements = format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{role}'; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}; \
         ALTER TABLE events ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY reads ON events FOR SELECT TO {role} USING (true); \
         CREATE POLICY writes ON events FOR INSERT TO {role} WITH CHECK (true)"
    );
    stack.pool.execute(statements.as_str()).await.unwrap();
    stack
        .database_url
        .replace("ganesh:ganesh@", &format!("{role}:{role}@"))
}

async fn serve_as(stack: &Stack, url: &str) -> Ganesh {
    let settings = [
        ("POSTGRES_URL", url),
        ("GANESH_MIGRATE_ON_START", "false"),
        ("GANESH_WRITERS", "1"),
        ("GANESH_BATCH_MAX_EVENTS", "1000"),
    ];
    stack.serve(&settings).await
}

async fn written(ganesh: &Ganesh, method: &str) -> f64 {
    let series = format!("ganesh_batch_writes_total{{method=\"{method}\"}}");
    ganesh.metric(&series).await
}

#[tokio::test]
async fn under_row_level_security_all_is_stored_by_insert_and_that_is_said_once() {
    let stack = Stack::start().await;
    let url = secure_rows(&stack).await;
    let mut all: Vec<Event> = Vec::new();
    // The second time it has to find out again.
    for start in ["first", "second"] {
        let ganesh = serve_as(&stack, &url).await;
        for batch in 0..3 {
            let more = events(&format!("{start}-{batch}"), 400);
            all.push(publish_in_one_batch(&stack, &ganesh, &more).await);
            all.extend(more);
            stack.wait_until_drained().await;
        }
        let copies = written(&ganesh, "copy").await;
        assert!((copies - 1.0).abs() < f64::EPSILON, "{copies} COPY");
        assert_eq!(ganesh.log().matches(SAID).count(), 1, "{}", ganesh.log());
        ganesh.terminate().await;
    }
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
    let doctor = run(Some(&stack), &["doctor"], &[("POSTGRES_URL", &url)]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("row-level security applies"), "{said}");
}

/// What others store by `COPY` says nothing of rows that only an `INSERT` was tried with.
#[tokio::test]
async fn rows_that_only_an_insert_refuses_are_no_letters_while_others_are_copied() {
    let stack = Stack::start().await;
    let settings = [("GANESH_WRITERS", "1"), ("GANESH_BATCH_MAX_EVENTS", "1000")];
    let ganesh = stack.serve(&settings).await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF current_query() LIKE 'INSERT%' THEN RAISE 'by COPY only'; END IF; \
         RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()";
    stack.pool.execute(refuse).await.unwrap();
    let mut all = events("few", 5);
    publish(&stack.jetstream().await, &all).await;
    eventually("they are refused", || async {
        ganesh.log().contains("by COPY only (SQLSTATE P0001)")
    })
    .await;
    for batch in 0..8 {
        if stack.backlog().await == 0 {
            break;
        }
        let more = events(&format!("many-{batch}"), 200);
        publish(&stack.jetstream().await, &more).await;
        all.extend(more);
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
    stack.wait_until_drained().await;
    assert_each_is_one_row_or_one_letter(&stack, &all).await;
    assert_eq!(stack.dead_letters().await, 0);
}
