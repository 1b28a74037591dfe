//! From how many rows on `COPY` is faster than one `INSERT`: medians of both, in turn, on one connection.
//!
//! `cargo bench --bench writing`

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a measurement may panic, and shows figures"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "what the tests share has more than is used here"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use ::ganesh::event::{Event, Timestamp, TraceId};
use ::ganesh::labels::WriteMethod;
use ::ganesh::storage::{Row, ServerClock, schema, write_rows};
use support::Stack;
use support::events::events;

const ROWS: [usize; 9] = [1, 4, 16, 32, 64, 128, 256, 512, 1_024];
/// Statements of each method.
const STATEMENTS: usize = 61;

#[tokio::main]
async fn main() {
    let stack = Stack::start().await;
    schema::migrate(&stack.pool).await.unwrap();
    let mut connection = stack.pool.acquire().await.unwrap();
    println!("| rows | COPY, ms | INSERT, ms | INSERT / COPY |\n|---|---|---|---|");
    for count in ROWS {
        let mut took = [Vec::new(), Vec::new()];
        for round in 0..STATEMENTS {
            for (method, took) in [WriteMethod::Copy, WriteMethod::Insert]
                .into_iter()
                .zip(&mut took)
            {
                let events = events(&format!("{count}-{round}-{method:?}"), count);
                let mut rows = rows(&events);
                rows.sort_by(Row::write_order);
                let began = Instant::now();
                write_rows(&mut connection, &rows, method, &ServerClock::default())
                    .await
                    .unwrap();
                took.push(began.elapsed());
            }
        }
        let [copy, insert] = took.map(median_ms);
        println!(
            "| {count} | {copy:.2} | {insert:.2} | {:.2} |",
            insert / copy
        );
    }
}

fn rows(events: &[Event]) -> Vec<Row<'_>> {
    let published_at = Timestamp::now();
    let row = |(event, stream_seq)| Row {
        event,
        stream: "EVENTS",
        nats_subject: "events.bench",
        stream_seq,
        published_at,
        trace_id: TraceId::of_message(None, "EVENTS", stream_seq, published_at),
    };
    events.iter().zip(1..).map(row).collect()
}

fn median_ms(mut took: Vec<Duration>) -> f64 {
    took.sort();
    took[took.len() / 2].as_secs_f64() * 1e3
}
