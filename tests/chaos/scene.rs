//! The stack that faults happen to: two `serve`, their servers, and what undoes a fault.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use tempfile::TempDir;

use super::neighbours::Neighbours;
use super::operator::Operated;
use super::schedule::{Fault, Link, REPLICAS, Replica, Step, Trouble};
use super::verify::Sent;
use super::{cache, constraints, nats, neighbours, operator, pooler, postgres, replicas};
use crate::support::clock::Clock;
use crate::support::cluster::Cluster;
use crate::support::deliveries::Deliveries;
use crate::support::proxy::{Manner, Proxy, Way};
use crate::support::servers::{Server, free_port};
use crate::support::{Ganesh, Stack};

/// Short, so that a run sees many redeliveries: what a killed process held comes back after this.
const ACK_WAIT: &str = "4s";
/// A backlog of less is no backlog.
const SETTLED_MAX_MESSAGES: u64 = 200;
/// After a fault is undone. The slowest way back: a pause that ends with its third or fourth probe.
pub const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// How much the producer sends in so long may wait while the cache answers late.
const LATE_CACHE_LAG_MAX_SECS: u64 = 2;
/// Of a cluster's stream: more than half an hour makes.
const STREAM_MAX_BYTES: i64 = 3 << 30;

/// The stack.
pub struct Scene {
    /// Servers.
    pub stack: Stack,
    /// NATS, where it is more than one server; the stack's own is off then.
    pub cluster: Option<Cluster>,
    /// Between the replicas and each server of NATS.
    nats: Vec<Proxy>,
    /// Counted by them.
    pub deliveries: Arc<Deliveries>,
    /// Between each replica and Postgres, or the pooler.
    postgres: Vec<Proxy>,
    /// Between one of them and Postgres.
    pooler: Server,
    /// Between them and the cache.
    cache: [Proxy; 1],
    /// Of all replicas.
    pub clock: Clock,
    replicas: Vec<Option<Ganesh>>,
    api_ports: Vec<u16>,
    /// Where each replica has its `app.log`.
    pub logs: Vec<TempDir>,
    /// Messages that the producer sends a second.
    pub rate: u32,
    /// Rows that faults made, beside the messages.
    pub fillers: i64,
    /// Redeliveries that replicas counted which are gone.
    redelivered_before: f64,
    /// What faults published.
    pub sent: Sent,
    /// Of that, by stream sequence, what no client can read.
    pub unreadable: Vec<u64>,
    /// Constraints that were added.
    pub constraints: usize,
    /// What an operator did.
    pub operated: Operated,
    /// Others in the account of NATS.
    pub neighbours: Neighbours,
}

impl Scene {
    /// Everything runs and is ready.
    pub async fn start(has_cluster: bool, rate: u32) -> Self {
        let mut stack = Stack::start_with_own_postgres().await;
        let cluster = if has_cluster {
            stack.nats.terminate();
            let cluster = Cluster::start().await;
            cluster.make_streams(STREAM_MAX_BYTES).await;
            Some(cluster)
        } else {
            None
        };
        let nats = nats_servers(&stack, cluster.as_ref()).iter();
        let deliveries = Arc::new(Deliveries::default());
        let nats = nats.map(|server| Proxy::counting(server.port(), deliveries.clone()));
        let nats = futures::future::join_all(nats).await;
        let port = stack.postgres.as_ref().expect("it is the run's own").port();
        postgres::make_role(&stack).await;
        let pooler = pooler::start(port);
        let mut postgres = Vec::new();
        for replica in 0..REPLICAS {
            let is_pooled = replica == pooler::REPLICA;
            let port = if is_pooled { pooler.port() } else { port };
            postgres.push(Proxy::forgetful(port).await);
        }
        let mut scene = Self {
            nats,
            deliveries,
            postgres,
            pooler,
            cache: [Proxy::forgetful(stack.cache.port()).await],
            stack,
            cluster,
            clock: Clock::build(),
            replicas: (0..REPLICAS).map(|_| None).collect(),
            api_ports: (0..REPLICAS).map(|_| free_port()).collect(),
            logs: (0..REPLICAS)
                .map(|_| tempfile::tempdir().expect("the temporary folder is writable"))
                .collect(),
            rate,
            fillers: 0,
            redelivered_before: 0.0,
            sent: Sent::default(),
            unreadable: Vec::new(),
            constraints: 0,
            operated: Operated::default(),
            neighbours: Neighbours::default(),
        };
        for replica in 0..REPLICAS {
            scene.start_replica(replica);
            scene.replica(replica).wait_until_ready().await;
        }
        neighbours::begin(&mut scene).await;
        scene
    }

    /// Where a replica answers, whichever process it is at the moment.
    pub fn api(&self, replica: Replica) -> String {
        format!("http://127.0.0.1:{}", self.api_ports[replica])
    }

    /// Where NATS is, without a proxy.
    pub fn nats_urls(&self) -> String {
        match &self.cluster {
            Some(cluster) => cluster.urls(),
            None => self.stack.nats_url(),
        }
    }

    /// The servers of NATS.
    pub fn nats_servers(&self) -> &[Server] {
        nats_servers(&self.stack, self.cluster.as_ref())
    }

    /// A client of the test's own.
    pub async fn jetstream(&self) -> Context {
        match &self.cluster {
            Some(cluster) => cluster.jetstream().await,
            None => self.stack.jetstream().await,
        }
    }

    /// Starts it, or another process in its place.
    pub fn start_replica(&mut self, replica: Replica) {
        let address = format!("127.0.0.1:{}", self.api_ports[replica]);
        let nats = self.nats.iter();
        let nats = nats.map(|proxy| format!("nats://127.0.0.1:{}", proxy.port));
        let nats = nats.collect::<Vec<_>>().join(",");
        let cache = format!("redis://127.0.0.1:{}", self.cache[0].port);
        let postgres = postgres::url(self.postgres[replica].port);
        let logs = self.logs[replica].path().to_str().expect("it is ASCII");
        let settings = [
            ("NATS_URL", nats.as_str()),
            ("POSTGRES_URL", postgres.as_str()),
            ("REDIS_URL", cache.as_str()),
            ("GANESH_HTTP_ADDR", address.as_str()),
            ("GANESH_LOG_DIR", logs),
            ("GANESH_ACK_WAIT", ACK_WAIT),
            ("GANESH_MAX_IN_FLIGHT", "4096"),
            ("GANESH_STARTUP_TIMEOUT", "1h"),
        ];
        let settings = [settings.as_slice(), &self.clock.settings()].concat();
        self.replicas[replica] = Some(Ganesh::serve(&self.stack, &settings));
    }

    /// It.
    pub fn replica(&self, replica: Replica) -> &Ganesh {
        self.replicas[replica].as_ref().expect("it was started")
    }

    /// Takes its process, so that another one can be started.
    pub async fn take_replica(&mut self, replica: Replica) -> Ganesh {
        self.redelivered_before += redelivered(self.replica(replica)).await;
        self.replicas[replica].take().expect("it was started")
    }

    /// What is between the replicas and that server, or those.
    pub fn proxies(&self, link: Link) -> &[Proxy] {
        match link {
            Link::Nats => &self.nats,
            Link::Postgres => &self.postgres,
            Link::Cache => &self.cache,
        }
    }

    /// Does what the step says, and undoes it.
    pub async fn strike(&mut self, step: Step) {
        let (fault, lasts) = (step.fault, step.lasts);
        match fault {
            Fault::ServeKilled(_)
            | Fault::ServeTerminated(_)
            | Fault::ServePaused(_)
            | Fault::ServeWithoutFiles(_)
            | Fault::LogDiskFull(_)
            | Fault::ClocksStepped
            | Fault::PermissionRevoked
            | Fault::PartitionGone(_) => replicas::strike(self, fault, lasts).await,
            Fault::NatsKilled(_)
            | Fault::NatsTerminated(_)
            | Fault::NatsPaused(_)
            | Fault::LeaderMoved(_)
            | Fault::ConsumerDeleted
            | Fault::SlowConsumer
            | Fault::Unreadable
            | Fault::TooManyRefused => nats::strike(self, fault, lasts).await,
            Fault::ConstraintAdded => constraints::strike(self, lasts).await,
            Fault::OperatorAtWork => operator::strike(self, lasts).await,
            Fault::NeighbourMovesIn => neighbours::strike(self).await,
            Fault::PoolerKilled | Fault::PoolerPaused => {
                pooler::strike(&mut self.pooler, fault, lasts).await;
            }
            Fault::CacheLate => self.answer_late(lasts).await,
            Fault::Network(link, trouble) => {
                trouble_network(self.proxies(link), trouble, lasts).await;
            }
            Fault::CacheKilled
            | Fault::CachePaused
            | Fault::CacheFlushed
            | Fault::CacheFull
            | Fault::CacheEvicting
            | Fault::CacheReplica
            | Fault::CacheForeign => cache::strike(&mut self.stack.cache, fault, lasts).await,
            Fault::PostgresCrashed
            | Fault::PostgresPaused
            | Fault::ConnectionsKilled
            | Fault::EventsLocked
            | Fault::PartitionLocked
            | Fault::PostgresReadOnly
            | Fault::PostgresFull
            | Fault::ConnectionsTaken => postgres::strike(&mut self.stack, fault, lasts).await,
        }
    }

    /// The cache answers late, which holds nobody up.
    async fn answer_late(&self, lasts: Duration) {
        let [cache] = &self.cache;
        let millis = 50 + lasts.as_millis() % 151;
        let delay = Duration::from_millis(u64::try_from(millis).expect("it is small"));
        cache.behave_one_way(Way::ToClient, Manner::Delay(delay));
        tokio::time::sleep(lasts * 2).await;
        let waiting = self.backlog().await;
        cache.behave(Manner::Pass);
        let most = SETTLED_MAX_MESSAGES + u64::from(self.rate) * LATE_CACHE_LAG_MAX_SECS;
        assert!(
            waiting.is_none_or(|waiting| waiting < most),
            "{waiting:?} messages wait for a cache that answers {delay:?} late"
        );
    }

    /// Whether a replica says that too many rows are refused.
    pub async fn is_paused(&self) -> bool {
        let asked = self.replicas.iter().flatten();
        let asked = asked.map(|replica| series(replica, "ganesh_rejection_pause"));
        futures::future::join_all(asked).await.contains(&Some(1.0))
    }

    /// How long it took until nothing waits any more.
    pub async fn recover(&mut self) -> Duration {
        let began = Instant::now();
        loop {
            self.assert_replicas_run();
            let waiting = self.backlog().await;
            // A replica that pauses leaves what comes to the other one.
            if waiting.is_some_and(|waiting| waiting < SETTLED_MAX_MESSAGES)
                && !self.is_paused().await
            {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < RECOVERY_MAX,
                "no recovery: {:?}",
                self.backlog().await
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// None while the server does not answer.
    async fn backlog(&self) -> Option<u64> {
        let ask = async {
            let stream = self.jetstream().await.get_stream("EVENTS").await.ok()?;
            let info = stream.consumer_info("ganesh").await.ok()?;
            Some(info.num_pending + info.num_ack_pending as u64)
        };
        tokio::time::timeout(Duration::from_secs(2), ask)
            .await
            .ok()?
    }

    fn assert_replicas_run(&mut self) {
        for replica in self.replicas.iter_mut().flatten() {
            let ended = replica.ended();
            assert!(
                ended.is_none(),
                "it ended by itself: {ended:?}\n{}",
                replica.log()
            );
        }
    }

    /// Until nothing at all waits.
    pub async fn wait_until_drained(&self) {
        let began = Instant::now();
        while self.backlog().await != Some(0) {
            assert!(began.elapsed() < RECOVERY_MAX, "a backlog stays");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for replica in 0..REPLICAS {
            self.replica(replica).wait_until_ready().await;
        }
    }

    /// Deliveries that were not the first of their message.
    pub async fn redelivered(&self) -> f64 {
        let mut sum = self.redelivered_before;
        for replica in self.replicas.iter().flatten() {
            sum += redelivered(replica).await;
        }
        sum
    }
}

fn nats_servers<'a>(stack: &'a Stack, cluster: Option<&'a Cluster>) -> &'a [Server] {
    match cluster {
        Some(cluster) => &cluster.servers,
        None => std::slice::from_ref(&stack.nats),
    }
}

async fn trouble_network(proxies: &[Proxy], trouble: Trouble, lasts: Duration) {
    let behave = |manner| {
        for proxy in proxies {
            proxy.behave(manner);
        }
    };
    match trouble {
        Trouble::Cut => proxies.iter().for_each(Proxy::cut),
        Trouble::HalfClosed => proxies.iter().for_each(Proxy::half_close),
        Trouble::Held => {
            behave(Manner::Hold);
            tokio::time::sleep(lasts).await;
        }
        Trouble::Swallowed => {
            behave(Manner::Swallow);
            tokio::time::sleep(lasts).await;
            proxies.iter().for_each(Proxy::cut);
        }
        Trouble::Slow => {
            behave(Manner::Delay(lasts / 40));
            tokio::time::sleep(lasts).await;
        }
    }
    behave(Manner::Pass);
}

async fn redelivered(ganesh: &Ganesh) -> f64 {
    let count = series(ganesh, "ganesh_messages_redelivered_total").await;
    count.unwrap_or(0.0)
}

/// The value of a series without labels; `None` where it cannot be asked: a replica that has just
/// been started.
async fn series(ganesh: &Ganesh, name: &str) -> Option<f64> {
    let answer = reqwest::get(ganesh.admin_url("/metrics")).await.ok()?;
    let text = answer.text().await.ok()?;
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    values.next()?.parse().ok()
}
