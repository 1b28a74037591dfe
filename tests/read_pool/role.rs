//! What the role needs, and what its sessions refuse.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::Executor;

use crate::http::client::{get, store};
use crate::http::tail_client::Tail;
use crate::support::events::{events, publish_invalid};
use crate::support::ganesh::run;
use crate::support::reads::{ago, of};
use crate::support::stack::read_url;
use crate::support::{Ganesh, Stack, eventually};

/// Every route of the document, but for those whose answer has no end, with a request that finds something.
const REQUESTS: [(&str, &str); 12] = [
    ("/v1/events", "/v1/events?data.id=eq.e-1&limit=1"),
    (
        "/v1/events",
        "/v1/events?subject=old&to=2003-01-01T00:00:00Z",
    ),
    ("/v1/events/{id}", "/v1/events/e-1"),
    ("/v1/events/{id}", "/v1/events/old"),
    ("/v1/stats", "/v1/stats?group_by=type"),
    (
        "/v1/stats",
        "/v1/stats?from=2000-01-01T00:00:00Z&to=2003-01-01T00:00:00Z&bucket=366d",
    ),
    ("/v1/subjects", "/v1/subjects"),
    (
        "/v1/subjects/{subject}/latest",
        "/v1/subjects/subject-3/latest",
    ),
    ("/v1/subjects/{subject}/latest", "/v1/subjects/old/latest"),
    ("/v1/explain", "/v1/explain?what=1"),
    ("/v1/explain", "/v1/explain?what=old"),
    ("/v1/explain", "/v1/explain?what=subject-3&as=subject"),
];

fn has_an_end(operation: &Value) -> bool {
    let content = &operation["get"]["responses"]["200"]["content"];
    content["text/event-stream"].is_null()
}

/// How many sessions a role has.
async fn sessions(stack: &Stack, role: &str) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND usename = $1 AND application_name = 'ganesh'";
    sqlx::query_scalar(count)
        .bind(role)
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

/// Its API as a role that may only read, with events of now, one of long ago, and a dead letter.
async fn served() -> (Stack, Ganesh) {
    let stack = Stack::start_with_own_postgres().await;
    let url = read_url(&stack.database_url);
    let ganesh = stack.serve(&[("POSTGRES_READ_URL", &url)]).await;
    let mut all = events("e", 10);
    all.push(of("old", "old", ago(25 * 366 * 86_400_000)));
    store(&stack, &all).await;
    publish_invalid(&stack.jetstream().await).await;
    stack.wait_until_drained().await;
    (stack, ganesh)
}

#[tokio::test]
async fn every_read_is_answered_by_a_role_that_may_only_read() {
    let (stack, ganesh) = served().await;
    let document = get(&ganesh, "/v1/openapi.json").await.json();
    let routes = document["paths"].as_object().unwrap().iter();
    let routes: BTreeSet<&str> = routes
        .filter(|(_, operation)| has_an_end(operation))
        .map(|(route, _)| route.as_str())
        .collect();
    assert_eq!(routes, REQUESTS.iter().map(|(route, _)| *route).collect());
    for (_, request) in REQUESTS {
        let answer = get(&ganesh, request).await;
        assert_eq!(answer.status, 200, "{request}: {answer:?}");
        let answer = answer.json();
        let gaps = answer["not_asked"].to_string();
        assert!(!gaps.contains("postgres"), "{request}: {answer}");
    }
    let lettered = get(&ganesh, "/v1/explain?what=12").await.json();
    assert!(
        !lettered["not_asked"].to_string().contains("postgres"),
        "{lettered}"
    );
    let mut tail = Tail::open(&ganesh, "newest=11").await;
    assert_eq!(tail.ids(11).await.len(), 11);
    store(&stack, &events("live", 1)).await;
    assert_eq!(tail.event().await["id"], "live-0");
    assert!((1..=4).contains(&sessions(&stack, "reader").await));
    // All of them are counted.
    let of_pipeline = sessions(&stack, "ganesh").await;
    eventually("both pools are counted", || async {
        let used = ganesh
            .metric("ganesh_postgres_connections{state=\"used\"}")
            .await;
        let idle = ganesh
            .metric("ganesh_postgres_connections{state=\"idle\"}")
            .await;
        #[allow(clippy::cast_precision_loss, reason = "a few")]
        let least = of_pipeline as f64;
        used + idle > least
    })
    .await;
}

#[tokio::test]
async fn a_role_that_loses_its_permission_costs_reads_and_nothing_else() {
    let (stack, ganesh) = served().await;
    let revoke = "REVOKE SELECT ON events FROM reader";
    stack.pool.execute(revoke).await.unwrap();
    for request in ["/v1/events", "/v1/events/e-1", "/v1/subjects/none/latest"] {
        let status = get(&ganesh, request).await.status;
        assert!((500..=504).contains(&status), "{request}: {status}");
    }
    store(&stack, &events("more", 100)).await;
    assert_eq!(stack.rows().await, 111);
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
    let doctor = run(
        Some(&stack),
        &["doctor"],
        &[("POSTGRES_READ_URL", &read_url(&stack.database_url))],
    );
    let said = String::from_utf8(doctor.stdout).unwrap();
    let words = "SELECT ON events, events_default, cache_epoch, fates TO it";
    assert!(said.contains(words), "{said}");
    stack
        .pool
        .execute("GRANT SELECT ON events TO reader")
        .await
        .unwrap();
    assert_eq!(get(&ganesh, "/v1/events/e-1").await.status, 200);
}

/// A row is seen only by a session that has our settings and in which a write fails as one of a session that
/// only reads.
const SEEN: &str = "\
    CREATE TABLE public.written (by text); \
    CREATE FUNCTION public.is_fit() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN \
        INSERT INTO public.written VALUES (current_user); \
        RETURN false; \
    EXCEPTION WHEN read_only_sql_transaction THEN \
        RETURN current_setting('statement_timeout') = '4s' AND current_setting('lock_timeout') = '3s' \
            AND current_setting('default_transaction_read_only') = 'on'; \
    END $$; \
    CREATE ROLE clerk LOGIN PASSWORD 'clerk'; \
    ALTER ROLE clerk SET statement_timeout = '7s'; \
    ALTER ROLE clerk SET default_transaction_read_only = off; \
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk; \
    ALTER TABLE events ENABLE ROW LEVEL SECURITY; \
    CREATE POLICY seen ON events FOR SELECT TO clerk USING (is_fit())";

#[tokio::test]
async fn whoever_reads_the_server_refuses_what_writes() {
    let stack = Stack::start_with_own_postgres().await;
    stack.make_streams().await;
    stack.pool.execute(SEEN).await.unwrap();
    let insert = "INSERT INTO events (id, source, time, type, subject, nats_subject, stream_seq, published_at, trace_id) \
        VALUES ('e', '/test', now(), 'test', 's', 'events.test', 1, now(), '')";
    stack.pool.execute(insert).await.unwrap();
    let clerk = stack.database_url.replace("ganesh:ganesh@", "clerk:clerk@");
    for variable in ["POSTGRES_READ_URL", "POSTGRES_URL"] {
        let settings = [
            (variable, clerk.as_str()),
            ("GANESH_MIGRATE_ON_START", "false"),
        ];
        let ganesh = stack.serve(&settings).await;
        for request in ["/v1/events/e", "/v1/subjects/s/latest"] {
            let answer = get(&ganesh, request).await;
            assert_eq!(answer.status, 200, "{variable} {request}: {answer:?}");
        }
        assert!(ganesh.terminate().await.success());
    }
    let written: i64 = sqlx::query_scalar("SELECT count(*) FROM written")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(written, 0);
    let said = run(Some(&stack), &["doctor"], &[("POSTGRES_READ_URL", &clerk)]);
    let said = String::from_utf8(said.stdout).unwrap();
    for words in [
        "role of POSTGRES_READ_URL may write",
        "row-level security applies to the role of POSTGRES_READ_URL",
    ] {
        let warns = |line: &str| line.starts_with("warning") && line.contains(words);
        assert!(said.lines().any(warns), "{words}: {said}");
    }
}

#[tokio::test]
async fn doctor_is_content_with_a_role_that_may_only_read() {
    let stack = Stack::start_with_own_postgres().await;
    let url = read_url(&stack.database_url);
    let of_url = [("POSTGRES_READ_URL", url.as_str())];
    // Before there are tables, too.
    assert!(run(Some(&stack), &["doctor"], &of_url).status.success());
    stack.make_streams().await;
    let doctor = run(Some(&stack), &["doctor"], &of_url);
    assert!(doctor.status.success(), "{doctor:?}");
    let said = String::from_utf8(doctor.stdout).unwrap();
    let fits = |line: &str| {
        line.starts_with("ok")
            && line.ends_with(
                "the role of POSTGRES_READ_URL can read ganesh's tables, and cannot change them",
            )
    };
    assert!(said.lines().any(fits), "{said}");
}
