//! What a run found, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::BenchOptions;
use super::cpu::{ByProgram, Used};
use super::processes::Produce;

/// Settings of the servers that decide what a crash may cost.
#[derive(Debug, Serialize)]
pub(super) struct Durability {
    pub(super) postgres: String,
    pub(super) fsync: String,
    pub(super) synchronous_commit: String,
    pub(super) nats_server: String,
}

/// Microseconds of processor time for each message.
#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Cpu {
    by_program: BTreeMap<String, f64>,
    /// Of the whole machine.
    busy: f64,
}

/// The programs that are measured. All others count together.
const MEASURED: [&str; 6] = [
    "ganesh bench",
    "ganesh produce",
    "ganesh serve",
    "nats-server",
    "postgres",
    "redis-server",
];
const OTHERS: &str = "others";

impl Cpu {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn of(used: &Used, messages: u64) -> Self {
        let per_message =
            |time: std::time::Duration| round(time.as_secs_f64() * 1e6 / messages as f64, 100.0);
        let mut by_program = ByProgram::new();
        for (program, time) in &used.by_program {
            let measured = MEASURED.into_iter().find(|name| name == program);
            *by_program
                .entry(measured.unwrap_or(OTHERS).to_owned())
                .or_default() += *time;
        }
        let by_program = by_program.into_iter();
        Self {
            by_program: by_program
                .map(|(program, time)| (program, per_message(time)))
                .collect(),
            busy: per_message(used.busy),
        }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_program = self.by_program.iter();
        let words: Vec<String> = by_program
            .map(|(program, micros)| format!("{program} {micros:.1}"))
            .collect();
        write!(f, "{} of {:.1}", words.join(", "), self.busy)
    }
}

/// One server alone.
#[derive(Debug, Serialize)]
pub(super) struct Ceiling {
    what: &'static str,
    per_second: f64,
    cpu_micros: Option<Cpu>,
}

impl Ceiling {
    pub(super) fn new(
        what: &'static str,
        per_second: f64,
        used: Option<&Used>,
        messages: u64,
    ) -> Self {
        Self {
            what,
            per_second: per_second.round(),
            cpu_micros: used.map(|used| Cpu::of(used, messages)),
        }
    }
}

/// A full stream, drained.
#[derive(Debug, Serialize)]
pub(super) struct Drain {
    per_second: f64,
    cpu_micros: Cpu,
}

impl Drain {
    pub(super) fn new(per_second: f64, used: &Used, messages: u64) -> Self {
        Self {
            per_second: per_second.round(),
            cpu_micros: Cpu::of(used, messages),
        }
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.0}/s   {}", self.per_second, self.cpu_micros)
    }
}

/// ganesh beside the producer. Times are in milliseconds, from the moment at which a message was to be sent to the
/// commit of its row.
#[derive(Debug, Serialize)]
pub(super) struct Live {
    asked_per_second: u32,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    #[serde(rename = "p99.9_ms")]
    p99_9_ms: f64,
    max_ms: f64,
    /// How late the producer itself was.
    send_delay_p99_ms: f64,
    lag_max_messages: u64,
    resident_bytes: Option<u64>,
    cpu_micros: Cpu,
}

impl Live {
    pub(super) fn new(
        asked_per_second: u32,
        per_second: f64,
        quantiles_ms: &[f64],
        lag_max_messages: u64,
        produced: &Produce,
        resident_bytes: Option<u64>,
        used: &Used,
    ) -> Self {
        let quantile =
            |place: usize| round(quantiles_ms.get(place).copied().unwrap_or(f64::NAN), 100.0);
        Self {
            asked_per_second,
            per_second: per_second.round(),
            p50_ms: quantile(0),
            p99_ms: quantile(1),
            p99_9_ms: quantile(2),
            max_ms: quantile(3),
            send_delay_p99_ms: produced.send_delay_ms.p99,
            lag_max_messages,
            resident_bytes,
            cpu_micros: Cpu::of(used, produced.published),
        }
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct BenchReport {
    durability: Durability,
    messages: u64,
    ceilings: Vec<Ceiling>,
    pub(super) bare: Vec<Drain>,
    pub(super) drains: Vec<Drain>,
    pub(super) two_processes: Option<Drain>,
    pub(super) live: Vec<Live>,
}

impl BenchReport {
    pub(super) fn new(
        options: &BenchOptions,
        durability: Durability,
        ceilings: Vec<Ceiling>,
    ) -> Self {
        Self {
            durability,
            messages: options.messages,
            ceilings,
            bare: Vec::new(),
            drains: Vec::new(),
            two_processes: None,
            live: Vec::new(),
        }
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Durability {
            postgres,
            fsync,
            synchronous_commit,
            nats_server,
        } = &self.durability;
        writeln!(
            f,
            "Postgres {postgres}: fsync {fsync}, synchronous_commit {synchronous_commit}; nats-server {nats_server}: \
             see its sync_interval"
        )?;
        writeln!(
            f,
            "{} messages; processor time in µs a message by program, of all that the machine was busy\n",
            self.messages
        )?;
        for Ceiling {
            what,
            per_second,
            cpu_micros,
        } in &self.ceilings
        {
            let cpu = cpu_micros
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            writeln!(f, "{what:<34} {per_second:>9.0}/s   {cpu}")?;
        }
        writeln!(f)?;
        for (bare, drain) in self.bare.iter().zip(&self.drains) {
            writeln!(
                f,
                "{:<34} {bare}\n{:<34} {drain}",
                "bare loop", "drain by ganesh"
            )?;
        }
        if let Some(drain) = &self.two_processes {
            writeln!(f, "{:<34} {drain}", "drain by two processes")?;
        }
        let (bare, drain) = (median(&self.bare), median(&self.drains));
        writeln!(
            f,
            "ganesh against the bare loop       {:.0} % (medians)",
            drain / bare * 100.0
        )?;
        for live in &self.live {
            write!(f, "\n{live}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            asked_per_second,
            per_second,
            p50_ms,
            p99_ms,
            p99_9_ms,
            max_ms,
            send_delay_p99_ms,
            ..
        } = self;
        writeln!(
            f,
            "live at {asked_per_second}/s: {per_second}/s stored; p50 {p50_ms} ms, p99 {p99_ms} ms, p99.9 {p99_9_ms} ms, \
             max {max_ms} ms from the time of sending (producer late: p99 {send_delay_p99_ms} ms)"
        )?;
        let mebibytes = self.resident_bytes.unwrap_or_default() >> 20;
        write!(
            f,
            "  {} messages waited at most; ganesh has {mebibytes} MiB; {}",
            self.lag_max_messages, self.cpu_micros
        )
    }
}

fn median(drains: &[Drain]) -> f64 {
    let mut rates: Vec<f64> = drains.iter().map(|drain| drain.per_second).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}

/// To so many parts of one.
fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}
