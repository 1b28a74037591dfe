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

/// First what is not green, then dead letters, then the largest band of the stages at work.
async fn blamed(prometheus: &Prometheus, since: f64) -> String {
    let time = (since, unix_seconds());
    let rows = shown(prometheus, "Up or down", time).await;
    if let Some(bad) = rows
        .iter()
        .find(|row| row.values.iter().any(|value| is_bad(*value)))
    {
        return bad.name.clone();
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
    largest.expect("messages are settled").name.clone()
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
    eventually("all is green", || async {
        let now = unix_seconds();
        let rows = shown(&prometheus, "Up or down", (now, now)).await;
        !rows
            .iter()
            .flat_map(|row| &row.values)
            .any(|value| is_bad(*value))
    })
    .await;
    prometheus
}

#[tokio::test]
async fn a_locked_table_is_blamed_on_the_stage_store() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh]).await;
    let since = unix_seconds();
    let lock = stack.lock("events", "ACCESS EXCLUSIVE").await;
    ganesh.wait_for_metric(OLDEST, 2.0).await;
    lock.rollback().await.unwrap();
    stored(&ganesh, 600.0).await;
    scraped(&prometheus).await;
    assert_eq!(blamed(&prometheus, since).await, "store");
}

#[tokio::test]
async fn a_slow_cache_is_blamed_on_the_stage_cache() {
    let stack = Stack::start().await;
    let proxy = Proxy::start(stack.cache.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let ganesh = stack.serve(&[("REDIS_URL", &url)]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh]).await;
    let since = unix_seconds();
    proxy.behave(Manner::Delay(Duration::from_millis(150)));
    stored(&ganesh, 1_500.0).await;
    scraped(&prometheus).await;
    assert_eq!(blamed(&prometheus, since).await, "cache");
}

#[tokio::test]
async fn a_stopped_cache_is_blamed_on_the_cache() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh]).await;
    let since = unix_seconds();
    stack.cache.pause();
    stored(&ganesh, 1_500.0).await;
    scraped(&prometheus).await;
    assert_eq!(blamed(&prometheus, since).await, "cache");
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
    let mut verdicts = Vec::new();
    // Other tests starve everybody now and then, so one clear verdict of three is enough.
    for _ in 0..3 {
        let since = unix_seconds();
        let starved = Starved::of(ganesh.pid());
        ganesh.wait_for_metric(OLDEST, 8.0).await;
        scraped(&prometheus).await;
        verdicts.push(blamed(&prometheus, since).await);
        drop(starved);
        if verdicts.last().is_some_and(|last| last == "CPU of ganesh") {
            return;
        }
        eventually("it has caught up", || async {
            ganesh.metric(OLDEST).await < 1.0
        })
        .await;
    }
    panic!("blamed: {verdicts:?}");
}

#[tokio::test]
async fn a_flood_of_bad_messages_is_blamed_on_them() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let _load = Load::start(&stack, &["--rate", "300"]);
    let prometheus = watched(&[&ganesh]).await;
    let since = unix_seconds();
    let _flood = Load::start(&stack, &["--rate", "300", "--invalid", "100"]);
    let bad = "ganesh_messages_settled_total{outcome=\"dead_lettered\"}";
    ganesh.wait_for_metric(bad, 1_000.0).await;
    scraped(&prometheus).await;
    assert_eq!(blamed(&prometheus, since).await, "dead letters");
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
    let bad = "ganesh_messages_settled_total{outcome=\"dead_lettered\"}";
    ganesh.wait_for_metric(bad, 300.0).await;
    drop(flood);
    stack.wait_until_drained().await;
    scraped(&prometheus).await;
    let bars = shown(&prometheus, "Dead letters", (since, unix_seconds())).await;
    let sum: f64 = bars.iter().flat_map(|reason| &reason.values).sum();
    #[allow(clippy::cast_precision_loss, reason = "hundreds")]
    let letters = stack.dead_letters().await as f64;
    assert!((sum - letters).abs() < 0.5, "{sum} of {letters}");
}
