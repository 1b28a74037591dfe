//! P1 to P6 and P10 under a random schedule of faults: two `serve`, a producer, reads, all
//! servers, and at the end every message that the stream holds is one row or one dead letter.
//!
//! `make chaos MINUTES=30 SEED=7`, with some kinds of faults only `FAULTS='OperatorAtWork NatsKilled'`; a
//! short run is among the tests.

mod cache;
mod constraints;
mod nats;
mod neighbours;
mod operator;
mod pooler;
mod postgres;
mod reads;
mod replicas;
mod scene;
mod schedule;
mod special;
mod verify;

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use self::reads::Reader;
use self::scene::Scene;
use self::schedule::{Fault, REPLICAS, Step, steps};
use self::verify::{Checked, Sent};
use crate::support::ganesh::command;
use crate::support::servers::send_signal;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The schedule follows from it.
    pub seed: u64,
    /// How long faults happen.
    pub lasts: Duration,
    /// Messages a second.
    pub rate: u32,
}

impl Plan {
    /// Every other seed has a cluster of three NATS servers instead of one.
    fn has_cluster(&self) -> bool {
        self.seed % 2 == 1
    }
}

/// What was seen.
#[derive(Debug)]
pub struct Report {
    /// How often each fault happened.
    pub faults: BTreeMap<String, u32>,
    /// What was compared at the end.
    pub checked: Checked,
    /// Deliveries that were not the first of their message, at least: a process that is killed, or at
    /// whose message the client panics, takes its last ones with it.
    pub redelivered: f64,
    /// From the end of a fault until nothing waited any more: the longest, and after what.
    pub longest_recovery: (Duration, Option<Fault>),
    /// Reads that were compared with what had been acknowledged.
    pub reads: usize,
}

/// The producer. It ends with the run, however that ends.
struct Producer(Child);

impl Drop for Producer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the plan, with faults of these kinds only, unless there are none.
///
/// # Panics
/// When a promise does not hold.
pub async fn run(plan: Plan, kinds: &[String]) -> Report {
    let mut scene = Scene::start(plan.has_cluster(), plan.rate).await;
    let mut producer = produce(&scene, plan);
    let stop = CancellationToken::new();
    let special = tokio::spawn(special::publish_some(scene.jetstream().await, stop.clone()));
    let reader = Reader {
        apis: (0..REPLICAS).map(|replica| scene.api(replica)).collect(),
        jetstream: scene.jetstream().await,
        pool: scene.stack.pool.clone(),
    };
    let reads = tokio::spawn(reader.run(stop.clone()));
    let began = Instant::now();
    let mut faults = BTreeMap::new();
    let mut longest_recovery = (Duration::ZERO, None);
    for kind in kinds {
        let mut known = steps(plan.seed).take(10_000);
        let is_known = known.any(|step| kind_of(step.fault) == *kind);
        assert!(
            is_known,
            "FAULTS: {kind} is none of tests/chaos/schedule.rs"
        );
    }
    let is_chosen = |step: &Step| kinds.is_empty() || kinds.contains(&kind_of(step.fault));
    for step in steps(plan.seed).filter(is_chosen) {
        if began.elapsed() + step.after > plan.lasts {
            break;
        }
        tokio::time::sleep(step.after).await;
        println!(
            "{:>8.1} s  {:?} for {:?}",
            began.elapsed().as_secs_f64(),
            step.fault,
            step.lasts
        );
        scene.strike(step).await;
        let recovery = (scene.recover().await, Some(step.fault));
        longest_recovery = longest_recovery.max(recovery);
        *faults.entry(kind_of(step.fault)).or_default() += 1;
    }
    stop.cancel();
    let special = special.await.unwrap();
    let reads = reads.await.unwrap();
    assert!(reads > 0, "no read was compared");
    let sent = finish(&mut producer);
    scene.wait_until_drained().await;
    // P5 speaks of reads that start a second after an acknowledgement.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let redelivered = scene.redelivered().await;
    Report {
        faults,
        checked: verify::verify(&scene, sent + special + scene.sent).await,
        redelivered,
        longest_recovery,
        reads,
    }
}

/// Its name without what it happens to.
fn kind_of(fault: Fault) -> String {
    let name = format!("{fault:?}");
    name.split('(').next().unwrap_or_default().to_owned()
}

fn produce(scene: &Scene, plan: Plan) -> Producer {
    let (rate, seed) = (plan.rate.to_string(), plan.seed.to_string());
    let subjects = reads::SUBJECTS.to_string();
    let arguments = [
        "produce",
        "--rate",
        &rate,
        "--seed",
        &seed,
        "--subject-count",
        &subjects,
        "--duplicates",
        "1",
        "--invalid",
        "0.1",
        "--json",
    ];
    let nats = scene.nats_urls();
    let child = command(Some(&scene.stack), &arguments, &[("NATS_URL", &nats)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Producer(child)
}

/// Ends the producer; what it sent by its own count.
fn finish(Producer(producer): &mut Producer) -> Sent {
    send_signal(producer.id(), Signal::TERM);
    let output = std::io::read_to_string(producer.stdout.take().unwrap()).unwrap();
    let status = producer.wait().unwrap();
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert!(status.success(), "{status}: {report}");
    let count = |name: &str| report[name].as_u64().unwrap();
    let (messages, invalid) = (count("published"), count("invalid_sent"));
    Sent {
        messages: [count("acknowledged"), messages],
        rows: [
            count("distinct_events"),
            messages - invalid - count("duplicates_sent"),
        ],
        letters: [0, invalid],
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Checked {
            messages,
            rows,
            deleted,
            letters,
        } = self.checked;
        writeln!(f, "faults      {:?}", self.faults)?;
        writeln!(
            f,
            "messages    {messages}: {rows} rows, {deleted} deleted ones, {letters} dead letters, each as \
             it must be"
        )?;
        writeln!(f, "redelivered {}", self.redelivered)?;
        writeln!(f, "reads       {}, none stale", self.reads)?;
        let (longest, after) = self.longest_recovery;
        write!(
            f,
            "recovery    at most {:.1} s, after {after:?}",
            longest.as_secs_f64()
        )
    }
}

/// Enough for each thing to happen, few enough for every run of the tests.
const SHORT: Plan = Plan {
    seed: 199_577,
    lasts: Duration::from_secs(20),
    rate: 300,
};

#[tokio::test]
async fn under_a_random_schedule_of_faults_every_message_is_one_row_or_one_letter() {
    println!("{}", run(SHORT, &[]).await);
}

#[tokio::test]
#[ignore = "as long as one likes: make chaos MINUTES=30 SEED=7 RATE=2000"]
async fn under_faults_for_as_long_as_one_likes_every_message_is_one_row_or_one_letter() {
    fn setting<T: std::str::FromStr>(variable: &str, default: T) -> T {
        let Ok(text) = std::env::var(variable) else {
            return default;
        };
        let value = text.parse();
        value.unwrap_or_else(|_| panic!("{variable}={text:?}: expected a number"))
    }
    let minutes: f64 = setting("MINUTES", 1.0);
    let plan = Plan {
        seed: setting("SEED", rand::random()),
        lasts: Duration::from_secs_f64(minutes * 60.0),
        rate: setting("RATE", 2_000),
    };
    let kinds: String = setting("FAULTS", String::new());
    let kinds: Vec<String> = kinds.split_whitespace().map(str::to_owned).collect();
    println!("{plan:?} {kinds:?}");
    println!("{}", run(plan, &kinds).await);
}
