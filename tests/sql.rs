//! Every query of docs/QUERIES.md over a million events: its answer, that it reads no partition outside its
//! range, and which index serves it. What the reads of the API read of them.

mod cost;
mod indexes;
mod plans;
mod reads;
mod searches;
mod trail;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::Executor;
use sqlx::postgres::PgPool;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::support::stack::new_database;

const PAGE: &str = include_str!("../docs/QUERIES.md");
const EVENTS: i64 = 1_000_000;
const SUBJECTS: i64 = 1_000;
/// 2026-11-20, in microseconds. A million events from then on fill ten days.
const START_MICROS: i64 = 1_795_132_800_000_000;
const APART_MICROS: i64 = 864_000;
/// What the page asks about: 2026-11-24.
const ASKED: std::ops::Range<i64> = 400_000..500_000;
/// The page's subject is silent for three of its events.
const SILENT_SUBJECT: i64 = 1;
const SILENT: std::ops::Range<i64> = 430..433;
/// Of these queries the page says how long they take with an index of the user's.
const BY_OWN_INDEX: [&str; 2] = ["by a rare value", "by containment"];

/// Event number `n`, as `FILL` makes it.
struct Made(i64);

impl Made {
    fn all() -> impl Iterator<Item = Self> {
        let is_silent =
            |n: &i64| n % SUBJECTS == SILENT_SUBJECT && SILENT.contains(&(n / SUBJECTS));
        ASKED.filter(move |n| !is_silent(n)).map(Self)
    }

    fn of(subject: i64) -> impl DoubleEndedIterator<Item = Self> {
        let all: Vec<Self> = Self::all()
            .filter(|one| one.0 % SUBJECTS == subject)
            .collect();
        all.into_iter()
    }

    fn micros(&self) -> i64 {
        START_MICROS + self.0 * APART_MICROS
    }

    /// The beginning of its minute or hour, as JSON of Postgres writes it.
    fn bin(&self, micros: i64) -> String {
        moment(self.micros() - (self.micros() - START_MICROS) % micros)
    }

    fn event_type(&self) -> &'static str {
        match self.0 % 10 {
            0 => "com.example.order.created.v1",
            1 => "com.example.payment.failed.v1",
            _ => "com.example.device.telemetry.v1",
        }
    }

    fn subject(&self) -> String {
        format!("device-{:06}", self.0 % SUBJECTS)
    }

    fn sequence(&self) -> i64 {
        self.0 / SUBJECTS
    }

    fn tenths_celsius(&self) -> i64 {
        150 + self.0 * 7919 % 200
    }

    fn is_hot(&self) -> bool {
        self.0 % 5000 == 3
    }

    fn waited_millis(&self) -> i64 {
        self.0 % 97
    }

    fn is_late(&self) -> bool {
        self.0 % 10_000 == 5
    }
}

const FILL: &str = "INSERT INTO events (id, source, time, type, subject, data, nats_subject, stream_seq, \
        published_at, stored_at, trace_id) \
    SELECT 'event-' || n, 'https://fleet.example.com', time, \
        CASE n % 10 WHEN 0 THEN 'com.example.order.created.v1' WHEN 1 THEN 'com.example.payment.failed.v1' \
            ELSE 'com.example.device.telemetry.v1' END, \
        'device-' || lpad((n % 1000)::text, 6, '0'), \
        jsonb_build_object('sequence', n / 1000, 'temperature_celsius', trunc((150 + n * 7919 % 200) / 10.0, 1), \
            'samples_celsius', jsonb_build_array(10, CASE n % 5000 WHEN 3 THEN 40 ELSE 20 END)), \
        'events.device', n + 1, published_at, published_at + n % 97 * interval '1 ms', lpad(to_hex(n), 32, '0') \
    FROM generate_series($1::bigint, $2::bigint) AS n, \
        LATERAL (SELECT '2026-11-20Z'::timestamptz + n * interval '864 ms' AS time), \
        LATERAL (SELECT time + CASE n % 10000 WHEN 5 THEN interval '2 minutes' ELSE interval '2 ms' END \
            AS published_at) \
    WHERE n % 1000 <> 1 OR n / 1000 NOT BETWEEN 430 AND 432";

fn moment(micros: i64) -> String {
    ganesh::event::Timestamp::from_micros(micros).to_string()
}

/// The database with a million events, for one test at a time.
async fn filled() -> (MutexGuard<'static, ()>, PgPool) {
    static FILLED: OnceCell<String> = OnceCell::const_new();
    static ALONE: Mutex<()> = Mutex::const_new(());
    let alone = ALONE.lock().await;
    let url = FILLED.get_or_init(fill).await;
    (alone, PgPool::connect(url).await.unwrap())
}

/// A million events in ten partitions, and the user's table of the page. Returns where they are.
async fn fill() -> String {
    let url = new_database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    ganesh::storage::schema::migrate(&pool).await.unwrap();
    let a_day = EVENTS / 10;
    for day in 0..10 {
        let make = format!(
            "CREATE TABLE p{day} PARTITION OF events FOR VALUES FROM ('{}') TO ('{}')",
            moment(START_MICROS + day * a_day * APART_MICROS),
            moment(START_MICROS + (day + 1) * a_day * APART_MICROS),
        );
        pool.execute(make.as_str()).await.unwrap();
        sqlx::query(FILL)
            .bind(day * a_day)
            .bind((day + 1) * a_day - 1)
            .execute(&pool)
            .await
            .unwrap();
    }
    let user_table = "CREATE TABLE devices (subject text PRIMARY KEY, site text); \
        INSERT INTO devices SELECT 'device-' || lpad(n::text, 6, '0'), 'site ' || n % 3 \
            FROM generate_series(0, 999) AS n; \
        VACUUM ANALYZE events, devices";
    for statement in user_table.split("; ").chain(statements("CREATE VIEW")) {
        pool.execute(statement).await.unwrap();
    }
    url
}

/// The page's statements that begin so.
fn statements(beginning: &str) -> impl Iterator<Item = &'static str> {
    let blocks = PAGE.split("```sql\n").skip(1);
    let blocks = blocks.filter(move |block| block.starts_with(beginning));
    blocks.flat_map(|block| block.split_once("\n```").unwrap().0.split(";\n"))
}

/// The queries of the page by their names, with its variables filled in.
fn queries() -> BTreeMap<&'static str, String> {
    let variables: Vec<_> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("\\set ")?.split_once(' '))
        .collect();
    let blocks = PAGE.split("```sql\n-- ").skip(1);
    let named = blocks.map(|block| {
        let (name, query) = block.split_once('\n').unwrap();
        let mut query = query.split_once(";\n```").unwrap().0.to_owned();
        for (variable, value) in &variables {
            query = query.replace(&format!(":'{variable}'"), value);
        }
        (name, query)
    });
    named.collect()
}

async fn answer(pool: &PgPool, query: &str) -> Vec<Value> {
    let as_json = format!("SELECT to_jsonb(answer) FROM ({query}) AS answer");
    sqlx::query_scalar(&as_json).fetch_all(pool).await.unwrap()
}

/// The columns of a row that the expectation names.
fn same_columns(row: &Value, expected: &Value) -> Value {
    let columns = expected.as_object().unwrap().keys();
    columns
        .map(|name| (name.clone(), row[name].clone()))
        .collect()
}

fn counted(by: impl Fn(&Made) -> Value) -> Vec<Value> {
    let mut counts: Vec<(Value, i64)> = Vec::new();
    let mut places = BTreeMap::new();
    for one in Made::all() {
        let key = by(&one);
        let place = *places.entry(key.to_string()).or_insert_with(|| {
            counts.push((key, 0));
            counts.len() - 1
        });
        counts[place].1 += 1;
    }
    let rows = counts.into_iter().map(|(mut row, count)| {
        row["events"] = json!(count);
        row
    });
    rows.collect()
}

/// By `key`, descending or ascending; the first `limit`.
fn sorted(mut rows: Vec<Value>, key: impl Fn(&Value) -> (i64, String), limit: usize) -> Vec<Value> {
    rows.sort_by_key(|row| key(row));
    rows.truncate(limit);
    rows
}

fn latency_by_hour() -> Vec<Value> {
    let mut hours: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for one in Made::all() {
        hours
            .entry(one.bin(3_600_000_000))
            .or_default()
            .push(one.waited_millis());
    }
    let rows = hours.into_iter().map(|(hour, mut waited)| {
        waited.sort_unstable();
        // The first value that as many are not above.
        let at = |percent: usize| {
            let place = (waited.len() * percent).div_ceil(100) - 1;
            format!("00:00:00.{:03}", waited[place])
        };
        json!({"hour": hour, "events": waited.len(), "p50": at(50), "p99": at(99), "slowest": at(100)})
    });
    rows.collect()
}

fn sessions() -> Vec<Value> {
    let split = |is_after: bool| {
        let of: Vec<_> = Made::of(SILENT_SUBJECT)
            .filter(|one| (one.sequence() >= SILENT.end) == is_after)
            .collect();
        let (first, last) = (of.first().unwrap(), of.last().unwrap());
        json!({"started": moment(first.micros()), "ended": moment(last.micros()), "events": of.len()})
    };
    vec![split(false), split(true)]
}

fn slowest() -> Vec<Value> {
    let rows = Made::all().map(|one| {
        json!({"id": format!("event-{}", one.0), "trace_id": format!("{:032x}", one.0),
               "waited": format!("00:00:00.{:03}", one.waited_millis())})
    });
    let rows = rows.filter(|row| row["waited"] == "00:00:00.096");
    rows.take(20).collect()
}

fn last_value() -> Value {
    let one = Made::of(SILENT_SUBJECT).next_back().unwrap();
    let (degrees, tenths) = (one.tenths_celsius() / 10, one.tenths_celsius() % 10);
    let celsius: Value = format!("{degrees}.{tenths}").parse().unwrap();
    let data = json!({"sequence": one.sequence(), "temperature_celsius": celsius, "samples_celsius": [10, 20]});
    json!({"time": moment(one.micros()), "type": one.event_type(), "data": data})
}

/// By site, which the user's table has.
fn joined(is_counted: impl Fn(&Made) -> bool) -> Vec<Value> {
    let site = |one: &Made| one.0 % SUBJECTS % 3;
    let rows = (0..3).map(|at| {
        let events = Made::all()
            .filter(|one| is_counted(one) && site(one) == at)
            .count();
        json!({"site": format!("site {at}"), "events": events})
    });
    rows.collect()
}

/// What each query answers, computed from how the events were made.
fn expected(name: &str) -> Vec<Value> {
    const MINUTE: i64 = 60_000_000;
    let text = |row: &Value, column: &str| row[column].as_str().unwrap().to_owned();
    let newest = |subject: i64| {
        let one = Made::of(subject).next_back().unwrap();
        json!({"subject": one.subject(), "time": moment(one.micros())})
    };
    let telemetry = |one: &Made| one.event_type() == "com.example.device.telemetry.v1";
    match name {
        "rate" => {
            let rows = counted(|one| json!({"minute": one.bin(MINUTE), "type": one.event_type()}));
            sorted(
                rows,
                |row| (0, text(row, "minute") + &text(row, "type")),
                usize::MAX,
            )
        }
        "rate with empty minutes" => counted(|one| json!({"minute": one.bin(MINUTE)})),
        "latency" => latency_by_hour(),
        "slowest" => slowest(),
        "top talkers" => {
            let rows = counted(
                |one| json!({"source": "https://fleet.example.com", "subject": one.subject()}),
            );
            sorted(
                rows,
                |row| (-row["events"].as_i64().unwrap(), text(row, "subject")),
                20,
            )
        }
        "last value before a time" => vec![last_value()],
        "newest of each subject" => (0..SUBJECTS).map(newest).collect(),
        "newest of known subjects" => [0, 1, 3].map(newest).into(),
        "newest of all subjects" => {
            let last = (EVENTS - SUBJECTS..EVENTS).map(Made);
            last.map(|one| json!({"subject": one.subject(), "time": moment(one.micros())}))
                .collect()
        }
        "by id" => {
            let one = Made(ASKED.start);
            vec![json!({"subject": one.subject(), "time": moment(one.micros())})]
        }
        "gaps" => vec![json!({"sequence": SILENT.end, "missing": SILENT.end - SILENT.start})],
        "sessions" => sessions(),
        "by value" => Made::all()
            .filter(|one| telemetry(one) && one.tenths_celsius() > 305)
            .map(|one| json!({"time": moment(one.micros()), "subject": one.subject()}))
            .take(100)
            .collect(),
        "by a rare value" => Made::all()
            .filter(|one| one.tenths_celsius() > 348)
            .map(|one| json!({"subject": one.subject(), "id": format!("event-{}", one.0)}))
            .collect(),
        "by path" | "by containment" => Made::all()
            .filter(Made::is_hot)
            .map(|one| json!({"subject": one.subject(), "id": format!("event-{}", one.0)}))
            .collect(),
        "join" => joined(telemetry),
        "late" => {
            let events = Made::all().filter(Made::is_late).count();
            vec![
                json!({"source": "https://fleet.example.com", "events": events, "longest_delay": "00:02:00"}),
            ]
        }
        other => panic!("docs/QUERIES.md: nothing is expected of {other}"),
    }
}

#[tokio::test]
async fn every_query_of_the_page_answers_rightly_and_reads_only_its_range() {
    let (_alone, pool) = filled().await;
    let queries = queries();
    assert!(queries.len() >= 14, "{:?}", queries.keys());
    for (name, query) in &queries {
        let rows = answer(&pool, query).await;
        let expected = expected(name);
        assert_eq!(rows.len(), expected.len(), "{name}");
        for (row, expected) in rows.iter().zip(&expected) {
            // As JSON of Postgres writes UTC.
            let row = row.to_string().replace("+00:00\"", "Z\"");
            let row: Value = serde_json::from_str(&row).unwrap();
            assert_eq!(same_columns(&row, expected), *expected, "{name}");
        }
        let scans = plans::scans(&pool, query).await;
        plans::assert_reads_only_its_range(name, &scans);
        if !BY_OWN_INDEX.contains(name) {
            plans::assert_served_by_the_index_of_the_page(name, &scans);
        }
    }
}
