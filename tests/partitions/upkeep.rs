//! Upkeep while others work: rows that wait for their partition, a replica that dies in the
//! middle, readers that take their time.

use std::time::{Duration, Instant};

use ganesh::config::PartitionInterval;
use ganesh::event::Timestamp;
use ganesh::storage::partitions::{Partition, UNFINISHED, drop_expired, make_ahead, partition_of};
use ganesh::storage::queries::{EventKey, Reads};
use sqlx::{Executor, PgPool};

use super::MICROS_A_DAY;
use super::last_word::{begin_to_move, sqlstate};
use crate::support::events::{events, publish};
use crate::support::keys::wait_until_so_many_wait;
use crate::support::{Ganesh, Stack, eventually};

/// Rows in the default partition, so many of them for the day of `time`.
pub async fn fill_default(stack: &Stack, time: Timestamp, count: i64) {
    let fill = "INSERT INTO events_default \
         (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         SELECT 'waits-' || n, '/test', 'epoch'::timestamptz + $1 * interval '1 microsecond', \
                't', 'events.test', n, now(), '' FROM generate_series(1, $2) AS n";
    sqlx::query(fill)
        .bind(time.micros())
        .bind(count)
        .execute(&stack.pool)
        .await
        .unwrap();
}

pub async fn count_in(stack: &Stack, table: &str) -> i64 {
    sqlx::query_scalar(&format!("SELECT count(*) FROM {table}"))
        .fetch_one(&stack.pool)
        .await
        .unwrap()
}

/// A week ahead: no partition covers it.
pub fn next_week() -> Timestamp {
    Timestamp::from_micros(Timestamp::now().micros() + 7 * MICROS_A_DAY)
}

#[tokio::test]
async fn who_reads_an_old_partition_for_long_holds_up_its_removal_and_no_event() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let now = Timestamp::now();
    let old = |days: i64| Timestamp::from_micros(now.micros() - days * MICROS_A_DAY);
    for days in [30, 40] {
        make_ahead(&stack.pool, PartitionInterval::Day, old(days))
            .await
            .unwrap();
    }
    let name = partition_of(old(30), PartitionInterval::Day).name;
    let reader = stack.lock(&name, "ACCESS SHARE").await;
    // On a busy machine one round can be held up by something else.
    let mut undisturbed = false;
    for round in 0..3 {
        let writes = write_impatiently(&stack.pool, round);
        let (dropped, written) = tokio::join!(drop_expired(&stack.pool, 7, now), writes);
        assert_eq!(sqlstate(&dropped.unwrap_err()), "55P03");
        undisturbed = undisturbed || written.is_ok();
    }
    assert!(undisturbed, "a write was held up in each round");
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_tables WHERE tablename < $1 AND tablename LIKE 'events_p2%'",
    )
    .bind(partition_of(old(35), PartitionInterval::Day).name)
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(left, 0, "those that nobody reads have to wait for it");
    reader.rollback().await.unwrap();
    drop_expired(&stack.pool, 7, now).await.unwrap();
}

/// Writes for a second. Fails if one statement waits nearly as long as who looks after partitions does.
async fn write_impatiently(pool: &PgPool, round: u8) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await.unwrap().detach();
    let impatient = "SET lock_timeout = '150ms'";
    connection.execute(impatient).await.unwrap();
    for n in 0..60 {
        let write = "INSERT INTO events \
             (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
             VALUES ($1, '/test', now(), 't', 'events.test', 1, now(), '')";
        let written = sqlx::query(write).bind(format!("e-{round}-{n}"));
        written.execute(&mut connection).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_replica_killed_while_rows_move_to_their_partition_leaves_that_to_the_next() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    let tomorrow = Timestamp::from_micros(Timestamp::now().micros() + MICROS_A_DAY);
    fill_default(&stack, tomorrow, 200_000).await;
    let theirs = partition_of(tomorrow, PartitionInterval::Day).name;
    let killed = Ganesh::serve(&stack, &[]);
    let is_there = "SELECT to_regclass($1) IS NOT NULL";
    loop {
        let made: bool = sqlx::query_scalar(is_there)
            .bind(&theirs)
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        if made {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    killed.kill();
    assert_eq!(
        count_in(&stack, "events_default").await,
        200_000,
        "killed too late"
    );
    // A statement that it had begun goes on without it for a moment.
    eventually("its sessions end", || async {
        count_in(
            &stack,
            "pg_stat_activity WHERE application_name = 'ganesh' \
             AND datname = current_database()",
        )
        .await
            == 0
    })
    .await;
    let _next = stack.serve(&[]).await;
    eventually("the rows have moved", || async {
        count_in(&stack, "events_default").await == 0
    })
    .await;
    assert_eq!(count_in(&stack, &theirs).await, 200_000);
    assert_eq!(stack.rows().await, 200_000);
}

/// Makes partitions as a replica does: again, as long as another one is at it or keeps a lock.
async fn make_in_rounds(stack: &Stack, time: Timestamp) {
    eventually("no row waits", || async {
        if let Err(error) = make_ahead(&stack.pool, PartitionInterval::Day, time).await {
            let error = error.into_database_error().unwrap();
            assert_eq!(error.code().as_deref(), Some("55P03"), "{error}");
        }
        count_in(stack, "events_default").await == 0
    })
    .await;
}

#[tokio::test]
async fn replicas_that_make_partitions_at_the_same_time_move_every_row_once() {
    const ROWS: i64 = 1_000;
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    // Again and again, so that they meet in different places.
    for round in 1..=5 {
        let day = |days: i64| {
            let week = next_week().micros() + round * 7 * MICROS_A_DAY;
            Timestamp::from_micros(week + days * MICROS_A_DAY)
        };
        for days in -1..=1 {
            fill_default(&stack, day(days), ROWS).await;
        }
        let lock = stack.lock("events_default", "ACCESS EXCLUSIVE").await;
        let replica = || make_in_rounds(&stack, day(0));
        let both_begin = async {
            wait_until_so_many_wait(&stack, 2).await;
            lock.rollback().await.unwrap();
        };
        tokio::join!(replica(), replica(), both_begin);
        for days in -1..=1 {
            let theirs = partition_of(day(days), PartitionInterval::Day).name;
            assert_eq!(count_in(&stack, &theirs).await, ROWS, "{theirs}");
        }
        assert_eq!(count_in(&stack, "events_default").await, 0);
        assert_eq!(stack.rows().await, round * 3 * ROWS);
    }
}

#[tokio::test]
async fn a_replica_that_comes_late_leaves_the_partition_that_another_one_has_made() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    let first = partition_of(next_week(), PartitionInterval::Day);
    let mut other = stack.lock("events_default", "ACCESS EXCLUSIVE").await;
    let Partition { name, from, to } = &first;
    let made = format!(
        "CREATE TABLE {name} (LIKE events INCLUDING ALL); \
         ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}'); \
         INSERT INTO events \
         (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         VALUES ('e', '/test', '{from}', 't', 'events.test', 1, now(), '')"
    );
    let makes = async {
        // The late one has seen by now that the partition is missing.
        wait_until_so_many_wait(&stack, 1).await;
        sqlx::raw_sql(&made).execute(&mut *other).await.unwrap();
        other.commit().await.unwrap();
    };
    tokio::join!(make_in_rounds(&stack, first.to), makes);
    assert_eq!(count_in(&stack, name).await, 1);
    assert_eq!(stack.rows().await, 1);
}

#[tokio::test]
async fn a_row_that_was_removed_while_it_waited_does_not_come_back() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    fill_default(&stack, next_week(), 10).await;
    let theirs = partition_of(next_week(), PartitionInterval::Day).name;
    // What a replica left that died in the middle.
    let copy = format!(
        "CREATE TABLE {theirs} (LIKE events INCLUDING ALL); \
         COMMENT ON TABLE {theirs} IS '{UNFINISHED}'; \
         INSERT INTO {theirs} SELECT * FROM events_default; \
         DELETE FROM events_default WHERE stream_seq > 4"
    );
    sqlx::raw_sql(&copy).execute(&stack.pool).await.unwrap();
    make_ahead(&stack.pool, PartitionInterval::Day, next_week())
        .await
        .unwrap();
    assert_eq!(count_in(&stack, &theirs).await, 4);
    assert_eq!(stack.rows().await, 4);
}

/// Writes a row for next week, again if its partition is attached in that moment, as ganesh does.
async fn write_late(stack: &Stack, id: &str) {
    let write = "INSERT INTO events \
         (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         VALUES ($1, '/test', now() + interval '7 days', 't', 'events.test', 1, now(), '')";
    loop {
        match sqlx::query(write).bind(id).execute(&stack.pool).await {
            Ok(_) => return,
            Err(error) => {
                let error = error.into_database_error().unwrap();
                assert_eq!(error.code().as_deref(), Some("23514"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn while_rows_move_those_that_come_late_are_held_up_only_at_the_end() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    fill_default(&stack, next_week(), 100_000).await;
    let began = Instant::now();
    let moving = begin_to_move(&stack);
    let (mut late, mut longest) = (0, Duration::ZERO);
    while !moving.is_finished() {
        let before = Instant::now();
        write_late(&stack, &format!("late-{late}")).await;
        late += 1;
        longest = longest.max(before.elapsed());
    }
    moving.await.unwrap();
    let took = began.elapsed();
    assert_eq!(stack.rows().await, 100_000 + late);
    assert_eq!(count_in(&stack, "events_default").await, 0);
    assert!(late > 10, "{late} rows: it held up everything");
    assert!(longest < took / 2, "one waited {longest:?} of {took:?}");
}

#[tokio::test]
async fn who_keeps_an_old_partition_locked_holds_up_no_event_of_today() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let now = Timestamp::now();
    let yesterday = Timestamp::from_micros(now.micros() - MICROS_A_DAY);
    let old = partition_of(yesterday, PartitionInterval::Day).name;
    let today = partition_of(now, PartitionInterval::Day).name;
    // As VACUUM FULL, or a migration by hand.
    let lock = stack.lock(&old, "ACCESS EXCLUSIVE").await;
    let jetstream = stack.jetstream().await;
    let all = events("e", 500);
    for part in all.chunks(100) {
        // By COPY, then by INSERT.
        for _ in 0..2 {
            publish(&jetstream, part).await;
            stack.wait_until_drained().await;
        }
        assert_eq!(ganesh.admin("/readyz").await.0, 200);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(count_in(&stack, &today).await, 500);
    lock.rollback().await.unwrap();
    assert_eq!(stack.rows().await, 500);
    assert_eq!(stack.dead_letters().await, 0);
}

#[tokio::test]
async fn a_partition_that_somebody_detached_keeps_its_rows_and_the_others_are_made() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    let make = || make_ahead(&stack.pool, PartitionInterval::Day, next_week());
    make().await.unwrap();
    let detached = partition_of(next_week(), PartitionInterval::Day).name;
    let after = Timestamp::from_micros(next_week().micros() + MICROS_A_DAY);
    let missing = partition_of(after, PartitionInterval::Day).name;
    let detach = format!(
        "INSERT INTO events \
         (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         VALUES ('e', '/test', now() + interval '7 days', 't', 'events.test', 1, now(), ''); \
         ALTER TABLE events DETACH PARTITION {detached}; DROP TABLE {missing}"
    );
    sqlx::raw_sql(&detach).execute(&stack.pool).await.unwrap();
    // Without rows that wait for it, and with some.
    for rows in [0, 3] {
        fill_default(&stack, next_week(), rows).await;
        make().await.unwrap();
        assert_eq!(count_in(&stack, &detached).await, 1);
        assert_eq!(count_in(&stack, &missing).await, 0);
    }
    assert_eq!(count_in(&stack, "events_default").await, 3);
}

#[tokio::test]
async fn a_partition_that_cannot_be_made_does_not_keep_the_others() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    let [before, theirs] = [-1, 0].map(|days| {
        let time = next_week().micros() + days * MICROS_A_DAY;
        partition_of(Timestamp::from_micros(time), PartitionInterval::Day).name
    });
    // A table makes a type of its name.
    let taken = format!("CREATE TYPE {before} AS ENUM ('taken')");
    sqlx::raw_sql(&taken).execute(&stack.pool).await.unwrap();
    let made = make_ahead(&stack.pool, PartitionInterval::Day, next_week()).await;
    assert!(made.is_err());
    assert_eq!(count_in(&stack, &theirs).await, 0);
}

#[tokio::test]
async fn a_read_that_waits_while_rows_move_to_their_partition_finds_them() {
    let stack = Stack::start().await;
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    let row = |id: &str, days: i64| {
        format!(
            "INSERT INTO events \
             (id, source, time, type, subject, nats_subject, stream_seq, published_at, trace_id) \
             VALUES ('{id}', '/test', now() + interval '{days} days', 't', 's', 'events.test', \
             1, now(), '')"
        )
    };
    let Partition { name, from, to } = partition_of(next_week(), PartitionInterval::Day);
    let both = format!("{}; {}", row("older", -7), row("newest", 7));
    sqlx::raw_sql(&both).execute(&stack.pool).await.unwrap();
    let pool = PgPool::connect(&stack.database_url).await.unwrap();
    let reads = Reads::new(pool, PartitionInterval::Day);
    let newest = async || {
        let found = reads.newest_of_subject("s").await.unwrap();
        found.expect("the subject has events").event
    };
    // It knows the partitions.
    let event = newest().await;
    assert_eq!(event.id, "newest");

    let mut moving = stack.lock("events_default", "ACCESS EXCLUSIVE").await;
    let moves = async {
        wait_until_so_many_wait(&stack, 3).await;
        let moved = format!(
            "CREATE TABLE {name} (LIKE events INCLUDING ALL); \
             INSERT INTO {name} SELECT * FROM events_default WHERE id = 'newest'; \
             DELETE FROM events_default WHERE id = 'newest'; \
             ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"
        );
        sqlx::raw_sql(&moved).execute(&mut *moving).await.unwrap();
        moving.commit().await.unwrap();
    };
    let key = EventKey {
        id: "newest",
        source: None,
        time: None,
    };
    let known = [&event];
    let (found, by_id, has, ()) = tokio::join!(
        newest(),
        reads.event_by_id(&key),
        reads.have_rows(&known),
        moves
    );
    assert_eq!(found.id, "newest");
    assert_eq!(by_id.unwrap().unwrap().0.event.id, "newest");
    assert_eq!(has.unwrap(), [true]);
}
