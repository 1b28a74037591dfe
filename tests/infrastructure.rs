//! The scripts that start servers.

use crate::support::eventually;
use crate::support::servers::postgres_with;

#[tokio::test]
async fn a_postgres_whose_data_nobody_needs_removes_it_when_its_starter_is_gone() {
    let mut kept = postgres_with(&[]);
    let mut removed = postgres_with(&[("REMOVE_DATA", "1")]);
    let data = removed.abandon();
    eventually("its data is removed", || async { !data.exists() }).await;
    assert!(kept.abandon().join("PG_VERSION").exists());
}
