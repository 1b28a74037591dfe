//! Two builds of ganesh beside each other: how fast they drain a full stream, how long a message
//! takes from the stream to its commit, what a late cache costs, and what processor time all of it
//! takes. Prints one table in Markdown.
//!
//! `make compare OLD=path NEW=path`, alone on the machine. `MESSAGES` (600,000), `PAIRS` (3),
//! `SECONDS` (20) and `RATES` (1000,20000) change the size.
//!
//! Each build has servers of its own, and the builds take turns. The producer is that of NEW for both.
//! Times are those of Postgres: a row's commit (`track_commit_timestamp`) against the moment at which
//! the stream stored its message. No counter of ganesh is used.

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

mod drain;
#[path = "compare/side.rs"]
mod side;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "compare/table.rs"]
mod table;

use std::time::Duration;

use side::Side;
use support::collector::Collector;
use table::Table;

/// How late the cache answers.
const LATE: Duration = Duration::from_millis(90);

/// What is measured how often.
struct Plan {
    messages: u64,
    pairs: usize,
    time: Duration,
    rates: Vec<u64>,
}

impl Plan {
    fn read() -> Self {
        Self {
            messages: number("MESSAGES", 600_000),
            pairs: usize::try_from(number("PAIRS", 3)).unwrap(),
            time: Duration::from_secs(number("SECONDS", 20)),
            rates: std::env::var("RATES")
                .unwrap_or_else(|_| "1000,20000".to_owned())
                .split_terminator(',')
                .map(|rate| rate.parse().unwrap())
                .collect(),
        }
    }

    /// Every run: which side, in an order that favours neither.
    fn turns(&self) -> impl Iterator<Item = usize> {
        (0..self.pairs).flat_map(|pair| if pair % 2 == 0 { [0, 1] } else { [1, 0] })
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn path(name: &str) -> String {
    let path = std::env::var(name).unwrap_or_else(|_| panic!("{name} is the path of a binary"));
    let path =
        std::fs::canonicalize(&path).unwrap_or_else(|error| panic!("{name}={path}: {error}"));
    path.into_os_string().into_string().unwrap()
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(compare(&Plan::read()));
}

async fn compare(plan: &Plan) {
    let (old, new) = (path("OLD"), path("NEW"));
    let collector = Collector::start().await;
    let sides = [
        Side::start(&old, &new, &collector).await,
        Side::start(&new, &new, &collector).await,
    ];
    let mut table = Table::default();
    for &rate in &plan.rates {
        latency(plan, rate, &sides, &mut table).await;
    }
    for side in &sides {
        side.fill(plan.messages).await;
    }
    drains(plan, &sides, &mut table).await;
    println!("{table}\nIn each run every message became one row, and none a dead letter.");
}

async fn latency(plan: &Plan, rate: u64, sides: &[Side; 2], table: &mut Table) {
    for turn in plan.turns() {
        let flow = sides[turn].flow(rate, plan.time).await;
        let name = |what: &str| format!("{rate}/s: {what}");
        table.add(&name("sent, messages/s"), turn, flow.sent_per_second);
        for (quantile, millis) in ["p50", "p95", "p99"].iter().zip(flow.millis) {
            table.add(&name(&format!("{quantile}, ms")), turn, millis);
        }
        add_cpu(table, &format!("{rate}/s"), turn, flow.cpu);
    }
}

async fn drains(plan: &Plan, sides: &[Side; 2], table: &mut Table) {
    // The first runs find cold files.
    for side in sides {
        side.drain(plan.messages, Duration::ZERO).await;
    }
    for turn in plan.turns() {
        let side = &sides[turn];
        let drained = side.drain(plan.messages, Duration::ZERO).await;
        let late = side.drain(plan.messages, LATE).await;
        table.add("drain: messages/s", turn, drained.messages_per_second);
        add_cpu(table, "drain", turn, drained.cpu);
        let name = format!("drain, cache {LATE:?} late: ");
        table.add(&format!("{name}messages/s"), turn, late.messages_per_second);
        let share = late.messages_per_second / drained.messages_per_second * 100.0;
        table.add(&format!("{name}% of undisturbed"), turn, share);
        add_cpu(table, name.trim_end_matches(": "), turn, late.cpu);
    }
}

/// Of the three processes, in µs a message.
fn add_cpu(table: &mut Table, run: &str, turn: usize, cpu: [f64; 3]) {
    for (process, micros) in ["ganesh", "Postgres", "NATS"].iter().zip(cpu) {
        table.add(
            &format!("{run}: CPU of {process}, µs/message"),
            turn,
            micros,
        );
    }
}
