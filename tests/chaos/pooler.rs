//! PgBouncer in session mode between one replica and Postgres: it drops what a session asks for at its
//! start, and the role's own settings would lose commits.

use std::time::Duration;

use super::postgres::ROLE;
use super::schedule::{Fault, Replica};
use crate::support::servers::Server;

/// Who connects through it.
pub const REPLICA: Replica = 1;

/// One before the Postgres at this port.
pub fn start(postgres_port: u16) -> Server {
    let port = postgres_port.to_string();
    let settings = [
        ("SERVER_PORT", port.as_str()),
        ("SERVER_USER", ROLE),
        ("IGNORE", "options,extra_float_digits"),
        // A Postgres that is being started is asked again so soon.
        ("LOGIN_RETRY_SECS", "1"),
    ];
    Server::start("pgbouncer", &settings)
}

/// Does it, and undoes it.
pub async fn strike(pooler: &mut Server, fault: Fault, lasts: Duration) {
    match fault {
        Fault::PoolerKilled => {
            pooler.kill();
            tokio::time::sleep(lasts).await;
            pooler.run();
        }
        Fault::PoolerPaused => {
            pooler.pause();
            tokio::time::sleep(lasts).await;
            pooler.resume();
        }
        other => unreachable!("{other:?} is not about the pooler"),
    }
}
