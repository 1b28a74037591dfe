//! Both ways of writing give the same rows, over the whole range of every column, and every row can be read.

use std::collections::BTreeMap;

use bytes::Bytes;
use ganesh::config::PartitionInterval;
use ganesh::event::{Data, Event, Timestamp, TraceId};
use ganesh::labels::WriteMethod;
use ganesh::storage::partitions::{drop_expired, partition_of};
use ganesh::storage::queries::{EventKey, Reads};
use ganesh::storage::{
    EventWriter, Row, RowOutcome, ServerClock, WriteOptions, schema, write_rows,
};
use ganesh::telemetry::Metrics;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sqlx::Executor;

use crate::support::Stack;
use crate::support::events::event;

/// More than one batch of any size would show more of.
const EVENTS: usize = 400;
/// What identifiers may have.
const KEY_MAX_BYTES: usize = 1_024;

#[derive(Debug, Clone)]
struct Sample {
    event: Event,
    nats_subject: String,
    stream_seq: u64,
    published_at: Timestamp,
}

/// The whole range, its ends, and what lies near the largest number that a double counts by ones.
fn time() -> impl Strategy<Value = Timestamp> {
    const EXACT: i64 = 1 << 53;
    let (min, max) = (Timestamp::MIN.micros(), Timestamp::MAX.micros());
    prop_oneof![
        4 => min..=max,
        1 => min..=min + 3,
        1 => max - 3..=max,
        1 => EXACT - 3..=EXACT + 3,
        1 => -EXACT - 3..=3 - EXACT,
    ]
    .prop_map(Timestamp::from_micros)
}

/// Any text that Postgres can hold, of so many bytes at most.
fn text(bytes: usize) -> impl Strategy<Value = String> {
    let character = prop_oneof![
        any::<char>().prop_filter("not NUL", |character| *character != '\0'),
        select(vec!['a', '\\', '"', '\t', '\n', '{', ',', '\u{7f}', '😀']),
    ];
    vec(character, 0..=bytes / 4).prop_map(|characters| characters.into_iter().collect())
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => text(24),
        // Random, as a page of the index holds long keys only where they are compressed or few.
        1 => text(KEY_MAX_BYTES),
    ]
}

fn data() -> impl Strategy<Value = Data> {
    let json = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        text(64).prop_map(|text| serde_json::to_string(&text).unwrap()),
        vec(text(8), 0..4).prop_map(|texts| serde_json::to_string(&texts).unwrap()),
        Just("{\"b\": {\"a\": [null, true, -1.50]}}".to_owned()),
    ];
    prop_oneof![
        Just(Data::None),
        json.prop_map(|text| Data::Json(Bytes::from(text))),
        vec(any::<u8>(), 1..64).prop_map(|bytes| Data::Binary(Bytes::from(bytes))),
    ]
}

fn sample() -> impl Strategy<Value = Sample> {
    let optional = || prop::option::of(text(64));
    let event = (
        (key(), key(), time(), text(64)),
        (prop::option::of(key()), optional(), optional()),
        btree_map("[a-z0-9]{1,20}", text(64), 0..4),
        data(),
    );
    let event = event.prop_map(|(key, optional, extensions, data)| Event {
        id: key.0,
        source: key.1,
        time: key.2,
        event_type: key.3,
        subject: optional.0,
        datacontenttype: optional.1,
        dataschema: optional.2,
        extensions,
        data,
    });
    let largest = i64::MAX.cast_unsigned();
    let sequence = prop_oneof![9 => 1..=largest, 1 => Just(largest)];
    (event, text(64), sequence, time()).prop_map(
        |(event, nats_subject, stream_seq, published_at)| Sample {
            event,
            nats_subject,
            stream_seq,
            published_at,
        },
    )
}

/// Events with keys of their own.
fn samples() -> Vec<Sample> {
    let mut runner = TestRunner::default();
    let mut by_key = BTreeMap::new();
    while by_key.len() < EVENTS {
        let sample = sample().new_tree(&mut runner).unwrap().current();
        let key = (sample.event.id.clone(), sample.event.source.clone());
        by_key.insert(key, sample);
    }
    by_key.into_values().collect()
}

fn rows(samples: &[Sample]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = samples.iter().map(row).collect();
    rows.sort_by(Row::write_order);
    rows
}

fn row(sample: &Sample) -> Row<'_> {
    let (stream_seq, published_at) = (sample.stream_seq, sample.published_at);
    Row {
        event: &sample.event,
        stream: "EVENTS",
        nats_subject: &sample.nats_subject,
        stream_seq,
        published_at,
        trace_id: TraceId::of_message(None, "EVENTS", stream_seq, published_at),
    }
}

/// Every column that is written, as Postgres has it.
async fn stored(stack: &Stack) -> Vec<String> {
    let all = "SELECT (id, source, (extract(epoch FROM time) * 1000000)::numeric, type, subject, \
         datacontenttype, dataschema, data, data_bytes, extensions, nats_subject, stream_seq, \
         (extract(epoch FROM published_at) * 1000000)::numeric, trace_id)::text \
         FROM events ORDER BY id, source, time";
    sqlx::query_scalar(all)
        .fetch_all(&stack.pool)
        .await
        .unwrap()
}

fn comparable(data: &Data) -> (Option<serde_json::Value>, Option<Bytes>) {
    match data {
        Data::None => (None, None),
        Data::Json(text) => (Some(serde_json::from_slice(text).unwrap()), None),
        Data::Binary(bytes) => (None, Some(bytes.clone())),
    }
}

#[tokio::test]
async fn copy_insert_and_reading_back_give_equal_rows_over_the_range_of_every_column() {
    let stack = Stack::start().await;
    schema::migrate(&stack.pool).await.unwrap();
    let writer = EventWriter::new(stack.pool.clone(), Metrics::default());
    let reads = Reads::new(stack.pool.clone(), PartitionInterval::Day);
    let samples = samples();
    let rows = rows(&samples);
    let mut by_method = Vec::new();
    for method in [WriteMethod::Copy, WriteMethod::Insert] {
        let mut connection = stack.pool.acquire().await.unwrap();
        write_rows(&mut connection, &rows, method, &ServerClock::default())
            .await
            .unwrap();
        // What is there is known again, by either way.
        for expect_duplicates in [false, true] {
            let options = WriteOptions {
                expect_duplicates,
                ..WriteOptions::default()
            };
            let mut outcomes = vec![None; rows.len()];
            writer.write(&rows, &mut outcomes, options).await.unwrap();
            for (outcome, row) in outcomes.iter().zip(&rows) {
                assert_eq!(*outcome, Some(RowOutcome::Duplicate), "{:?}", row.event);
            }
        }
        for Sample { event, .. } in &samples {
            let key = EventKey {
                id: &event.id,
                source: Some(&event.source),
                time: Some(event.time),
            };
            let (found, _) = reads.event_by_id(&key).await.unwrap().unwrap();
            let mut found = found.event;
            assert_eq!(comparable(&found.data), comparable(&event.data));
            found.data = event.data.clone();
            assert_eq!(&found, event);
        }
        by_method.push(stored(&stack).await);
        stack.pool.execute("TRUNCATE events").await.unwrap();
    }
    assert_eq!(by_method[0].len(), EVENTS);
    for (copied, inserted) in by_method[0].iter().zip(&by_method[1]) {
        assert_eq!(copied, inserted);
    }
}

#[tokio::test]
async fn the_bounds_of_partitions_are_exact_over_the_whole_range() {
    let stack = Stack::start().await;
    let mut runner = TestRunner::default();
    for _ in 0..EVENTS {
        let time = time().new_tree(&mut runner).unwrap().current();
        for interval in [PartitionInterval::Hour, PartitionInterval::Day] {
            let partition = partition_of(time, interval);
            for bound in [partition.from, partition.to] {
                let micros: i64 = sqlx::query_scalar(
                    "SELECT (extract(epoch FROM $1::text::timestamptz) * 1000000)::bigint",
                )
                .bind(bound.to_string())
                .fetch_one(&stack.pool)
                .await
                .unwrap();
                assert_eq!(micros, bound.micros(), "{partition:?}");
            }
        }
    }
}

#[tokio::test]
async fn retention_removes_up_to_its_microsecond() {
    const DAY_MICROS: i64 = 86_400_000_000;
    let stack = Stack::start().await;
    schema::migrate(&stack.pool).await.unwrap();
    // 0500-06-30T08:53:20.000001Z and its neighbours, in steps that a double cannot make.
    let cutoff = -46_372_000_000_000_001;
    let mut samples = Vec::new();
    for micros in cutoff - 3..=cutoff + 3 {
        let time = Timestamp::from_micros(micros);
        samples.push(Sample {
            event: Event {
                time,
                ..event(&(micros - cutoff).to_string())
            },
            nats_subject: String::new(),
            stream_seq: 1,
            published_at: time,
        });
    }
    let mut connection = stack.pool.acquire().await.unwrap();
    write_rows(
        &mut connection,
        &rows(&samples),
        WriteMethod::Copy,
        &ServerClock::default(),
    )
    .await
    .unwrap();
    let now = Timestamp::from_micros(cutoff + DAY_MICROS);
    drop_expired(&stack.pool, 1, now).await.unwrap();
    let left: Vec<String> = sqlx::query_scalar("SELECT id FROM events ORDER BY time")
        .fetch_all(&stack.pool)
        .await
        .unwrap();
    assert_eq!(left, ["0", "1", "2", "3"]);
}

/// A row that ganesh would not write: `time`, `data`, `extensions`, `data_bytes`, and the time that is answered.
type ForeignRow = (&'static str, [&'static str; 4], Timestamp);

const FOREIGN_ROWS: [ForeignRow; 10] = {
    const MAX: &str = "9999-12-31 23:59:59.999999+00";
    const LAST: Timestamp = Timestamp::MAX;
    const FIRST: Timestamp = Timestamp::MIN;
    [
        ("infinity", ["infinity", "{}", "{}", ""], LAST),
        ("year-12000", ["12000-01-01", "{}", "{}", ""], LAST),
        (
            "largest",
            ["294276-12-31 23:59:59.999999+00", "{}", "{}", ""],
            LAST,
        ),
        ("bc", ["4713-01-01 BC", "{}", "{}", ""], FIRST),
        ("minus-infinity", ["-infinity", "{}", "{}", ""], FIRST),
        ("list", [MAX, "{}", "[1]", ""], LAST),
        ("null", [MAX, "null", "null", ""], LAST),
        (
            "numbers",
            [MAX, "{}", r#"{"a": 1, "B c": {}, "id": "x"}"#, ""],
            LAST,
        ),
        ("both", [MAX, "{}", "{}", "\\x00"], LAST),
        ("deep", [MAX, "DEEP", "{}", ""], LAST),
    ]
};
/// More than a parser that recurses takes.
const LEVELS: usize = 1_000;

#[tokio::test]
async fn rows_that_others_put_into_the_table_are_answered_and_are_no_panic() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let loosen = "ALTER TABLE events ALTER type DROP NOT NULL, ALTER stream_seq DROP NOT NULL, \
         ALTER published_at DROP NOT NULL, ALTER nats_subject DROP NOT NULL, ALTER trace_id DROP NOT NULL";
    stack.pool.execute(loosen).await.unwrap();
    let deep = "[".repeat(LEVELS) + &"]".repeat(LEVELS);
    for (id, [time, data, extensions, bytes], answered) in FOREIGN_ROWS {
        let insert = "INSERT INTO events (id, source, subject, time, data, extensions, data_bytes) \
             VALUES ($1, 'they', $1, $2::text::timestamptz, $3::text::jsonb, $4::text::jsonb, nullif($5, '')::bytea)";
        sqlx::query(insert)
            .bind(id)
            .bind(time)
            .bind(if data == "DEEP" { &deep } else { data })
            .bind(extensions)
            .bind(bytes)
            .execute(&stack.pool)
            .await
            .unwrap();
        // Another event of this id, which the answer names.
        let other = "INSERT INTO events (id, source, time) VALUES ($1, 'we', '-infinity')";
        sqlx::query(other)
            .bind(id)
            .execute(&stack.pool)
            .await
            .unwrap();
        // The newest state twice: from Postgres, and from the cache.
        for path in [
            "events/{}",
            "subjects/{}/latest",
            "subjects/{}/latest",
            "events/{}?source=they",
        ] {
            let path = format!("{}/v1/{}", ganesh.api, path.replace("{}", id));
            let answer = reqwest::get(&path).await;
            let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
            let status = answer.status();
            let body = answer.text().await.unwrap();
            assert_eq!(status, 200, "{path}: {body}");
            assert!(body.contains(&format!("\"id\":\"{id}\"")), "{path}: {body}");
            assert!(
                body.contains(&format!("\"time\":\"{answered}\"")),
                "{path}: {body}"
            );
        }
    }
    let log = ganesh.log();
    assert!(!log.contains("panic"), "{log}");
    assert!(ganesh.terminate().await.success());
}
