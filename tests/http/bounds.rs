//! Answers are bounded: in size, all together, and in the time that a client may take for them.

use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::client::{get, request, send};
use crate::support::{Ganesh, Stack, eventually};

const MIB: u64 = 1_024 * 1_024;

/// Puts a row into the table as an operator could, with JSON data that this SQL makes.
async fn insert(stack: &Stack, id: &str, data: &str) {
    let insert = format!(
        "INSERT INTO events (id, source, time, type, subject, data, nats_subject, stream_seq, \
         published_at, trace_id) \
         VALUES ('{id}', '/test', now(), 'big', '{id}', {data}, 'events.test', 0, now(), '')"
    );
    sqlx::query(&insert).execute(&stack.pool).await.unwrap();
}

/// A client that asks, and takes no more of the answer than its first byte.
async fn ask(ganesh: &Ganesh, path: &str) -> TcpStream {
    let address = ganesh.api.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.peek(&mut [0; 1]).await.unwrap();
    stream
}

#[tokio::test]
async fn answers_that_nobody_takes_share_a_bounded_memory_and_end() {
    let stack = Stack::start().await;
    // Enough for all of them to ask.
    let ganesh = stack.serve(&[("GANESH_HTTP_CLIENT_TIMEOUT", "15s")]).await;
    insert(&stack, "big", "to_jsonb(repeat('x', 8000000))").await;
    insert(&stack, "small", "to_jsonb(repeat('x', 8000))").await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(ask(&ganesh, "/v1/events/big").await);
    }
    // What is left is for small answers; the others are told when to come again.
    assert_eq!(get(&ganesh, "/v1/events/small").await.status, 200);
    let refused = get(&ganesh, "/v1/events/big").await;
    let detail = refused.problem(503, "Service Unavailable");
    assert!(detail.contains("64 MiB"), "{detail}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    for _ in 0..90 {
        clients.push(ask(&ganesh, "/v1/events/big").await);
    }
    let resident = ganesh.resident_bytes() / MIB;
    assert!(resident < 400, "{resident} MiB");
    // The clients still do not read.
    eventually("there is room again", || async {
        get(&ganesh, "/v1/events/big").await.status == 200
    })
    .await;
    drop(clients);
}

#[tokio::test]
async fn every_kind_of_answer_has_its_part_in_that_memory() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    insert(&stack, "big", "to_jsonb(repeat('x', 8379000))").await;
    let many = "INSERT INTO events (id, source, time, type, subject, nats_subject, stream_seq, \
         published_at, trace_id) \
         SELECT n::text, '/many', now(), 'many', repeat('s', 1000) || n, 'events.test', 0, now(), '' \
         FROM generate_series(1, 1000) AS n";
    sqlx::query(many).execute(&stack.pool).await.unwrap();
    let paths = [
        "/v1/stats?group_by=subject",
        "/v1/subjects?limit=1000",
        "/v1/events?type=many&limit=1000",
    ];
    for path in paths {
        let answer = get(&ganesh, path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.len() > 1_000_000, "{path}");
    }
    // Less than 100 KiB are left.
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(ask(&ganesh, "/v1/events/big").await);
    }
    for path in paths {
        let detail = get(&ganesh, path).await.problem(503, "Service Unavailable");
        assert!(detail.contains("64 MiB"), "{path}: {detail}");
    }
    drop(clients);
}

/// Changes a column of a row.
async fn set(stack: &Stack, id: &str, column: &str, value: &str) {
    let update = format!("UPDATE events SET {column} = {value} WHERE id = '{id}'");
    sqlx::query(&update).execute(&stack.pool).await.unwrap();
}

#[tokio::test]
async fn a_row_that_is_too_large_to_answer_costs_neither_ganesh_nor_postgres_its_size() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let numbers = |number: &str, count: usize| {
        format!("('[' || repeat('{number},', {count}) || '1]')::jsonb")
    };
    for (id, data) in [
        // 13 KB that would be 190 MB; 14 KB that would be 24 MB.
        ("high", numbers("1e131071", 1_450)),
        ("low", numbers("-1e-16383", 1_450)),
        // 1 MB that would be 1.6 GB, which Postgres cannot even make; 2 MB that would be 120 MB.
        ("zeros", numbers("0e-16383", 100_000)),
        ("many", numbers("1e399", 300_000)),
        ("long", "to_jsonb(repeat('x', 17000000))".to_owned()),
    ] {
        insert(&stack, id, &data).await;
    }
    for (id, column, value) in [
        ("type", "type", "repeat('x', 100000000)".to_owned()),
        ("schema", "dataschema", "repeat('x', 70000)".to_owned()),
        (
            "extensions",
            "extensions",
            format!("jsonb_build_object('a', {})", numbers("0e-16383", 100_000)),
        ),
    ] {
        insert(&stack, id, "'1'::jsonb").await;
        set(&stack, id, column, &value).await;
    }
    for id in [
        "high",
        "low",
        "zeros",
        "many",
        "long",
        "type",
        "schema",
        "extensions",
    ] {
        for path in [
            format!("/v1/events/{id}"),
            format!("/v1/subjects/{id}/latest"),
        ] {
            let began = Instant::now();
            let answer = send(request(&ganesh, Method::GET, &path)).await;
            let detail = answer.problem(500, "Internal Server Error");
            assert!(detail.contains("larger than 16 MiB"), "{path}: {detail}");
            assert!(
                began.elapsed() < Duration::from_secs(3),
                "{path}: {:?}",
                began.elapsed()
            );
        }
    }
    let resident = ganesh.resident_bytes() / MIB;
    assert!(resident < 200, "{resident} MiB");
    assert_eq!(ganesh.admin("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_row_that_is_large_only_as_text_is_answered_up_to_the_limit() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    insert(
        &stack,
        "good",
        "'[1e308, -1e-300, 0, 0.1, \"1e131071\"]'::jsonb",
    )
    .await;
    insert(&stack, "digits", "'{\"a\":[{\"b\":-1e131071}]}'::jsonb").await;
    insert(&stack, "number", "'1e131071'::jsonb").await;
    insert(&stack, "odd", "'1'::jsonb").await;
    let odd = "'{\"a\": 1e400, \"b\": {\"c\": \"d\"}, \"e\": \"f\"}'::jsonb";
    set(&stack, "odd", "extensions", odd).await;
    for path in ["events/{}", "subjects/{}/latest", "subjects/{}/latest"] {
        let of = async |id: &str| get(&ganesh, &format!("/v1/{}", path.replace("{}", id))).await;
        assert_eq!(of("good").await.json()["data"][4], "1e131071");
        for id in ["digits", "number"] {
            let answer = of(id).await;
            assert_eq!(answer.status, 200, "{id}");
            assert!(answer.body.len() > 131_072, "{id}: {}", answer.body.len());
        }
        let odd = of("odd").await.json();
        assert_eq!(odd["a"].as_str().map(str::len), Some(401));
        assert_eq!(odd["b"], "{\"c\": \"d\"}");
        assert_eq!(odd["e"], "f");
    }
}

#[tokio::test]
async fn a_large_state_is_read_from_postgres() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    insert(&stack, "small", "'1'::jsonb").await;
    eventually("the cache is used", || async {
        let answer = get(&ganesh, "/v1/subjects/small/latest").await;
        answer.header("cache-status") == Some("ganesh; hit")
    })
    .await;
    insert(&stack, "large", "to_jsonb(repeat('x', 300000))").await;
    for _ in 0..3 {
        let answer = get(&ganesh, "/v1/subjects/large/latest").await;
        assert_eq!(answer.json()["data"].as_str().map(str::len), Some(300_000));
        let cache = answer.header("cache-status").unwrap();
        assert!(
            !cache.contains("hit") && !cache.contains("stored"),
            "{cache}"
        );
    }
}
