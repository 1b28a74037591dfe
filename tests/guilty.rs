//! What an operator who looks at the first screen of the dashboard `ganesh` would blame: by the queries
//! and names of its own panels, on a real Prometheus that scrapes a real ganesh while
//! something goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::ganesh::Load;
use crate::support::monitoring::{dashboards, list, panels, word};
use crate::support::prometheus::Prometheus;
use crate::support::proxy::{Manner, Proxy};
use crate::support::servers::send_signal;
use crate::support::{Ganesh, Stack, eventually};

const OLDEST: &str = "ganesh_consumer_oldest_pending_seconds";
const SETTLED: &str = "ganesh_messages_settled_total{outcome=\"stored\"}";
const BAD: &str = "ganesh_messages_settled_total{outcome=\"dead_lettered\"}";
/// The row of the panel.
const CPU: &str = "CPU of ganesh";
/// Dead letters above this share of what comes in are a fault of their own.
const DEAD_LETTERS_MAX: f64 = 0.2;

fn unix_seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// A series as a panel shows it.
#[derive(Debug)]
struct Shown {
    name: String,
    values: Vec<f64>,
}

impl Shown {
    fn max(&self) -> f64 {
        self.values.iter().copied().fold(0.0, f64::max)
    }
}

/// The legend's name of a series: `{{label}}` is the label's value.
fn name_of(format: &str, labels: &Value) -> String {
    let mut name = format.to_owned();
    for (label, value) in labels.as_object().unwrap() {
        name = name.replace(&format!("{{{{{label}}}}}"), word(value));
    }
    name
}

/// What a panel of the dashboard `ganesh` shows of a time.
async fn shown(prometheus: &Prometheus, title: &str, time: (f64, f64)) -> Vec<Shown> {
    let (_, board) = dashboards().swap_remove(1);
    let panel = panels(&board).find(|panel| panel["title"] == title);
    let panel = panel.unwrap_or_else(|| panic!("no panel {title}"));
    let mut all = Vec::new();
    for target in list(&panel["targets"]) {
        let expr = word(&target["expr"]).replace("$__rate_interval", "4s");
        let expr = expr.replace("$__interval", "1s");
        let expr = expr.replace("$job", ".+").replace("$instance", ".+");
        for (labels, values) in prometheus.range(&expr, time).await {
            let name = name_of(word(&target["legendFormat"]), &labels);
            all.push(Shown { name, values });
        }
    }
    all
}

/// Down, or short of something.
fn is_bad(value: f64) -> bool {
    value < 0.5 || (1.5..2.5).contains(&value)
}

/// First what is down, then what is short, then dead letters, then the largest band of the stages at
/// work.
async fn blamed(prometheus: &Prometheus, since: f64) -> String {
    blamed_besides("nobody", prometheus, since).await
}

async fn blamed_besides(known: &str, prometheus: &Prometheus, since: f64) -> String {
    let time = (since, unix_seconds());
    let mut rows = shown(prometheus, "Up or down", time).await;
    rows.retain(|row| row.name != known);
    if let Some(down) = rows.iter().find(|row| row.values.contains(&0.0)) {
        return down.name.clone();
    }
    // Other tests take the processor now and then.
    let is_short = |row: &&Shown| {
        let short = row.values.iter().filter(|value| is_bad(**value));
        3 * short.count() > 2 * row.values.len()
    };
    if let Some(short) = rows.iter().find(is_short) {
        return short.name.clone();
    }
    let rates = shown(prometheus, "In and settled", time).await;
    let most = |name: &str| {
        rates
            .iter()
            .find(|r| r.name == name)
            .map_or(0.0, Shown::max)
    };
    if most("dead letters") > DEAD_LETTERS_MAX * most("in") {
        return "dead letters".to_owned();
    }
    let stages = shown(prometheus, "Mean time by stage", time).await;
    let largest = stages.iter().max_by(|a, b| a.max().total_cmp(&b.max()));
    largest.map_or_else(|| "nothing".to_owned(), |stage| stage.name.clone())
}

/// Waits until Prometheus has what happened until now, and a rate has seen it.
async fn scraped(prometheus: &Prometheus) {
    let now = unix_seconds();
    let later = format!("min(timestamp(up{{job=\"ganesh\"}})) > {now} + 2");
    eventually("Prometheus scraped again", || async {
        prometheus.has_data(&later).await
    })
    .await;
}

/// Waits until so many more messages are stored.
async fn stored(ganesh: &Ganesh, more: f64) {
    let before = ganesh.metric(SETTLED).await;
    ganesh.wait_for_metric(SETTLED, before + more).await;
}

/// A Prometheus that has seen a healthy moment of it.
async fn watched(ganesh: &[&Ganesh]) -> Prometheus {
    let targets: Vec<String> = ganesh.iter().map(|g| g.admin_address()).collect();
    let prometheus = Prometheus::start(&targets.join(",")).await;
    stored(ganesh[0], 500.0).await;
    scraped(&prometheus).await;
    eventually("nothing is down", || async {
        let now = unix_seconds();
        let rows = shown(&prometheus, "Up or down", (now, now)).await;
        !rows.iter().any(|row| row.values.contains(&0.0))
    })
    .await;
    prometheus
}

/// A fault, and what is blamed for it. Where other programs keep ganesh from the processor, that verdict is right,
/// too: then it is asked who else is to blame.
async fn assert_blamed(prometheus: &Prometheus, expected: &str, fault: impl AsyncFnOnce()) {
    let since = unix_seconds();
    fault().await;
    scraped(prometheus).await;
    let mut verdict = blamed(prometheus, since).await;
    if verdict == CPU && machine_is_busy() {
        verdict = blamed_besides(CPU, prometheus, since).await;
    }
    assert_eq!(verdict, expected);
}

/// On average over the last minute more could run than there are cores.
fn machine_is_busy() -> bool {
    let average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let average = average.split(' ').next().and_then(|one| one.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[allow(clippy::cast_precision_loss, reason = "some cores")]
    average.is_some_and(|average: f64| average > cores as f64)
}

#[tokio::test]
async fn a_locked_table_is_blamed_on_the_stage_store() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh]).await;
    assert_blamed(&prometheus, "store", async || {
        let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
        ganesh.wait_for_metric(OLDEST, 2.0).await;
        lock.rollback().await.unwrap();
        stored(&ganesh, 600.0).await;
    })
    .await;
}

#[tokio::test]
async fn a_slow_cache_is_blamed_on_the_stage_cache() {
    let stack = Stack::start().await;
    let proxy = Proxy::start(stack.cache.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let ganesh = stack.serve(&[("REDIS_URL", &url)]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh]).await;
    proxy.behave(Manner::Delay(Duration::from_millis(150)));
    let more = async || stored(&ganesh, 1_500.0).await;
    assert_blamed(&prometheus, "cache", more).await;
}

#[tokio::test]
async fn a_stopped_cache_is_blamed_on_the_cache() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh]).await;
    stack.cache.pause();
    let more = async || stored(&ganesh, 1_500.0).await;
    assert_blamed(&prometheus, "cache", more).await;
    stack.cache.resume();
}

/// Lets a process run for a tenth of the time, as a limit on its CPU does, until it is dropped.
struct Starved(u32, Arc<AtomicBool>);

impl Starved {
    fn of(pid: u32) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                send_signal(pid, Signal::STOP);
                std::thread::sleep(Duration::from_millis(45));
                send_signal(pid, Signal::CONT);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self(pid, ended)
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
        send_signal(self.0, Signal::CONT);
    }
}

#[tokio::test]
async fn a_starved_process_is_blamed_on_its_cpu() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let _load = Load::start(&stack, &["--rate", "3000"]);
    let prometheus = watched(&[&ganesh]).await;
    its_cpu_is_not_blamed_yet(&prometheus).await;
    let starved = Starved::of(ganesh.pid());
    its_cpu_is_blamed(&prometheus).await;
    drop(starved);
}

async fn its_cpu_is_not_blamed_yet(prometheus: &Prometheus) {
    let verdict = blamed(prometheus, unix_seconds() - 5.0).await;
    assert!(verdict != CPU || machine_is_busy());
}

/// Waits until an operator who looks at the last seconds blames that.
async fn its_cpu_is_blamed(prometheus: &Prometheus) {
    eventually("CPU of ganesh is blamed", || async {
        blamed(prometheus, unix_seconds() - 5.0).await == CPU
    })
    .await;
}

/// A program that uses up the one core which it leaves to a process, until it is dropped. The process
/// can run nearly all the time, and does not.
#[cfg(target_os = "linux")]
struct Neighbour(std::process::Child);

#[cfg(target_os = "linux")]
impl Neighbour {
    fn of(pid: u32) -> Self {
        let run = |arguments: &[&str]| {
            let mut command = std::process::Command::new(arguments[0]);
            command.args(&arguments[1..]);
            command.stdout(std::process::Stdio::null());
            command
        };
        let busy = "while :; do :; done";
        let neighbour = run(&["taskset", "-c", "0", "sh", "-c", busy]).spawn();
        let neighbour = Self(neighbour.unwrap());
        let on_its_core = ["taskset", "-a", "-c", "-p", "0", &pid.to_string()];
        assert!(run(&on_its_core).status().unwrap().success());
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let thread = thread.unwrap().file_name().into_string().unwrap();
            // Every thread by itself.
            assert!(
                run(&["renice", "-n", "15", "-p", &thread])
                    .status()
                    .unwrap()
                    .success()
            );
        }
        neighbour
    }
}

#[cfg(target_os = "linux")]
impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Such a process is not busy: it sleeps, or waits for a processor.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_waits_for_a_processor_is_blamed_on_its_cpu() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh]).await;
    its_cpu_is_not_blamed_yet(&prometheus).await;
    let neighbour = Neighbour::of(ganesh.pid());
    its_cpu_is_blamed(&prometheus).await;
    drop(neighbour);
}

#[tokio::test]
async fn a_flood_of_bad_messages_is_blamed_on_them() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh]).await;
    let _flood = Load::start(&stack, &["--rate", "300", "--invalid", "100"]);
    assert_blamed(&prometheus, "dead letters", async || {
        let before = ganesh.metric(BAD).await;
        ganesh.wait_for_metric(BAD, before + 1_000.0).await;
    })
    .await;
}

#[tokio::test]
async fn a_stuck_replica_is_blamed_by_its_name() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let hung = stack.serve(&[]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh, &hung]).await;
    let since = unix_seconds();
    send_signal(hung.pid(), Signal::STOP);
    ganesh.wait_for_metric(OLDEST, 5.0).await;
    let expected = format!("replica {}", hung.admin_address());
    assert_eq!(blamed(&prometheus, since).await, expected);
}

#[tokio::test]
async fn the_bars_of_dead_letters_add_up_to_the_letters_of_the_stream() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let prometheus = Prometheus::start(&ganesh.admin_address()).await;
    scraped(&prometheus).await;
    let since = unix_seconds();
    let flood = Load::start(&stack, &["--rate", "300", "--invalid", "50"]);
    ganesh.wait_for_metric(BAD, 300.0).await;
    drop(flood);
    stack.wait_until_drained().await;
    scraped(&prometheus).await;
    let bars = shown(&prometheus, "Dead letters", (since, unix_seconds())).await;
    let sum: f64 = bars.iter().flat_map(|reason| &reason.values).sum();
    #[allow(clippy::cast_precision_loss, reason = "hundreds")]
    let letters = stack.dead_letters().await as f64;
    assert!((sum - letters).abs() < 0.5, "{sum} of {letters}");
}
