//! What happens to the processes that ganesh runs as.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::operator::operate_on_fillers;
use super::postgres;
use super::scene::Scene;
use super::schedule::{Fault, Link, REPLICAS, Replica};
use crate::support::ganesh::FILES_MAX;
use crate::support::proxy::Proxy;
use crate::support::servers::send_signal;

/// How long the rows of a lost partition are watched while they move: upkeep that was refused waits for
/// longer.
const MOVE_WATCHED: Duration = Duration::from_secs(10);

/// Does it, and undoes it.
pub async fn strike(scene: &mut Scene, fault: Fault, lasts: Duration) {
    match fault {
        Fault::ServeKilled(replica) => kill(scene, replica, lasts).await,
        Fault::ServeTerminated(replica) => {
            let status = scene.take_replica(replica).await.terminate().await;
            assert!(status.success(), "SIGTERM ended with {status}");
            scene.start_replica(replica);
        }
        Fault::ServePaused(replica) => {
            let pid = scene.replica(replica).pid();
            send_signal(pid, Signal::STOP);
            tokio::time::sleep(lasts * 2).await;
            send_signal(pid, Signal::CONT);
        }
        Fault::ServeWithoutFiles(replica) => {
            // One that only starts may need another file, and say so.
            scene.replica(replica).wait_until_ready().await;
            scene.replica(replica).limit_files(3);
            for link in [Link::Nats, Link::Postgres, Link::Cache] {
                scene.proxies(link).iter().for_each(Proxy::cut);
            }
            tokio::time::sleep(lasts).await;
            scene.replica(replica).limit_files(FILES_MAX);
        }
        Fault::LogDiskFull(replica) => fill_log_disk(scene, replica, lasts).await,
        Fault::ClocksStepped => {
            scene.clock.step(clock_step_seconds(lasts));
            tokio::time::sleep(lasts).await;
            scene.clock.step(0);
        }
        Fault::PermissionRevoked => revoke(scene, lasts).await,
        Fault::PartitionGone(replica) => lose_partition(scene, replica, lasts).await,
        other => unreachable!("{other:?} is not about a replica"),
    }
}

async fn kill(scene: &mut Scene, replica: Replica, lasts: Duration) {
    scene.take_replica(replica).await.kill();
    tokio::time::sleep(lasts).await;
    scene.start_replica(replica);
}

/// The replica is killed while it starts, and perhaps while it makes the partition again.
async fn lose_partition(scene: &mut Scene, replica: Replica, lasts: Duration) {
    let first = scene.fillers;
    scene.fillers += postgres::fill_last_partition(&scene.stack, first).await;
    let partition = postgres::lose_last_partition(&scene.stack).await;
    let stop = CancellationToken::new();
    let pool = scene.stack.pool.clone();
    let operator = tokio::spawn(operate_on_fillers(pool, first, stop.clone()));
    kill(scene, replica, Duration::ZERO).await;
    tokio::time::sleep(lasts / 4).await;
    kill(scene, replica, Duration::ZERO).await;
    let began = Instant::now();
    while began.elapsed() < MOVE_WATCHED && !postgres::is_attached(&scene.stack, &partition).await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.cancel();
    let [deleted, changed] = operator.await.expect("each row was there");
    scene.operated.fillers_deleted.extend(deleted);
    scene.operated.fillers_changed.extend(changed);
}

/// Every write to the log fails with ENOSPC.
async fn fill_log_disk(scene: &mut Scene, replica: Replica, lasts: Duration) {
    let folder = scene.logs[replica].path();
    let (file, full) = (folder.join("app.log"), folder.join("full"));
    symlink("/dev/full", &full).expect("the folder is writable");
    fs::rename(&full, &file).expect("the folder is writable");
    postgres::kill_connections(&scene.stack).await;
    tokio::time::sleep(lasts).await;
    fs::remove_file(&file).expect("the folder is writable");
}

/// Both end by themselves, and say why.
async fn revoke(scene: &mut Scene, lasts: Duration) {
    for replica in 0..REPLICAS {
        scene.replica(replica).wait_until_ready().await;
    }
    let role = postgres::ROLE;
    let mut stopping = Vec::new();
    for replica in 0..REPLICAS {
        stopping.push(scene.take_replica(replica).await);
    }
    postgres::execute(
        &scene.stack,
        &format!("REVOKE INSERT ON events FROM {role}"),
    )
    .await;
    for mut ganesh in stopping {
        let status = ganesh.wait().await;
        let log = ganesh.log();
        let is_said = log.contains("permission denied for table events");
        assert!(status.code() == Some(1) && is_said, "{status}: {log}");
    }
    tokio::time::sleep(lasts).await;
    postgres::execute(&scene.stack, &format!("GRANT INSERT ON events TO {role}")).await;
    for replica in 0..REPLICAS {
        scene.start_replica(replica);
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
