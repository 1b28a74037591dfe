//! How soon work goes on when a fault is over.

use std::time::{Duration, Instant};

use sqlx::Executor;

use super::server::errors;
use crate::support::ganesh::Load;
use crate::support::{PATIENCE, Stack};

/// What the server says when its disk is full; before a statement, whatever its rows are.
const FULL: &str = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql \
    AS $$ BEGIN RAISE 'No space left on device' USING ERRCODE = 'disk_full'; END $$; \
    CREATE TRIGGER full_disk BEFORE INSERT ON events \
    FOR EACH STATEMENT EXECUTE FUNCTION full_disk()";
const ROOM: &str = "DROP TRIGGER full_disk ON events";
/// The wait for a parked batch is up to 5 s.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
/// Less is no backlog.
const SETTLED_MAX: u64 = 200;

async fn time_until_little_waits(stack: &Stack) -> Duration {
    let began = Instant::now();
    while stack.backlog().await >= SETTLED_MAX {
        assert!(began.elapsed() < PATIENCE, "{} wait", stack.backlog().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    began.elapsed()
}

#[tokio::test]
async fn when_there_is_room_again_what_was_parked_is_stored_at_once() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_MAX_IN_FLIGHT", "4096")]).await;
    let load = Load::start(&stack, &["--rate", "500"]);
    stack.wait_for_rows(500).await;
    stack.pool.execute(FULL).await.unwrap();
    ganesh.wait_for_metric(&errors("resources"), 30.0).await;
    stack.pool.execute(ROOM).await.unwrap();
    let took = time_until_little_waits(&stack).await;
    drop(load);
    assert!(took < RECOVERY_MAX, "{took:?}");
    stack.wait_until_drained().await;
    assert_eq!(stack.dead_letters().await, 0);
}
