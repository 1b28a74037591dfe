//! Reads whose length the caller chooses, over rows that take long: they end, and whose fault that is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ganesh::config::PartitionInterval;
use ganesh::event::Timestamp;
use ganesh::storage::partitions::{Partition, make_ahead, partition_of};
use sqlx::Executor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::client::get;
use super::search::next_of;
use crate::support::{Ganesh, Stack, eventually};

const HOUR: i64 = 3_600_000_000;

/// `ganesh serve` as a role for which every row of the type `slow` takes so many milliseconds.
async fn serve(stack: &Stack, millis: u32) -> Ganesh {
    stack.make_streams().await;
    let database = stack.database_url.rsplit('/').next().unwrap();
    let role = format!("reader_of_{database}");
    let secured = |table: &str| {
        format!(
            "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY reads ON {table} FOR SELECT TO {role} USING \
                 (CASE type WHEN 'slow' THEN pg_sleep({millis} / 1000.0) IS NOT NULL ELSE true END)"
        )
    };
    // A read of one table meets the policies of that one alone.
    let statements = format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{role}'; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}; {}; {}",
        secured("events"),
        secured("events_default")
    );
    stack.pool.execute(statements.as_str()).await.unwrap();
    let url = stack
        .database_url
        .replace("ganesh:ganesh@", &format!("{role}:{role}@"));
    let settings = [
        ("POSTGRES_URL", url.as_str()),
        ("GANESH_MIGRATE_ON_START", "false"),
    ];
    stack.serve(&settings).await
}

/// Inserts so many slow rows; `time` is SQL of their number `n`.
async fn insert(stack: &Stack, rows: u32, time: &str) {
    let insert = format!(
        "INSERT INTO events (id, source, time, type, subject, nats_subject, stream_seq, published_at, \
         trace_id) SELECT gen_random_uuid(), '/slow', {time}, 'slow', 's-' || n, 'events.test', 0, now(), '' \
         FROM generate_series(1, {rows}) AS n"
    );
    stack.pool.execute(insert.as_str()).await.unwrap();
}

/// The errors of Postgres that were counted.
async fn failures(ganesh: &Ganesh) -> f64 {
    let (mut failures, codes) = (0.0, ["timeout", "resources", "unavailable", "connection"]);
    for code in codes {
        let series =
            format!("ganesh_dependency_errors_total{{dependency=\"postgres\",code=\"{code}\"}}");
        failures += ganesh.metric(&series).await;
    }
    failures
}

async fn assert_none_failed(ganesh: &Ganesh) {
    let failures = failures(ganesh).await;
    assert!(failures < 0.5, "{failures} errors of Postgres");
}

#[tokio::test]
async fn a_search_that_gets_no_turn_is_told_so_and_one_that_gets_it_late_is_answered() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, 100).await;
    insert(&stack, 100, "now() - n * interval '1 ms'").await;
    let counts = async || get(&ganesh, "/v1/stats").await;
    let after = async |millis: u64, path: &str| {
        sleep(Duration::from_millis(millis)).await;
        get(&ganesh, path).await
    };
    let old = "/v1/events?to=2020-01-01T00:00:00Z";
    let (one, other, early, question, late) = tokio::join!(
        counts(),
        counts(),
        after(200, "/v1/events"),
        after(200, "/v1/explain?what=1"),
        after(1_800, old)
    );
    for counts in [one, other] {
        let detail = counts.problem(422, "Unprocessable Entity");
        assert!(detail.contains("narrow from and to"), "{detail}");
        assert!(!detail.contains("subject"), "{detail}");
    }
    for refused in [early, question] {
        let detail = refused.problem(503, "Service Unavailable");
        assert!(detail.contains("others read"), "{detail}");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!(late.status, 200, "{late:?}");
    assert_none_failed(&ganesh).await;
}

#[tokio::test]
async fn counts_that_take_too_long_all_together_are_the_callers() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, 100).await;
    for hours in 100..240 {
        let time = Timestamp::from_micros(Timestamp::now().micros() - hours * HOUR);
        let Partition { name, from, to } = partition_of(time, PartitionInterval::Hour);
        let make = format!(
            "CREATE TABLE {name} PARTITION OF events FOR VALUES FROM ('{from}') TO ('{to}')"
        );
        stack.pool.execute(make.as_str()).await.unwrap();
    }
    for hours in [110, 170, 230] {
        insert(&stack, 20, &format!("now() - interval '{hours} hours'")).await;
    }
    let from = Timestamp::from_micros(Timestamp::now().micros() - 235 * HOUR);
    let counts = get(&ganesh, &format!("/v1/stats?bucket=1d&from={from}")).await;
    let detail = counts.problem(422, "Unprocessable Entity");
    assert!(detail.contains("narrow from and to"), "{detail}");
    assert_none_failed(&ganesh).await;
}

#[tokio::test]
async fn a_hint_fits_the_route() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, 100).await;
    // All at one time: no shorter window has fewer.
    insert(&stack, 100, "now()").await;
    for (path, hint) in [
        (
            "/v1/events?data.a=eq.1",
            "narrow from and to, or name a subject",
        ),
        ("/v1/subjects", "ask for a smaller limit"),
    ] {
        let mut answer = get(&ganesh, path).await;
        while let Some(next) = next_of(&answer) {
            answer = get(&ganesh, &next).await;
        }
        let detail = answer.problem(422, "Unprocessable Entity");
        assert!(detail.ends_with(hint), "{path}: {detail}");
    }
    assert_none_failed(&ganesh).await;
}

/// Somebody's lock is not the caller's fault.
#[tokio::test]
async fn a_read_that_waits_for_a_lock_is_not_the_callers() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, 0).await;
    for table in ["events", "events_default"] {
        let lock = stack.lock(table, "ACCESS EXCLUSIVE").await;
        for path in [
            "/v1/events",
            "/v1/subjects",
            "/v1/stats?from=2020-01-01T00:00:00Z&bucket=366d",
        ] {
            let answer = get(&ganesh, path).await;
            let is_told = [503, 504].contains(&answer.status);
            assert!(is_told, "{table} {path}: {answer:?}");
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        lock.rollback().await.unwrap();
    }
    assert!(failures(&ganesh).await > 5.5);
}

#[tokio::test]
async fn partitions_are_made_while_clients_read_the_default_one_all_the_time() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, 20).await;
    insert(
        &stack,
        300,
        "'2019-01-01Z'::timestamptz + n * interval '1 s'",
    )
    .await;
    let now = Timestamp::now();
    let routes = [
        "/v1/subjects",
        "/v1/stats?from=2018-01-01T00:00:00Z&to=2020-01-01T00:00:00Z&bucket=7d",
        "/v1/events?data.a=eq.1&from=2019-01-01T00:00:00Z&to=2019-01-01T00:30:00Z",
    ];
    for (place, route) in (1..).zip(routes) {
        let is_over = AtomicBool::new(false);
        let reading = async || {
            let mut answers = 0;
            while !is_over.load(Ordering::Relaxed) {
                let status = get(&ganesh, route).await.status;
                assert!([200, 422].contains(&status), "{route}: {status}");
                answers += 1;
            }
            answers
        };
        let making = async {
            sleep(Duration::from_millis(300)).await;
            for day in 0..3 {
                let of = now.micros() + (place * 100 + day * 10) * 24 * HOUR;
                let of = Timestamp::from_micros(of);
                let made = make_ahead(&stack.pool, PartitionInterval::Day, of).await;
                made.unwrap_or_else(|error| panic!("while clients read {route}: {error}"));
            }
            is_over.store(true, Ordering::Relaxed);
        };
        tokio::join!(reading(), reading(), making);
    }
    assert_none_failed(&ganesh).await;
}

/// Statements of ganesh that Postgres is running.
async fn running(stack: &Stack) -> i64 {
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'ganesh' AND state = 'active' AND query LIKE '%date_bin%'";
    let running = sqlx::query_scalar(running).fetch_one(&stack.pool);
    running.await.unwrap()
}

#[tokio::test]
async fn clients_that_leave_before_their_answer_give_turns_and_connections_back() {
    let stack = Stack::start().await;
    let ganesh = serve(&stack, 100).await;
    insert(&stack, 100, "now() - n * interval '1 ms'").await;
    let address = ganesh.api.trim_start_matches("http://");
    // More often than there are connections to Postgres.
    for _ in 0..12 {
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = TcpStream::connect(address).await.unwrap();
            let counts = b"GET /v1/stats HTTP/1.1\r\nHost: h\r\n\r\n";
            client.write_all(counts).await.unwrap();
            clients.push(client);
        }
        eventually("both have their turns", || async {
            running(&stack).await == 2
        })
        .await;
        drop(clients);
        // Whoever waits for such counts to end is told after two seconds that there was no turn.
        let old = get(&ganesh, "/v1/events?to=2020-01-01T00:00:00Z").await;
        assert_eq!(old.status, 200, "{old:?}");
        eventually("Postgres has ended what nobody waits for", || async {
            running(&stack).await == 0
        })
        .await;
    }
    assert_none_failed(&ganesh).await;
}
