//! Drains of a full stream, and what one costs over another.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;

use crate::support::{Ganesh, Stack, ganesh as command};

/// One drain of the stream.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub messages_per_second: f64,
    pub cpu_micros_per_message: f64,
}

/// What a run costs, relative to another one. Below zero it was the cheaper one.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub throughput: f64,
    pub cpu: f64,
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
    /// What this one costs over the other.
    pub fn cost_over(self, other: Self) -> Cost {
        Cost {
            throughput: 1.0 - self.messages_per_second / other.messages_per_second,
            cpu: self.cpu_micros_per_message / other.cpu_micros_per_message - 1.0,
        }
    }
}

/// The median cost, and by how much two equal runs differ.
pub fn compare(
    name: &str,
    costs: &[Cost],
    controls: &[Cost],
    of: impl Fn(&Cost) -> f64,
) -> (f64, f64) {
    let cost = median(costs.iter().map(&of));
    let spread = median(controls.iter().map(|control| of(control).abs()));
    println!(
        "  {name}: {:.1} %; two equal runs differ by {:.1} % (medians)",
        cost * 100.0,
        spread * 100.0
    );
    (cost, spread)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Runs `ganesh produce` to its end.
pub fn produce(stack: &Stack, arguments: &[&str]) {
    let status = command::command(Some(stack), &[&["produce"], arguments].concat(), &[])
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

/// Drains the whole stream into an empty table, scraped every second where there is something to
/// scrape; so many messages become rows.
pub async fn drain(stack: &Stack, settings: &[(&str, &str)], messages: u64, rows: u64) -> Run {
    drain_beside(stack, settings, (messages, rows), |_| ()).await
}

/// The same beside what begins with the process and is dropped when nothing is left to drain.
pub async fn drain_beside<T>(
    stack: &Stack,
    settings: &[(&str, &str)],
    (messages, rows): (u64, u64),
    beside: impl FnOnce(&Ganesh) -> T,
) -> Run {
    let stream = start_over(stack).await;
    let ganesh = stack.serve(settings).await;
    let beside = beside(&ganesh);
    let scraping = tokio::spawn(scrape(ganesh.admin_url("/metrics")));
    let (began, cpu, waiting) = loop {
        let waiting = stack.backlog_of(&stream).await;
        if waiting < messages {
            break (Instant::now(), cpu_seconds(&[ganesh.pid()]), waiting);
        }
    };
    wait_until_empty(stack, &stream).await;
    let (took, cpu) = (began.elapsed(), cpu_seconds(&[ganesh.pid()]) - cpu);
    scraping.abort();
    drop(beside);
    assert!(ganesh.terminate().await.success());
    assert_eq!(stack.rows().await, i64::try_from(rows).unwrap());
    Run {
        messages_per_second: waiting as f64 / took.as_secs_f64(),
        cpu_micros_per_message: cpu * 1e6 / waiting as f64,
    }
}

/// Empties the table, and lets the stream be read from its start.
pub async fn start_over(stack: &Stack) -> Stream {
    sqlx::query("TRUNCATE events")
        .execute(&stack.pool)
        .await
        .unwrap();
    let jetstream = stack.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    let _ = stream.delete_consumer("ganesh").await;
    stream
}

/// Waits until every message of the stream is acknowledged. How long that took.
pub async fn wait_until_empty(stack: &Stack, stream: &Stream) -> Duration {
    let began = Instant::now();
    while stack.backlog_of(stream).await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

/// Scrapes every second.
pub async fn scrape(url: String) {
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

/// User and system time that processes have taken, and children of theirs that have ended.
pub fn cpu_seconds(processes: &[u32]) -> f64 {
    let ticks: f64 = processes.iter().map(|pid| cpu_ticks(*pid)).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

fn cpu_ticks(pid: u32) -> f64 {
    // One that ends meanwhile counts as its parent's.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    // The 14th to the 17th field of the whole line, of which two stand before the bracket.
    let times = fields.split(' ').skip(11).take(4);
    times.map(|ticks| ticks.parse::<f64>().unwrap()).sum()
}
