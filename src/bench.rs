//! `ganesh bench`: what the servers of this machine can do alone, what a bare loop does with them, and what
//! ganesh does with them. Rows in Postgres and their commit times are the truth; no counter of ganesh is used.
//!
//! ```text
//!  ceilings ─▶ (bare loop, drain by serve) × pairs ─▶ two processes ─▶ live at each rate
//! ```

mod bare;
mod ceilings;
mod cpu;
mod live;
mod processes;
mod report;
mod servers;

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::processes::{Processes, Produce};
pub(crate) use self::report::BenchReport;
pub(crate) use self::servers::BenchServers;
use crate::config::{Config, Reader};

/// Rates at which messages are sent, at most.
const RATES_MAX: usize = 8;
const RATE_MAX: u32 = 10_000_000;

/// The size of a run.
#[derive(Debug, Clone)]
pub(crate) struct BenchOptions {
    /// Messages of each ceiling and each drain.
    messages: u64,
    /// Pairs of a bare loop and a drain by ganesh.
    pairs: usize,
    /// How long messages are sent at each rate.
    time: Duration,
    /// Messages a second.
    rates: Vec<u32>,
    pub(crate) json: bool,
}

impl BenchOptions {
    /// Reads every option. They count only when [`Reader::finish`] has no mistakes.
    pub(crate) fn read(r: &mut Reader) -> Self {
        if r.boolean("GANESH_BENCH_QUICK") {
            r.set_default("GANESH_BENCH_MESSAGES", "50000");
            r.set_default("GANESH_BENCH_PAIRS", "1");
            r.set_default("GANESH_BENCH_DURATION", "5s");
        }
        Self {
            messages: r.integer("GANESH_BENCH_MESSAGES", 1_000, 1_000_000_000),
            pairs: r.integer("GANESH_BENCH_PAIRS", 1, 100),
            time: r.duration("GANESH_BENCH_DURATION", "3s", "1h"),
            rates: r.parse(
                "GANESH_BENCH_RATES",
                "1 to 8 numbers, such as 1000,20000",
                rates,
            ),
            json: r.boolean("GANESH_BENCH_JSON"),
        }
    }

    /// How often the progress moves.
    fn steps(&self) -> usize {
        ceilings::COUNT + 2 * self.pairs + 1 + self.rates.len()
    }
}

fn rates(raw: &str) -> Option<Vec<u32>> {
    let rates = raw.split(',').map(|rate| {
        let rate = rate.trim().parse().ok()?;
        (1..=RATE_MAX).contains(&rate).then_some(rate)
    });
    let rates: Vec<u32> = rates.collect::<Option<_>>()?;
    (rates.len() <= RATES_MAX).then_some(rates)
}

/// Measures everything, one after the other. The servers are empty.
///
/// # Errors
/// When a server or a process fails, or when a drain did not make one row of each message.
pub(crate) async fn run(
    config: &Config,
    options: &BenchOptions,
    servers: &BenchServers,
) -> anyhow::Result<BenchReport> {
    let progress = Progress::new(options.steps());
    let processes = Processes::new(config)?;
    // It makes the streams, the consumer and the tables.
    processes.serve().await?.terminate().await?;
    servers.make_own_tables().await?;
    let ceilings = ceilings::measure(servers, &processes, options.messages, &progress).await?;
    let mut report = BenchReport::new(options, servers.durability().await?, ceilings);
    for pair in 1..=options.pairs {
        progress.step(format!("bare loop, pair {pair}"));
        report
            .bare
            .push(bare::drain(servers, options.messages).await?);
        progress.step(format!("drain by ganesh, pair {pair}"));
        report
            .drains
            .push(drain(servers, &processes, options.messages, 1).await?);
    }
    progress.step("drain by two processes".to_owned());
    report.two_processes = Some(drain(servers, &processes, options.messages, 2).await?);
    for rate in &options.rates {
        progress.step(format!("live at {rate} messages/s"));
        report
            .live
            .push(live::measure(servers, &processes, *rate, options.time).await?);
    }
    Ok(report)
}

/// Fills the stream with so many messages, and nothing else.
async fn fill(
    servers: &BenchServers,
    processes: &Processes,
    messages: u64,
) -> anyhow::Result<Produce> {
    servers.stream().await?.purge().await?;
    let count = messages.to_string();
    processes.produce(&["--rate", "0", "--count", &count]).await
}

/// So many `serve` drain the stream from its start into an empty table.
async fn drain(
    servers: &BenchServers,
    processes: &Processes,
    messages: u64,
    count: usize,
) -> anyhow::Result<report::Drain> {
    servers.start_over().await?;
    let before = cpu::Sample::take()?;
    let mut running = Vec::new();
    for _ in 0..count {
        running.push(processes.serve().await?);
    }
    servers.wait_until_drained().await?;
    let cpu = before.until_now()?;
    for serve in running {
        serve.terminate().await?;
    }
    servers.expect_rows(&servers.pool, messages).await?;
    let rate = servers.committed_per_second(&servers.pool).await?;
    Ok(report::Drain::new(rate, &cpu, messages))
}

/// Shows on a terminal how far the run is.
struct Progress(ProgressBar);

impl Progress {
    fn new(steps: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{pos}/{len} {wide_bar} {elapsed} {msg}");
        bar.set_style(style.expect("the template is right"));
        Self(bar)
    }

    /// The next measurement begins.
    fn step(&self, what: String) {
        self.0.inc(1);
        self.0.set_message(what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
