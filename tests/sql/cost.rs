//! What an index costs: the table in docs/QUERIES.md. `make index-cost` prints it.

use sqlx::PgPool;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor};

use crate::support::stack::new_database;

const ROWS: i64 = 200_000;
const RUNS: usize = 3;
/// Each with how it is made; those below stand, too, while one is measured, but for the user's own.
const INDEXES: [(&str, &str, bool); 6] = [
    ("none", "", true),
    (
        "primary key (id, source, time)",
        "ALTER TABLE cost ADD PRIMARY KEY (id, source, time)",
        true,
    ),
    (
        "(subject, time DESC)",
        "CREATE INDEX ON cost (subject, time DESC)",
        true,
    ),
    ("(time)", "CREATE INDEX ON cost (time)", true),
    (
        "yours: events_celsius",
        "CREATE INDEX ON cost (((data ->> 'temperature_celsius')::numeric))",
        false,
    ),
    (
        "yours: events_data",
        "CREATE INDEX ON cost USING gin (data jsonb_path_ops)",
        false,
    ),
];

/// Processor time of the session's server process so far, in seconds.
async fn processor_secs(connection: &mut PgConnection) -> f64 {
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(connection)
        .await
        .unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks = |place: usize| fields[place].parse::<f64>().unwrap();
    // utime and stime, in hundredths.
    (ticks(11) + ticks(12)) / 100.0
}

/// Microseconds of processor and bytes of indexes for each row of a `COPY` into the table with these indexes.
async fn copy(url: &str, text: &[u8], indexes: &[&str]) -> (f64, f64) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let table = "DROP TABLE IF EXISTS cost; CREATE TABLE cost (LIKE events INCLUDING DEFAULTS)";
    connection.execute(table).await.unwrap();
    for index in indexes.iter().filter(|index| !index.is_empty()) {
        connection.execute(*index).await.unwrap();
    }
    let before = processor_secs(&mut connection).await;
    let mut into = connection
        .copy_in_raw("COPY cost FROM STDIN")
        .await
        .unwrap();
    into.send(text).await.unwrap();
    assert_eq!(into.finish().await.unwrap(), ROWS.cast_unsigned());
    let secs = processor_secs(&mut connection).await - before;
    let bytes: i64 = sqlx::query_scalar("SELECT pg_indexes_size('cost')")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let (bytes, rows) = (bytes as f64, ROWS as f64);
    (secs * 1e6 / rows, bytes / rows)
}

/// What is copied: times ascending, ids and subjects random.
async fn rows(pool: &PgPool) -> Vec<u8> {
    let make = format!(
        "COPY (SELECT gen_random_uuid(), 'https://fleet.example.com', now() + n * interval '1 ms', \
            'com.example.device.telemetry.v1', 'device-' || lpad((random() * 1e5)::int::text, 6, '0'), \
            'application/json', NULL, jsonb_build_object('sequence', n, 'site', 'Porto', \
                'temperature_celsius', (150 + n * 7919 % 200) / 10.0), \
            NULL, NULL, 'events.device', n, now(), now(), lpad(to_hex(n), 32, '0') \
         FROM generate_series(1, {ROWS}) AS n) TO STDOUT"
    );
    let mut connection = pool.acquire().await.unwrap();
    let chunks = connection.copy_out_raw(&make).await.unwrap();
    let chunks: Vec<_> = futures::TryStreamExt::try_collect(chunks).await.unwrap();
    chunks.concat()
}

#[tokio::test]
#[ignore = "a measurement: make index-cost"]
async fn index_cost() {
    let url = new_database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    ganesh::storage::schema::migrate(&pool).await.unwrap();
    let text = rows(&pool).await;
    let mut standing: Vec<&str> = Vec::new();
    let mut below = (0.0, 0.0);
    for (name, make, stays) in INDEXES {
        let with = [&standing[..], &[make]].concat();
        let mut least = (f64::MAX, f64::MAX);
        for _ in 0..RUNS {
            let (micros, bytes) = copy(&url, &text, &with).await;
            least = (least.0.min(micros), least.1.min(bytes));
        }
        let more = (least.0 - below.0, least.1 - below.1);
        println!("{name}: {:+.1} µs, {:.0} bytes a row", more.0, more.1);
        if stays {
            standing.push(make);
            below = least;
        }
    }
}
