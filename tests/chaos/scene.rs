//! The stack that faults happen to: two `serve`, their servers, and what undoes a fault.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::PgConnection;
use sqlx::{Connection, Executor};

use super::cache;
use super::schedule::{Fault, REPLICAS, Replica, Step, Trouble};
use crate::support::clock::Clock;
use crate::support::proxy::{Manner, Proxy};
use crate::support::servers::{free_port, send_signal};
use crate::support::{Ganesh, Stack, eventually};

/// Short, so that a run sees many redeliveries: what a killed process held comes back after this.
const ACK_WAIT: &str = "4s";
/// A backlog of less is no backlog.
const SETTLED_MAX_MESSAGES: u64 = 200;
/// After a fault is undone. The slowest way back: a killed process's messages after `ack_wait`,
/// and a backoff at its ceiling.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// The server's own error: a disk that is really full has a test of its own.
const DISK_FULL: &str = "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql \
    AS $$ BEGIN RAISE 'No space left on device' USING ERRCODE = 'disk_full'; END $$; \
    CREATE TRIGGER full_disk BEFORE INSERT ON events \
    FOR EACH STATEMENT EXECUTE FUNCTION full_disk()";

/// The stack.
pub struct Scene {
    /// Servers.
    pub stack: Stack,
    /// Between the replicas and NATS, Postgres and the cache, by [`Link`].
    proxies: [Proxy; 3],
    /// Of all replicas.
    clock: Clock,
    replicas: Vec<Option<Ganesh>>,
    api_ports: Vec<u16>,
    /// Redeliveries that replicas counted which are gone.
    redelivered_before: f64,
}

impl Scene {
    /// Everything runs and is ready.
    pub async fn start() -> Self {
        let stack = Stack::start_with_own_postgres().await;
        let postgres = stack.postgres.as_ref().expect("it is the run's own");
        let mut scene = Self {
            proxies: [
                Proxy::forgetful(stack.nats.port()).await,
                Proxy::forgetful(postgres.port()).await,
                Proxy::forgetful(stack.cache.port()).await,
            ],
            stack,
            clock: Clock::build(),
            replicas: (0..REPLICAS).map(|_| None).collect(),
            api_ports: (0..REPLICAS).map(|_| free_port()).collect(),
            redelivered_before: 0.0,
        };
        for replica in 0..REPLICAS {
            scene.start_replica(replica);
            scene.replica(replica).wait_until_ready().await;
        }
        scene
    }

    /// Where a replica answers, whichever process it is at the moment.
    pub fn api(&self, replica: Replica) -> String {
        format!("http://127.0.0.1:{}", self.api_ports[replica])
    }

    fn start_replica(&mut self, replica: Replica) {
        let address = format!("127.0.0.1:{}", self.api_ports[replica]);
        let [nats, postgres, cache] = self.proxies.each_ref().map(|proxy| proxy.port);
        let nats = format!("nats://127.0.0.1:{nats}");
        let postgres = format!("postgresql://ganesh:ganesh@127.0.0.1:{postgres}/ganesh");
        let cache = format!("redis://127.0.0.1:{cache}");
        let settings = [
            ("NATS_URL", nats.as_str()),
            ("POSTGRES_URL", postgres.as_str()),
            ("REDIS_URL", cache.as_str()),
            ("GANESH_HTTP_ADDR", address.as_str()),
            ("GANESH_ACK_WAIT", ACK_WAIT),
            ("GANESH_MAX_IN_FLIGHT", "4096"),
            ("GANESH_BATCH_LINGER_MS", "20"),
            ("GANESH_STARTUP_TIMEOUT", "1h"),
        ];
        let settings = [settings.as_slice(), &self.clock.settings()].concat();
        self.replicas[replica] = Some(Ganesh::serve(&self.stack, &settings));
    }

    fn replica(&self, replica: Replica) -> &Ganesh {
        self.replicas[replica].as_ref().expect("it was started")
    }

    async fn take_replica(&mut self, replica: Replica) -> Ganesh {
        self.redelivered_before += redelivered(self.replica(replica)).await;
        self.replicas[replica].take().expect("it was started")
    }

    /// Does what the step says, and undoes it.
    pub async fn strike(&mut self, step: Step) {
        let lasts = step.lasts;
        match step.fault {
            Fault::ServeKilled(replica) => {
                self.take_replica(replica).await.kill();
                tokio::time::sleep(lasts).await;
                self.start_replica(replica);
            }
            Fault::ServeTerminated(replica) => {
                let status = self.take_replica(replica).await.terminate().await;
                assert!(status.success(), "SIGTERM ended with {status}");
                self.start_replica(replica);
            }
            Fault::ServePaused(replica) => {
                let pid = self.replica(replica).pid();
                send_signal(pid, Signal::STOP);
                tokio::time::sleep(lasts * 2).await;
                send_signal(pid, Signal::CONT);
            }
            Fault::NatsKilled => {
                self.stack.nats.kill();
                tokio::time::sleep(lasts).await;
                self.stack.nats.run();
            }
            Fault::NatsTerminated => {
                self.stack.nats.terminate();
                tokio::time::sleep(lasts).await;
                self.stack.nats.run();
            }
            Fault::NatsPaused => {
                self.stack.nats.pause();
                tokio::time::sleep(lasts).await;
                self.stack.nats.resume();
            }
            Fault::ClocksStepped => {
                self.clock.step(clock_step_seconds(lasts));
                tokio::time::sleep(lasts).await;
                self.clock.step(0);
            }
            Fault::ConsumerDeleted => {
                let jetstream = self.stack.jetstream().await;
                let deleted = jetstream.delete_consumer_from_stream("ganesh", "EVENTS");
                assert!(deleted.await.expect("NATS is up").success);
            }
            Fault::Network(link, trouble) => {
                trouble_network(&self.proxies[link as usize], trouble, lasts).await;
            }
            Fault::CacheKilled
            | Fault::CachePaused
            | Fault::CacheFlushed
            | Fault::CacheFull
            | Fault::CacheEvicting
            | Fault::CacheReplica
            | Fault::CacheForeign => cache::strike(&mut self.stack.cache, step.fault, lasts).await,
            fault => self.strike_postgres(fault, lasts).await,
        }
    }

    async fn strike_postgres(&mut self, fault: Fault, lasts: Duration) {
        let postgres = self.stack.postgres.as_mut().expect("it is the run's own");
        match fault {
            Fault::PostgresCrashed => {
                postgres.crash();
                tokio::time::sleep(lasts).await;
                postgres.run();
            }
            Fault::PostgresPaused => {
                postgres.pause();
                tokio::time::sleep(lasts).await;
                postgres.resume();
            }
            Fault::EventsLocked => {
                let mut connection = self.connect().await;
                let mut lock = connection.begin().await.expect("Postgres is up");
                let statement = "LOCK TABLE events IN ACCESS EXCLUSIVE MODE";
                lock.execute(statement).await.expect("a lock comes in time");
                tokio::time::sleep(lasts).await;
                lock.rollback().await.expect("nothing else happens now");
            }
            Fault::ConnectionsKilled => self.kill_connections().await,
            Fault::PostgresReadOnly => {
                self.set_read_only("on").await;
                tokio::time::sleep(lasts).await;
                self.set_read_only("off").await;
            }
            Fault::PostgresFull => {
                self.execute(DISK_FULL).await;
                tokio::time::sleep(lasts).await;
                self.execute("DROP TRIGGER full_disk ON events").await;
            }
            Fault::ConnectionsTaken => self.take_connections(lasts).await,
            other => unreachable!("{other:?} is not about Postgres"),
        }
    }

    async fn connect(&self) -> PgConnection {
        let url = &self.stack.database_url;
        // After a crash it listens before it answers.
        eventually("Postgres answers", || async {
            PgConnection::connect(url).await.is_ok()
        })
        .await;
        PgConnection::connect(url).await.expect("Postgres is up")
    }

    async fn execute(&self, statement: &str) {
        let mut connection = self.connect().await;
        connection.execute(statement).await.expect("it is ours");
    }

    /// Takes all of them, and those that come free, for so long: 53300 for whoever asks.
    async fn take_connections(&self, lasts: Duration) {
        let url = &self.stack.database_url;
        let mut killer = self.connect().await;
        let (mut taken, began) = (Vec::new(), Instant::now());
        let mut none_left_since = None;
        while none_left_since.is_none_or(|since: Instant| since.elapsed() < lasts) {
            assert!(began.elapsed() < RECOVERY_MAX, "{} taken", taken.len());
            if let Ok(connection) = PgConnection::connect(url).await {
                taken.push(connection);
                continue;
            }
            none_left_since.get_or_insert_with(Instant::now);
            let ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE application_name = 'ganesh'";
            killer.execute(ours).await.expect("ganesh may do that");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn kill_connections(&self) {
        let mut connection = self.connect().await;
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        connection.execute(kill).await.expect("ganesh may do that");
    }

    /// Sessions from now on; those that are there are sent away, as a failover does.
    async fn set_read_only(&self, value: &str) {
        let mut connection = self.connect().await;
        let write = "SET default_transaction_read_only = off";
        connection.execute(write).await.expect("Postgres is up");
        let set = format!("ALTER DATABASE ganesh SET default_transaction_read_only = {value}");
        connection.execute(set.as_str()).await.expect("it is ours");
        self.kill_connections().await;
    }

    /// How long it took until nothing waits any more.
    pub async fn recover(&mut self) -> Duration {
        let began = Instant::now();
        loop {
            self.assert_replicas_run();
            if self
                .backlog()
                .await
                .is_some_and(|waiting| waiting < SETTLED_MAX_MESSAGES)
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
            let stream = self
                .stack
                .jetstream()
                .await
                .get_stream("EVENTS")
                .await
                .ok()?;
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

/// Forward or back, by a minute to an hour, as the schedule's random time has it.
fn clock_step_seconds(lasts: Duration) -> i64 {
    let millis = i64::try_from(lasts.as_millis()).expect("a few seconds");
    match millis % 3_600 {
        back if millis % 2 == 0 => -back.max(60),
        forward => forward.max(60),
    }
}

async fn trouble_network(proxy: &Proxy, trouble: Trouble, lasts: Duration) {
    match trouble {
        Trouble::Cut => proxy.cut(),
        Trouble::HalfClosed => proxy.half_close(),
        Trouble::Held => {
            proxy.behave(Manner::Hold);
            tokio::time::sleep(lasts).await;
        }
        Trouble::Swallowed => {
            proxy.behave(Manner::Swallow);
            tokio::time::sleep(lasts).await;
            proxy.cut();
        }
        Trouble::Slow => {
            proxy.behave(Manner::Delay(lasts / 40));
            tokio::time::sleep(lasts).await;
        }
    }
    proxy.behave(Manner::Pass);
}

/// 0 where it cannot be asked: a replica that has just been started.
async fn redelivered(ganesh: &Ganesh) -> f64 {
    let url = ganesh.admin_url("/metrics");
    let Ok(answer) = reqwest::get(url).await else {
        return 0.0;
    };
    let text = answer.text().await.unwrap_or_default();
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix("ganesh_messages_redelivered_total "));
    values
        .next()
        .and_then(|value| value.parse().ok())
        .unwrap_or(0.0)
}
