//! P8 and P6 by measurement: what telemetry costs the pipeline, in turn with a run without it, and
//! what it does to memory while nobody scrapes and no collector listens. Prints what it found, and
//! fails when that is more than was promised.
//!
//! `make measure`; `MESSAGES=1000000 make measure` drains longer.

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

mod batch;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use ::ganesh::pipeline::observe::Observer;
use ::ganesh::telemetry::slow::SlowLog;
use ::ganesh::telemetry::{Metrics, recorder, traces};
use support::collector::Collector;
use support::{Ganesh, Stack, ganesh as command};

/// Drained in each run.
const MESSAGES: u64 = 300_000;
const PAIRS: usize = 5;
/// P8: of throughput, and of processor time per message.
const COST_MAX: f64 = 0.05;
/// Ten minutes at 20,000 a second.
const OBSERVED: u64 = 12_000_000;
/// Fifty times the rate at which traces are kept otherwise, as time passes that much faster here.
const TRACES_PER_SECOND: &str = "10000";
const GROWTH_MAX_BYTES: u64 = 8 << 20;

/// One drain of the stream.
#[derive(Debug, Clone, Copy)]
struct Run {
    messages_per_second: f64,
    cpu_micros_per_message: f64,
}

/// What a run with telemetry costs, relative to the other one. Below zero it was the cheaper one.
#[derive(Debug, Clone, Copy)]
struct Cost {
    throughput: f64,
    cpu: f64,
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        memory_stays_flat().await;
        telemetry_is_cheap().await;
    });
}

/// Settles messages of a batch again and again; the spans of kept ones go to nobody.
async fn memory_stays_flat() {
    let recorded = recorder::install().unwrap();
    let metrics = Metrics::register(&recorded.histograms);
    let nowhere = format!("http://127.0.0.1:{}", support::servers::free_port());
    let config = batch::config(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere.leak()),
        ("GANESH_TRACE_SLOW_MS", "0"),
        ("GANESH_TRACE_MAX_PER_SEC", TRACES_PER_SECOND),
    ]);
    let tracing = traces::start(&config.telemetry).unwrap().unwrap();
    tracing.queue.count_in(&metrics);
    let mut observer = Observer::new(
        &config,
        metrics.clone(),
        Some(tracing.queue.clone()),
        SlowLog::default(),
    );
    let cached = batch::batch(&metrics, &config);
    let mut resident = Vec::new();
    let rounds = OBSERVED / batch::BATCH;
    for round in 1..=rounds {
        observer.rows(&cached);
        if round % (rounds / 12) == 0 {
            resident.push(command::resident_bytes(std::process::id()));
        }
        tokio::task::yield_now().await;
    }
    let mebibytes: Vec<u64> = resident.iter().map(|bytes| bytes >> 20).collect();
    println!("memory: {OBSERVED} messages observed, nobody scrapes, no collector");
    println!("  resident after each twelfth, MiB: {mebibytes:?}");
    // The first twelfth fills what is filled once: the queue, the lists, the allocator's pages.
    let grown = resident[resident.len() - 1].saturating_sub(resident[0]);
    assert!(grown <= GROWTH_MAX_BYTES, "grew by {grown} bytes");
}

async fn telemetry_is_cheap() {
    let messages = std::env::var("MESSAGES").map_or(MESSAGES, |text| text.parse().unwrap());
    let stack = Stack::start().await;
    let collector = Collector::start().await;
    let on = collector.settings();
    let off = collector.settings_with(&[("OTEL_SDK_DISABLED", "true")]);
    fill(&stack, messages).await;
    println!("cost: {messages} messages drained in each run; on, off, on again");
    println!("  messages/s, µs of processor time per message");
    let (mut costs, mut controls) = (Vec::new(), Vec::new());
    // The first run finds cold files.
    drain(&stack, &on, messages).await;
    for pair in 0..PAIRS {
        let first = drain(&stack, &on, messages).await;
        let without = drain(&stack, &off, messages).await;
        let again = drain(&stack, &on, messages).await;
        println!("  {first}   {without}   {again}");
        // In turn, so that what a machine does over time falls on both alike.
        let with = if pair % 2 == 0 { first } else { again };
        costs.push(with.cost_over(without));
        controls.push(first.cost_over(again));
    }
    judge("throughput", &costs, &controls, |cost| cost.throughput);
    judge("processor time", &costs, &controls, |cost| cost.cpu);
}

/// The median cost against what is allowed: the promise, and what two equal runs differ by.
fn judge(what: &str, costs: &[Cost], controls: &[Cost], of: impl Fn(&Cost) -> f64) {
    let cost = median(costs.iter().map(&of));
    let spread = median(controls.iter().map(|control| of(control).abs()));
    println!(
        "  {what}: telemetry costs {:.1} %; two runs with it differ by {:.1} % (medians)",
        cost * 100.0,
        spread * 100.0
    );
    assert!(cost <= COST_MAX + spread, "{what}: {costs:?}");
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            messages_per_second,
            cpu_micros_per_message,
        } = self;
        write!(
            f,
            "{messages_per_second:>7.0} {cpu_micros_per_message:>5.2}"
        )
    }
}

impl Run {
    fn cost_over(self, other: Self) -> Cost {
        Cost {
            throughput: 1.0 - self.messages_per_second / other.messages_per_second,
            cpu: self.cpu_micros_per_message / other.cpu_micros_per_message - 1.0,
        }
    }
}

/// A stream full of messages; each run reads it from the start.
async fn fill(stack: &Stack, messages: u64) {
    stack.make_streams().await;
    let count = messages.to_string();
    let arguments = ["produce", "--rate", "0", "--seed", "1", "--count", &count];
    let status = command::command(Some(stack), &arguments, &[])
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

/// Drains the whole stream into an empty table, scraped every second where there is something to
/// scrape.
async fn drain(stack: &Stack, settings: &[(&str, &str)], messages: u64) -> Run {
    sqlx::query("TRUNCATE events")
        .execute(&stack.pool)
        .await
        .unwrap();
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let _ = stream.delete_consumer("ganesh").await;
    let ganesh = stack.serve(settings).await;
    let scraping = tokio::spawn(scrape(ganesh.admin_url("/metrics")));
    let (began, cpu, waiting) = loop {
        let waiting = stack.backlog_of(&stream).await;
        if waiting < messages {
            break (Instant::now(), cpu_seconds(&ganesh), waiting);
        }
    };
    while stack.backlog_of(&stream).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (took, cpu) = (began.elapsed(), cpu_seconds(&ganesh) - cpu);
    scraping.abort();
    assert!(ganesh.terminate().await.success());
    assert_eq!(stack.rows().await, i64::try_from(messages).unwrap());
    Run {
        messages_per_second: waiting as f64 / took.as_secs_f64(),
        cpu_micros_per_message: cpu * 1e6 / waiting as f64,
    }
}

async fn scrape(url: String) {
    let client = reqwest::Client::new();
    loop {
        let asked = client
            .get(&url)
            .header("Accept", "application/openmetrics-text;version=1.0.0");
        if let Ok(answer) = asked.send().await {
            let _ = answer.bytes().await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// User and system time that the process has taken.
fn cpu_seconds(ganesh: &Ganesh) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", ganesh.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = |field: usize| -> f64 { fields.split(' ').nth(field).unwrap().parse().unwrap() };
    // The 14th and the 15th field of the whole line, of which two stand before the bracket.
    (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
}
