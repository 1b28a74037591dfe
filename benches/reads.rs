//! How many reads of newest states the cache answers, at which latency, and how many Postgres answers without it.
//! Prints one table in Markdown, and fails when that is less than was promised.
//!
//! `make reads`, alone on the machine. `RATE` (20,000), `SECONDS` (10) and `RUNS` (3) change the size.
//! `PROGRAM=path` measures another build. The readers take a part of the two processors, too.

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
#[path = "reads/load.rs"]
mod load;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt;
use std::time::Duration;

use drain::{cpu_seconds, produce};
use load::{Answers, Pace, Readers, Requests};
use support::collector::Collector;
use support::{Ganesh, Stack, binary};

const EVENTS: &str = "100000";
const SUBJECTS: &str = "10000";
/// As many as hold the rate: each has one request at a time.
const CONNECTIONS: usize = 32;
/// Without a cache. Four reads of Postgres run at a time; the others wait for their turn.
const CONNECTIONS_TO_POSTGRES: usize = 8;
const WARM_UP: Duration = Duration::from_secs(2);
const P99_MAX_MILLIS: f64 = 10.0;
/// What the cache answers to what Postgres answers.
const RATIO_MIN: f64 = 10.0;
/// Of the rate: the last answers end later than the last requests begin.
const HELD_MIN: f64 = 0.99;
/// Of the reads that the cache is to answer: one goes to Postgres when a process had to wait for a processor.
const HITS_MIN: f64 = 0.99;

fn main() {
    tokio::runtime::Runtime::new().unwrap().block_on(reads());
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// One load.
struct Run {
    answers: Answers,
    /// Of ganesh, the cache, Postgres and the readers, in µs a read.
    cpu: [f64; 4],
}

/// What is read, and how.
struct Plan {
    stack: Stack,
    ganesh: Ganesh,
    /// Its processes.
    cache: Vec<u32>,
    subjects: Vec<String>,
    runs: usize,
    lasts: Duration,
}

async fn reads() {
    let rate = number("RATE", 20_000);
    let mut plan = Plan::prepare().await;
    println!(
        "| read from | a second | answered a second | p50, ms | p99, ms | max, ms | CPU of ganesh, cache, Postgres, \
         readers: µs a read |"
    );
    println!("|---|---|---|---|---|---|---|");
    let at_rate = plan.repeat("cache", Pace::Rate(rate), CONNECTIONS);
    plan.repeat("cache", Pace::AsFastAsAnswered, CONNECTIONS);
    plan.stack.cache.terminate();
    let alone = plan.repeat("Postgres", Pace::AsFastAsAnswered, CONNECTIONS_TO_POSTGRES);
    assert!(plan.ganesh.terminate().await.success());
    check(rate, &at_rate, &alone);
}

/// The median of the runs is what counts.
fn check(rate: u64, at_rate: &[Run], alone: &[Run]) {
    let held = median(at_rate.iter().map(|run| run.answers.per_second()));
    let p99 = median(at_rate.iter().map(|run| run.answers.millis(0.99)));
    let ratio = held / median(alone.iter().map(|run| run.answers.per_second()));
    println!(
        "\nmedians: {held:.0} reads a second, p99 {p99:.2} ms, {ratio:.1} times what Postgres answers"
    );
    assert!(
        held >= rate as f64 * HELD_MIN,
        "{held:.0} reads a second: expected {rate}"
    );
    assert!(
        p99 <= P99_MAX_MILLIS,
        "p99 is {p99:.2} ms: expected at most {P99_MAX_MILLIS} ms"
    );
    assert!(
        ratio >= RATIO_MIN,
        "the cache answers {ratio:.1} times as many reads as Postgres: expected at least {RATIO_MIN}"
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl Plan {
    /// Stores events, and reads the newest of each subject, so that the cache has it.
    async fn prepare() -> Self {
        let stack = Stack::start_with_own_postgres().await;
        let collector = Collector::start().await;
        let program = std::env::var("PROGRAM").unwrap_or_else(|_| binary::GANESH.to_owned());
        let ganesh = Ganesh::serve_of(&program, &stack, &collector.settings());
        ganesh.wait_until_ready().await;
        let arguments = [
            "--rate",
            "0",
            "--count",
            EVENTS,
            "--subject-count",
            SUBJECTS,
        ];
        produce(&stack, &arguments);
        stack.wait_until_drained().await;
        let names =
            "SELECT DISTINCT subject FROM events WHERE subject IS NOT NULL ORDER BY subject";
        let names = sqlx::query_scalar(names).fetch_all(&stack.pool);
        let subjects = names.await.unwrap();
        sqlx::query("VACUUM ANALYZE events")
            .execute(&stack.pool)
            .await
            .unwrap();
        let plan = Self {
            cache: stack.cache.family(),
            stack,
            ganesh,
            subjects,
            runs: usize::try_from(number("RUNS", 3)).unwrap(),
            lasts: Duration::from_secs(number("SECONDS", 10)),
        };
        let readers = plan.readers(CONNECTIONS_TO_POSTGRES);
        readers.ask_each(Requests::of_each(&plan.subjects));
        plan
    }

    fn readers(&self, connections: usize) -> Readers {
        let server = self.ganesh.api.trim_start_matches("http://");
        Readers {
            server: server.parse().unwrap(),
            connections,
        }
    }

    /// The first of them finds the processors cold, and is not shown.
    fn repeat(&self, server: &str, pace: Pace, connections: usize) -> Vec<Run> {
        let is_cache = server == "cache";
        self.run(pace, connections, WARM_UP);
        let run = |_| {
            let run = self.run(pace, connections, self.lasts);
            println!("| {server} | {pace} | {run}");
            let (hits, reads) = (run.answers.hits, run.answers.micros.len());
            let is_right = if is_cache {
                hits as f64 > reads as f64 * HITS_MIN
            } else {
                hits == 0
            };
            assert!(is_right, "{hits} of {reads} reads of {server} were hits");
            run
        };
        (0..self.runs).map(run).collect()
    }

    fn run(&self, pace: Pace, connections: usize, lasts: Duration) -> Run {
        let readers = self.readers(connections);
        let requests = Requests::skewed(&self.subjects);
        let before = self.cpu();
        let answers = readers.ask_for(lasts, pace, requests);
        let after = self.cpu();
        let count = answers.micros.len() as f64;
        let cpu = std::array::from_fn(|at| (after[at] - before[at]) * 1e6 / count);
        Run { answers, cpu }
    }

    /// Seconds, of each process until now.
    fn cpu(&self) -> [f64; 4] {
        let postgres = self.stack.postgres.as_ref().expect("it is the bench's own");
        [
            cpu_seconds(&[self.ganesh.pid()]),
            cpu_seconds(&self.cache),
            cpu_seconds(&postgres.family()),
            cpu_seconds(&[std::process::id()]),
        ]
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, cpu } = self;
        let [ganesh, cache, postgres, readers] = cpu;
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| answers.millis(share));
        let rate = answers.per_second();
        write!(
            f,
            "{rate:.0} | {p50:.2} | {p99:.2} | {max:.2} | {ganesh:.1}, {cache:.1}, {postgres:.1}, {readers:.1} |"
        )
    }
}
