//! A model of ganesh under load: what comes in, what its replicas store, and the metrics that they export.

use super::RATE;

/// How long a new replica takes until it stores.
const START_SECS: u32 = 20;
/// The most that a replica holds (`GANESH_MAX_IN_FLIGHT`).
const HELD_MAX: f64 = 16_384.0;

/// What happens, by the second.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) minutes: u32,
    /// Messages a second.
    pub(super) inflow: fn(u32) -> f64,
    /// Whether Postgres is up.
    pub(super) is_stored: fn(u32) -> bool,
    pub(super) is_scraped: fn(u32) -> bool,
    /// What Postgres takes in a second, from all replicas.
    pub(super) ceiling: f64,
}

struct Replica {
    name: String,
    stores_from: u32,
    settled: f64,
}

pub(super) struct Cluster {
    replicas: Vec<Replica>,
    /// Gone since the last scrape: Prometheus notes that their series ended.
    gone: Vec<Replica>,
    made: usize,
    backlog: f64,
    is_stored: bool,
    random: u64,
}

/// One sample, with its labels.
pub(super) type Sample = (Vec<(&'static str, String)>, f64);

impl Cluster {
    pub(super) fn new(replicas: usize) -> Self {
        let mut cluster = Self {
            replicas: Vec::new(),
            gone: Vec::new(),
            made: 0,
            backlog: 0.0,
            is_stored: true,
            random: 7,
        };
        cluster.scale_from(replicas, 0);
        cluster
    }

    pub(super) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    pub(super) fn backlog(&self) -> f64 {
        self.backlog
    }

    /// Starts replicas, or stops the newest.
    pub(super) fn scale(&mut self, replicas: usize, at_secs: u32) {
        self.scale_from(replicas, at_secs + START_SECS);
    }

    fn scale_from(&mut self, replicas: usize, stores_from: u32) {
        while self.replicas.len() < replicas {
            self.made += 1;
            let name = format!("ganesh-{}", self.made);
            self.replicas.push(Replica {
                name,
                stores_from,
                settled: 0.0,
            });
        }
        self.gone.extend(self.replicas.split_off(replicas));
    }

    /// From -1 to 1, the same in each run.
    fn noise(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.random >> 33).unwrap()) / f64::from(1_u32 << 30) - 1.0
    }

    pub(super) fn run_for_a_second(&mut self, load: &Load, at_secs: u32) {
        self.backlog += (load.inflow)(at_secs) * (1.0 + 0.05 * self.noise());
        self.is_stored = (load.is_stored)(at_secs);
        let mut at_work: Vec<_> = self
            .replicas
            .iter_mut()
            .filter(|one| one.stores_from <= at_secs)
            .collect();
        if !self.is_stored || at_work.is_empty() {
            return;
        }
        let share = 1.0 / f64::from(u32::try_from(at_work.len()).unwrap());
        let stored = self.backlog.min(RATE / share).min(load.ceiling);
        for replica in &mut at_work {
            replica.settled += stored * share;
        }
        self.backlog -= stored;
    }

    /// What a scrape of all replicas brings.
    pub(super) fn series(&mut self) -> Vec<Sample> {
        let all = f64::from(u32::try_from(self.replicas.len()).unwrap());
        let held = self.backlog.min(all * HELD_MAX);
        let up = f64::from(u8::from(self.is_stored));
        let values = |settled: f64| {
            [
                (
                    "ganesh_messages_settled_total",
                    Some(("outcome", "stored")),
                    settled,
                ),
                (
                    "ganesh_messages_settled_total",
                    Some(("outcome", "released")),
                    0.0,
                ),
                (
                    "ganesh_consumer_pending_messages",
                    None,
                    self.backlog - held,
                ),
                ("ganesh_consumer_ack_pending_messages", None, held),
                ("ganesh_dependency_up", Some(("dependency", "postgres")), up),
                ("ganesh_dependency_up", Some(("dependency", "nats")), 1.0),
                ("ganesh_dependency_up", Some(("dependency", "cache")), 0.0),
                ("ganesh_rejection_pause", None, 0.0),
            ]
        };
        // The bits by which Prometheus knows the end of a series.
        let stale = f64::from_bits(0x7ff0_0000_0000_0002);
        let mut samples = Vec::new();
        let living = self.replicas.iter().map(|replica| (replica, false));
        let gone = self.gone.iter().map(|replica| (replica, true));
        for (replica, is_gone) in living.chain(gone) {
            for (metric, label, value) in values(replica.settled) {
                let mut labels = vec![
                    ("__name__", metric.to_owned()),
                    ("instance", replica.name.clone()),
                    ("job", "ganesh".to_owned()),
                    ("namespace", "ganesh".to_owned()),
                ];
                labels.extend(label.map(|(name, value)| (name, value.to_owned())));
                labels.sort();
                samples.push((labels, if is_gone { stale } else { value }));
            }
        }
        self.gone.clear();
        samples
    }
}
