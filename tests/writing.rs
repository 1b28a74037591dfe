//! How batches are written: the speed of a small one, writers that hold the same
//! keys, and rows that Postgres refuses.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ganesh::event::{Data, Event, Timestamp, TraceId};
use ganesh::labels::WriteMethod;
use ganesh::storage::{
    EventWriter, OnTransient, Row, RowOutcome, ServerClock, WriteOptions, write_rows,
};
use ganesh::telemetry::Metrics;

use crate::support::Stack;
use crate::support::events::{event, events, publish};
use crate::support::keys::{hold_key, wait_until_so_many_wait};

const COPY_FIRST: WriteOptions = WriteOptions {
    expect_duplicates: false,
    advance_epoch: false,
    others_stored_by: None,
    on_transient: OnTransient::Retry,
};

fn rows(events: &[Event]) -> Vec<Row<'_>> {
    let published_at = Timestamp::now();
    let mut rows: Vec<Row<'_>> = (1..)
        .zip(events)
        .map(|(stream_seq, event)| Row {
            event,
            stream: "EVENTS",
            nats_subject: "events.test",
            stream_seq,
            published_at,
            trace_id: TraceId::of_message(None, "EVENTS", stream_seq, published_at),
        })
        .collect();
    rows.sort_by(Row::write_order);
    rows
}

async fn write(writer: &EventWriter, events: &[Event], options: WriteOptions) -> Vec<RowOutcome> {
    let rows = rows(events);
    let mut outcomes = vec![None; rows.len()];
    writer.write(&rows, &mut outcomes, options).await.unwrap();
    outcomes.into_iter().map(Option::unwrap).collect()
}

async fn writer(stack: &Stack) -> EventWriter {
    ganesh::storage::schema::migrate(&stack.pool).await.unwrap();
    EventWriter::new(stack.pool.clone(), Metrics::default())
}

fn poison(id: &str) -> Event {
    Event {
        data: Data::Json(Bytes::from_static(b"{\"text\":\"\\u0000\"}")),
        ..event(id)
    }
}

#[tokio::test]
async fn a_copy_of_one_row_takes_less_than_ten_milliseconds() {
    let stack = Stack::start().await;
    let writer = writer(&stack).await;
    write(&writer, &events("warm-up", 1), COPY_FIRST).await;
    let mut took = Vec::new();
    let mut connection = stack.pool.acquire().await.unwrap();
    for i in 0..21 {
        let one = [event(&format!("e-{i}"))];
        let began = Instant::now();
        let copied = write_rows(
            &mut connection,
            &rows(&one),
            WriteMethod::Copy,
            &ServerClock::default(),
        )
        .await;
        assert_eq!(copied.unwrap(), [RowOutcome::Stored]);
        took.push(began.elapsed());
    }
    took.sort();
    // Nagle's algorithm with delayed acknowledgements would make it 44 ms each time;
    // a busy machine makes single ones slow.
    let median = took[took.len() / 2];
    assert!(median < Duration::from_millis(10), "median {median:?}");
}

#[tokio::test]
async fn writers_with_the_same_keys_in_different_order_neither_deadlock_nor_lose() {
    let stack = Stack::start().await;
    let writer = writer(&stack).await;
    let all = events("e", 2_000);
    let mut reversed = all.clone();
    reversed.reverse();
    let began = Instant::now();
    write(&writer, &events("alone", 2_000), COPY_FIRST).await;
    let alone = began.elapsed();
    let mut stored = 0;
    for expect_duplicates in [false, true] {
        let options = WriteOptions {
            expect_duplicates,
            ..COPY_FIRST
        };
        let began = Instant::now();
        // An error, such as a deadlock, would panic in `write`.
        let (one, two, three) = tokio::join!(
            write(&writer, &all, options),
            write(&writer, &reversed, options),
            write(&writer, &all, options),
        );
        let outcomes = one.iter().chain(&two).chain(&three);
        stored += outcomes.filter(|o| **o == RowOutcome::Stored).count();
        // Measured: 2 to 3 times the one batch. Postgres looks for deadlocks after a second.
        let together = began.elapsed();
        let limit = 6 * alone + Duration::from_millis(800);
        assert!(together < limit, "{together:?}, one batch {alone:?}");
    }
    assert_eq!(stored, 2_000);
    assert_eq!(stack.rows().await, 2 * 2_000);
}

#[tokio::test]
async fn rows_that_postgres_refuses_cost_only_themselves() {
    let stack = Stack::start().await;
    let writer = writer(&stack).await;
    for expect_duplicates in [false, true] {
        let prefix = format!("e-{expect_duplicates}");
        let mut batch = events(&prefix, 100);
        for guilty in [0, 41, 42, 99] {
            batch[guilty] = poison(&format!("poison-{expect_duplicates}-{guilty}"));
        }
        let options = WriteOptions {
            expect_duplicates,
            ..COPY_FIRST
        };
        let outcomes = write(&writer, &batch, options).await;
        let stored = outcomes.iter().filter(|o| **o == RowOutcome::Stored);
        assert_eq!(stored.count(), 96);
        for outcome in outcomes.iter().filter(|o| **o != RowOutcome::Stored) {
            let RowOutcome::Rejected(detail) = outcome else {
                panic!("{outcome:?}");
            };
            assert!(detail.contains("22P05"), "{detail}");
        }
    }
    assert_eq!(stack.rows().await, 2 * 96);
}

#[tokio::test]
async fn of_the_same_event_twice_a_refused_first_does_not_take_the_second_with_it() {
    let stack = Stack::start().await;
    let writer = writer(&stack).await;
    let good = event("same");
    let refused = Event {
        data: poison("same").data,
        ..good.clone()
    };
    let outcomes = write(&writer, &[refused, good.clone(), good], COPY_FIRST).await;
    assert!(matches!(outcomes[0], RowOutcome::Rejected(_)));
    assert_eq!(outcomes[1..], [RowOutcome::Stored, RowOutcome::Duplicate]);
    assert_eq!(stack.rows().await, 1);
}

#[tokio::test]
async fn a_refused_row_becomes_a_dead_letter_with_its_sqlstate() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let jetstream = stack.jetstream().await;
    let mut batch = events("e", 50);
    batch[20] = poison("poison");
    publish(&jetstream, &batch).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 49);
    assert_eq!(stack.dead_letters().await, 1);
    let stream = jetstream.get_stream("EVENTS_DLQ").await.unwrap();
    let letter = stream
        .get_last_raw_message_by_subject("dlq.events.test")
        .await
        .unwrap();
    let header = |name: &str| letter.headers.get(name).unwrap().to_string();
    assert_eq!(header("ganesh-dlq-reason"), "rejected_row");
    assert!(header("ganesh-dlq-detail").contains("22P05"));
    assert_eq!(letter.payload, "{\"text\":\"\\u0000\"}");
    let series = "ganesh_dead_letters_total{reason=\"rejected_row\"}";
    ganesh.wait_for_metric(series, 1.0).await;
}

#[tokio::test]
async fn many_refused_rows_cost_a_few_statements_together_not_a_few_each() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut batch = events("e", 1_000);
    for guilty in (7..1_000).step_by(50) {
        batch[guilty] = poison(&format!("poison-{guilty}"));
    }
    // With a duplicate among them it comes to an INSERT, which does not name the row.
    batch.push(batch[0].clone());
    publish(&stack.jetstream().await, &batch).await;
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 980);
    assert_eq!(stack.dead_letters().await, 20);
    let batches = ganesh.metric("ganesh_batch_events_count").await;
    let copies = ganesh
        .metric("ganesh_batch_writes_total{method=\"copy\"}")
        .await;
    let inserts = ganesh
        .metric("ganesh_batch_writes_total{method=\"insert\"}")
        .await;
    // Refused and written again, each by both ways at most.
    let limit = 4.0 * batches;
    assert!(
        copies + inserts <= limit,
        "{copies} + {inserts} for {batches} batches"
    );
}

#[tokio::test]
async fn writers_that_meet_in_the_middle_do_not_deadlock() {
    let stack = Stack::start().await;
    let writer = writer(&stack).await;
    for expect_duplicates in [false, true] {
        let options = WriteOptions {
            expect_duplicates,
            ..COPY_FIRST
        };
        let all = events(&format!("e-{expect_duplicates}"), 1_000);
        let mut reversed = all.clone();
        reversed.reverse();
        // Unsorted, each would hold the half that the other one needs.
        let middle = hold_key(&stack, &all[500]).await;
        let release = async {
            wait_until_so_many_wait(&stack, 2).await;
            middle.rollback().await.unwrap();
        };
        // An error, such as a deadlock, would panic in `write`.
        let (one, two, ()) = tokio::join!(
            write(&writer, &all, options),
            write(&writer, &reversed, options),
            release,
        );
        let stored = one.iter().chain(&two).filter(|o| **o == RowOutcome::Stored);
        assert_eq!(stored.count(), 1_000);
    }
}

/// The stream was deleted and made again, and messages of both are in one batch.
#[tokio::test]
async fn messages_with_one_sequence_of_two_generations_of_the_stream_end_each_for_itself() {
    let stack = Stack::start().await;
    let writer = writer(&stack).await;
    let all = [event("there"), event("new")];
    write(&writer, &all[..1], COPY_FIRST).await;
    let mut batch = rows(&all);
    for (row, published_at) in batch.iter_mut().zip([1, 2]) {
        row.stream_seq = 7;
        row.published_at = Timestamp::from_micros(published_at);
    }
    let mut outcomes = [None, None];
    writer
        .write(&batch, &mut outcomes, COPY_FIRST)
        .await
        .unwrap();
    for (row, outcome) in batch.iter().zip(outcomes) {
        let expected = match row.event.id.as_str() {
            "there" => RowOutcome::Duplicate,
            _ => RowOutcome::Stored,
        };
        assert_eq!(outcome, Some(expected), "{}", row.event.id);
    }
}
