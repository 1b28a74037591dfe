//! `GET /v1/events/stream`: every stored event once, in order, whoever wrote it and wherever a client goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use ganesh::event::{Event, Timestamp};
use reqwest::Method;
use serde_json::Value;

use super::client::{get, request, send, store};
use super::search::{SEARCHES, corpus, data};
use super::search_moving::{DAYS, change_partitions, in_days};
use super::tail_client::{Tail, by_time, stored};
use super::tail_transactions::write_slowly;
use crate::support::events::{event, events, publish};
use crate::support::{Stack, eventually};

#[tokio::test]
async fn two_replicas_write_rows_move_and_each_event_comes_once_and_in_order() {
    let stack = Stack::start().await;
    let replicas = [stack.serve(&[]).await, stack.serve(&[]).await];
    let mut tails = [
        Tail::open(&replicas[0], "").await,
        Tail::open(&replicas[1], "").await,
    ];
    let jetstream = stack.jetstream().await;
    let (published, slow) = (6_000, 20);
    let count = published + slow;
    let publishing = async {
        for part in 0..published / 50 {
            let of = |i: usize| Event {
                time: in_days(i64::try_from(i).unwrap() % DAYS),
                ..event(&format!("e-{i}"))
            };
            let some: Vec<Event> = (part * 50..part * 50 + 50).map(of).collect();
            publish(&jetstream, &some).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let [one, other] = &mut tails;
    let (one, other, (), (), ()) = tokio::join!(
        one.ids(count),
        other.ids(count),
        publishing,
        write_slowly(&stack, slow),
        change_partitions(&stack.pool)
    );
    let moved: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_inherits")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert!(moved > 10, "{moved} partitions");
    let stored = stored(&stack).await;
    assert_eq!(stored.len(), count);
    assert_eq!(one, stored);
    assert_eq!(other, stored);
    for replica in &replicas {
        let wrote = replica
            .metric("ganesh_messages_settled_total{outcome=\"stored\"}")
            .await;
        assert!(wrote > 100.0, "{wrote}");
    }
}

#[tokio::test]
async fn a_client_goes_on_at_another_replica_after_any_id() {
    let stack = Stack::start().await;
    let replicas = [stack.serve(&[]).await, stack.serve(&[]).await];
    let mut tail = Tail::open(&replicas[0], "").await;
    let begin = tail.id.clone();
    store(&stack, &events("e", 1_200)).await;
    let mut found = Vec::new();
    let mut last = begin.clone();
    for part in 0..6 {
        let replica = &replicas[part % 2];
        // What `newest` asks for is no matter where a client goes on.
        let mut tail = match part % 3 {
            0 => Tail::open_after(replica, "newest=3", Some(&last)).await,
            1 => Tail::open(replica, &format!("after={last}")).await,
            _ => Tail::open_after(replica, &format!("after={begin}"), Some(&last)).await,
        };
        assert_eq!(tail.id, last);
        found.extend(tail.ids(200).await);
        last.clone_from(&tail.id);
    }
    assert_eq!(found, stored(&stack).await);
    assert_eq!(tail.ids(1_200).await, found);
}

#[tokio::test]
async fn every_filter_lets_pass_what_the_same_one_in_rust_does() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let corpus = corpus(Timestamp::now().micros() / 1_000_000 * 1_000_000);
    let mut all = Tail::open(&ganesh, "").await;
    let mut live = Vec::new();
    let some = SEARCHES.iter().step_by(5);
    for (query, _) in some.clone() {
        live.push(Tail::open(&ganesh, query).await);
    }
    store(&stack, &corpus).await;
    let (stored, by_time) = (stored(&stack).await, by_time(&stack).await);
    // Transactions of other tests hold the end of the tail back, too.
    assert_eq!(all.ids(stored.len()).await, stored);
    let expected = |order: &[String], matches: &dyn Fn(&Event) -> bool| -> Vec<String> {
        let matching = corpus.iter().filter(|event| matches(event));
        let matching: BTreeSet<&str> = matching.map(|event| event.id.as_str()).collect();
        let ids = order.iter().filter(|id| matching.contains(id.as_str()));
        ids.cloned().collect()
    };
    for (query, matches) in SEARCHES {
        let expected = expected(&by_time, &|event| matches(event, &data(event)));
        let mut tail = Tail::open(&ganesh, &format!("newest=1000&{query}")).await;
        assert_eq!(tail.ids(expected.len()).await, expected, "{query}");
    }
    for (mut tail, (query, matches)) in live.into_iter().zip(some) {
        let expected = expected(&stored, &|event| matches(event, &data(event)));
        assert_eq!(tail.ids(expected.len()).await, expected, "{query}");
    }
    let (from, to) = (corpus[30].time, corpus[3].time);
    let expected = expected(&by_time, &|event| (from..to).contains(&event.time));
    let query = format!("newest=1000&from={from}&to={to}");
    let mut tail = Tail::open(&ganesh, &query).await;
    assert_eq!(tail.ids(expected.len()).await, expected, "{query}");
    assert!(!tail.has_event_within(Duration::from_secs(1)).await);
}

#[tokio::test]
async fn the_newest_events_come_first_and_what_follows_has_no_gap() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut all = Tail::open(&ganesh, "").await;
    store(&stack, &events("before", 700)).await;
    // Transactions of other tests hold the end of the tail back, too.
    all.ids(700).await;
    let jetstream = stack.jetstream().await;
    let arriving = async {
        for part in 0..40 {
            publish(&jetstream, &events(&format!("then-{part}"), 25)).await;
        }
    };
    let reading = async {
        let mut tails = Vec::new();
        for newest in [1, 10, 600, 1_000] {
            tails.push((
                newest,
                Tail::open(&ganesh, &format!("newest={newest}")).await,
            ));
        }
        tails
    };
    let ((), tails) = tokio::join!(arriving, reading);
    store(&stack, &[event("end")]).await;
    let stored = stored(&stack).await;
    let (times, count) = (by_time(&stack).await, stored.len());
    for (newest, mut tail) in tails {
        let mut found = Vec::new();
        while found.last().is_none_or(|last| last != "end") {
            found.extend(tail.ids(1).await);
        }
        // Some of it is what was stored later, and all before that are the newest of the others.
        let is_whole = |first: usize| {
            let (older, later) = stored.split_at(count - (found.len() - first));
            let older: BTreeSet<&String> = older.iter().collect();
            let older: Vec<_> = times.iter().filter(|id| older.contains(id)).collect();
            let newest = &older[older.len().saturating_sub(newest)..];
            found[..first].iter().eq(newest.iter().copied()) && found[first..] == *later
        };
        assert!((1..found.len()).any(is_whole), "{newest}: {found:?}");
        assert!(newest == 1_000 || found.len() < count - 700 + newest + 1);
    }
    all.ids(1_001).await;
    for newest in [1, 500, 999] {
        let mut tail = Tail::open(&ganesh, &format!("newest={newest}")).await;
        let expected = &times[times.len() - newest..];
        assert_eq!(tail.ids(newest).await, expected, "{newest}");
        // Any of them is a place to go on.
        let mut again = Tail::open(&ganesh, &format!("newest={newest}")).await;
        let half = newest / 2;
        again.ids(half).await;
        let mut again = Tail::open_after(&ganesh, "newest=7", Some(&again.id)).await;
        assert_eq!(again.ids(newest - half).await, expected[half..], "{newest}");
    }
    let mut of_few = Tail::open(&ganesh, "newest=1000&data.id=like.before-1*").await;
    let few: Vec<&String> = times
        .iter()
        .filter(|id| id.starts_with("before-1"))
        .collect();
    assert_eq!(of_few.ids(few.len()).await.iter().collect::<Vec<_>>(), few);
}

#[tokio::test]
async fn an_id_that_this_database_did_not_give_is_refused() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let other_stack = Stack::start().await;
    let other = other_stack.serve(&[]).await;
    store(&stack, &[event("e")]).await;
    let mut tail = Tail::open(&ganesh, "newest=1").await;
    tail.event().await;
    let of_other = Tail::open(&other, "").await.id;
    let ours = tail.id.clone();
    let cut = &ours[..ours.len() / 2];
    let page = get(&ganesh, "/v1/events?limit=1").await;
    let of_page = page
        .header("link")
        .unwrap()
        .split("cursor=")
        .nth(1)
        .unwrap();
    let of_page = of_page.split('>').next().unwrap();
    for (id, why) in [
        ("nonsense", "an id of this stream"),
        ("e", "an id of this stream"),
        (cut, "an id of this stream"),
        (of_page, "an id of this stream"),
        (&of_other, "is of another"),
    ] {
        let refused = get(&ganesh, &format!("/v1/events/stream?after={id}")).await;
        let detail = refused.problem(400, "Bad Request");
        assert!(detail.contains(why), "{detail}");
        assert_eq!(refused.json()["parameter"], "after");
        let asked = request(&ganesh, Method::GET, "/v1/events/stream");
        let refused = send(asked.header("last-event-id", id)).await;
        let detail = refused.problem(400, "Bad Request");
        assert!(detail.contains(why), "{detail}");
        assert_eq!(refused.json()["parameter"], "Last-Event-ID");
    }
    for query in [
        "newest=0",
        "newest=1001",
        "newest=-1",
        "newest=5&after=x",
        "limit=1",
        "cursor=x",
        "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
    ] {
        let refused = get(&ganesh, &format!("/v1/events/stream?{query}")).await;
        refused.problem(400, "Bad Request");
    }
    eventually(
        "the streams have ended, and refused ones were none",
        || async { ganesh.metric("ganesh_tails").await < 1.5 },
    )
    .await;
}

/// Ids and sources have 1,024 bytes at most, and cursors have both.
#[tokio::test]
async fn an_event_with_a_long_key_is_a_place_to_go_on() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let long = |n: u8| Event {
        source: "/".repeat(1_024),
        ..event(&format!("{n}{}", "i".repeat(1_023)))
    };
    let begin = Tail::open(&ganesh, "").await.id;
    store(&stack, &[long(1), long(2), long(3)]).await;
    for (query, order) in [
        ("newest=3".to_owned(), by_time(&stack).await),
        (format!("after={begin}"), stored(&stack).await),
    ] {
        let mut tail = Tail::open(&ganesh, &query).await;
        for id in &order {
            assert_eq!(&tail.ids(1).await[0], id);
            tail = Tail::open(&ganesh, &format!("after={}", tail.id)).await;
        }
    }
    assert_eq!(super::search::walk(&ganesh, "limit=1").await.len(), 3);
}

#[tokio::test]
async fn nobody_listens_and_postgres_is_not_asked() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &events("e", 100)).await;
    let searches = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes \
         WHERE indexrelname LIKE '%stored_in%'";
    let searches = async || -> i64 {
        let searches = sqlx::query_scalar(searches).fetch_one(&stack.pool);
        searches.await.unwrap()
    };
    // Sessions say late what they did: those that wrote have said it by now.
    eventually("the rows are in the statistics", || async {
        let rows =
            "SELECT sum(n_tup_ins)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'events%'";
        let rows: i64 = sqlx::query_scalar(rows)
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        rows >= 100
    })
    .await;
    assert_eq!(searches().await, 0);
    assert!(ganesh.metric("ganesh_tails").await < 0.5);
    let mut tail = Tail::open(&ganesh, "newest=5").await;
    tail.ids(5).await;
    assert!(ganesh.metric("ganesh_tails").await > 0.5);
    eventually("the tail is in the statistics", || async {
        searches().await > 0
    })
    .await;
}

#[tokio::test]
async fn a_client_goes_on_after_any_event_of_a_transaction() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let begin = Tail::open(&ganesh, "").await.id;
    // The later transaction has the smaller keys.
    for (day, source, id) in [(2, "/s", "i"), (1, "/r", "h")] {
        let insert = format!(
            "INSERT INTO events (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
             SELECT '{id}' || id, '{source}' || source, '2026-01-0{day}Z'::timestamptz + time * interval '1 us', \
                 't', 'events.test', 0, now(), '' \
             FROM generate_series(1, 2) AS time, generate_series(1, 2) AS source, generate_series(1, 2) AS id"
        );
        sqlx::query(&insert).execute(&stack.pool).await.unwrap();
    }
    let key = |event: &Value| {
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        (text("time"), text("source"), text("id"))
    };
    let mut all = Vec::new();
    let mut tail = Tail::open(&ganesh, &format!("after={begin}")).await;
    for _ in 0..16 {
        all.push((key(&tail.event().await), tail.id.clone()));
    }
    assert!(all[..8].is_sorted() && all[8..].is_sorted() && all[8] < all[0]);
    for (place, (_, id)) in all.iter().enumerate() {
        let mut tail = Tail::open(&ganesh, &format!("after={id}")).await;
        for (next, _) in &all[place + 1..] {
            assert_eq!(&key(&tail.event().await), next);
        }
        assert!(!tail.has_event_within(Duration::from_millis(400)).await);
    }
}

/// Later rows of the table come earlier in the stream, and pages end between them.
#[tokio::test]
async fn events_of_one_transaction_and_time_come_by_source_and_id() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    let insert = "INSERT INTO events (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         SELECT (2000 - n)::text, '/' || n % 2, '2026-01-01Z', 't', 'events.test', 0, now(), '' \
         FROM generate_series(0, 1199) AS n";
    sqlx::query(insert).execute(&stack.pool).await.unwrap();
    assert_eq!(tail.ids(1_200).await, stored(&stack).await);
}

/// Another program can store any number of rows at once, also of times that no partition covers.
#[tokio::test]
async fn what_one_transaction_stored_comes_in_parts_where_it_is_too_much_for_a_page() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let begin = Tail::open(&ganesh, "").await.id;
    let many = "INSERT INTO events (id, source, time, type, data, nats_subject, stream_seq, published_at, trace_id) \
         SELECT 'n-' || n, '/other', '2001-01-01Z'::timestamptz + n * interval '1 s', 't', \
             jsonb_build_object('text', repeat('ab', 500) || CASE n % 1000 WHEN 7 THEN 'z' ELSE '' END), \
             'events.test', 0, now(), '' FROM generate_series(0, 99999) AS n";
    sqlx::query(many).execute(&stack.pool).await.unwrap();
    let query = format!("after={begin}&data.text=like.*a*b*a*b*a*b*a*b*z");
    let mut tail = Tail::open(&ganesh, &query).await;
    let expected: Vec<String> = (0..100).map(|n| format!("n-{}", n * 1_000 + 7)).collect();
    assert_eq!(tail.ids(100).await, expected);
    // The last one is where a client goes on, too.
    let query = query.replace(&begin, &tail.id);
    let mut tail = Tail::open(&ganesh, &query).await;
    sqlx::query(&many.replace("'n-'", "'m-'").replace("99999", "1999"))
        .execute(&stack.pool)
        .await
        .unwrap();
    assert_eq!(tail.ids(2).await, ["m-7", "m-1007"]);
}
