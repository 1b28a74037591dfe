//! What happens to Postgres.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::{Connection, Executor};

use super::scene::RECOVERY_MAX;
use super::schedule::Fault;
use super::special::DAYS_AHEAD;
use crate::support::{Stack, eventually};

/// The replicas' role: it owns the database, and may do there what ganesh needs, not more.
pub const ROLE: &str = "service";

/// Source of the rows that no message made.
pub const FILLER: &str = "/filler";
/// So many are made at a time.
pub const FILLERS: i64 = 50_000;

/// The server's own error: a disk that is really full has a test of its own.
const DISK_FULL: &str = "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql \
    AS $$ BEGIN RAISE 'No space left on device' USING ERRCODE = 'disk_full'; END $$; \
    CREATE TRIGGER full_disk BEFORE INSERT ON events \
    FOR EACH STATEMENT EXECUTE FUNCTION full_disk()";

/// Makes the role, with settings under which a crash loses commits, and locks are not waited for.
pub async fn make_role(stack: &Stack) {
    execute(
        stack,
        &format!(
            "CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE}'; ALTER DATABASE ganesh OWNER TO {ROLE}; \
             ALTER ROLE {ROLE} SET synchronous_commit = off; \
             ALTER ROLE {ROLE} SET lock_timeout = '10ms'; \
             ALTER ROLE {ROLE} SET idle_in_transaction_session_timeout = '5s'"
        ),
    )
    .await;
}

/// The database's address for it, at this port.
pub fn url(port: u16) -> String {
    format!("postgresql://{ROLE}:{ROLE}@127.0.0.1:{port}/ganesh")
}

/// Does it, and undoes it.
pub async fn strike(stack: &mut Stack, fault: Fault, lasts: Duration) {
    let postgres = stack.postgres.as_mut().expect("it is the run's own");
    match fault {
        Fault::PostgresCrashed => {
            postgres.crash();
            tokio::time::sleep(lasts).await;
            postgres.run();
            // It replays its log first: that is its own time, not ours.
            connect(stack).await;
        }
        Fault::PostgresPaused => {
            postgres.pause();
            tokio::time::sleep(lasts).await;
            postgres.resume();
        }
        Fault::EventsLocked => lock(stack, "events", lasts).await,
        Fault::PartitionLocked => {
            let partition = partition(stack, "min").await;
            lock(stack, &partition, lasts).await;
        }
        Fault::ConnectionsKilled => kill_connections(stack).await,
        Fault::PostgresReadOnly => {
            set_read_only(stack, "on").await;
            tokio::time::sleep(lasts).await;
            set_read_only(stack, "off").await;
        }
        Fault::PostgresFull => {
            execute(stack, DISK_FULL).await;
            tokio::time::sleep(lasts).await;
            execute(stack, "DROP TRIGGER full_disk ON events").await;
        }
        Fault::ConnectionsTaken => take_connections(stack, lasts).await,
        other => unreachable!("{other:?} is not about Postgres"),
    }
}

async fn connect(stack: &Stack) -> PgConnection {
    let url = &stack.database_url;
    // After a crash it listens before it answers.
    eventually("Postgres answers", || async {
        PgConnection::connect(url).await.is_ok()
    })
    .await;
    PgConnection::connect(url).await.expect("Postgres is up")
}

/// Executes it.
pub async fn execute(stack: &Stack, statement: &str) {
    let mut connection = connect(stack).await;
    connection.execute(statement).await.expect("it is ours");
}

async fn lock(stack: &Stack, table: &str, lasts: Duration) {
    let mut connection = connect(stack).await;
    let mut lock = connection.begin().await.expect("Postgres is up");
    let statement = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    let locked = lock.execute(statement.as_str()).await;
    locked.expect("a lock comes in time");
    tokio::time::sleep(lasts).await;
    lock.rollback().await.expect("nothing else happens now");
}

/// The first one by time (`min`), or the last one (`max`).
async fn partition(stack: &Stack, which: &str) -> String {
    let statement = format!(
        "SELECT {which}(inhrelid::regclass::text) FROM pg_inherits \
         WHERE inhparent = 'events'::regclass AND inhrelid::regclass::text LIKE 'events_p%'"
    );
    let mut connection = connect(stack).await;
    let partition = sqlx::query_scalar(&statement).fetch_one(&mut connection);
    partition.await.expect("the service has made some")
}

/// Rows of no message, so that to move them takes a while; how many.
pub async fn fill_last_partition(stack: &Stack, first: i64) -> i64 {
    let fill = format!(
        "INSERT INTO events \
         (id, source, time, type, nats_subject, stream_seq, published_at, trace_id) \
         SELECT 'filler-' || n, '{FILLER}', now() + interval '{DAYS_AHEAD} days', 't', \
         'events.filler', 1, now(), '' FROM generate_series({first}, {first} + {FILLERS} - 1) AS n"
    );
    execute(stack, &fill).await;
    FILLERS
}

/// The last partition goes, and its rows into the default one; which it was. Tried again where it and
/// the upkeep of a replica wait for each other.
pub async fn lose_last_partition(stack: &Stack) -> String {
    let partition = partition(stack, "max").await;
    eventually("a partition is lost", || async {
        let statement = format!(
            "BEGIN; ALTER TABLE events DETACH PARTITION {partition}; \
             INSERT INTO events SELECT * FROM {partition}; DROP TABLE {partition}; COMMIT"
        );
        connect(stack)
            .await
            .execute(statement.as_str())
            .await
            .is_ok()
    })
    .await;
    partition
}

/// Whether it is a partition.
pub async fn is_attached(stack: &Stack, partition: &str) -> bool {
    let statement = format!(
        "SELECT EXISTS (SELECT FROM pg_inherits \
         WHERE inhparent = 'events'::regclass AND inhrelid = to_regclass('{partition}'))"
    );
    let mut connection = connect(stack).await;
    let attached = sqlx::query_scalar(&statement).fetch_one(&mut connection);
    attached.await.expect("Postgres is up")
}

/// Takes all of them, and those that come free, for so long: 53300 for whoever asks.
async fn take_connections(stack: &Stack, lasts: Duration) {
    let url = &stack.database_url;
    let mut killer = connect(stack).await;
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

/// Ends everybody's sessions.
pub async fn kill_connections(stack: &Stack) {
    let mut connection = connect(stack).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    connection.execute(kill).await.expect("ganesh may do that");
}

/// Sessions from now on; those that are there are sent away, as a failover does.
async fn set_read_only(stack: &Stack, value: &str) {
    let mut connection = connect(stack).await;
    let write = "SET default_transaction_read_only = off";
    connection.execute(write).await.expect("Postgres is up");
    let set = format!("ALTER DATABASE ganesh SET default_transaction_read_only = {value}");
    connection.execute(set.as_str()).await.expect("it is ours");
    kill_connections(stack).await;
}
