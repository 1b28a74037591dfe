//! What the roles of deploy/postgres/roles.sql may do, and what not, on a real Postgres: that of
//! `make up`, whose script runs the same statements when it makes the cluster.

use sqlx::{Connection, Executor, PgConnection};

use crate::support::Stack;
use crate::support::ganesh::run;

/// Its password is its name, where no compose says another.
async fn connect_as(url: &str, role: &str) -> PgConnection {
    let url = url.replace("ganesh:ganesh@", &format!("{role}:{role}@"));
    PgConnection::connect(&url).await.unwrap()
}

/// The SQLSTATE with which it is refused.
async fn refusal(connection: &mut PgConnection, statement: &str) -> String {
    let error = connection.execute(statement).await.expect_err(statement);
    let error = error.into_database_error().expect("Postgres answers");
    error
        .code()
        .expect("Postgres names a SQLSTATE")
        .into_owned()
}

const INSUFFICIENT_PRIVILEGE: &str = "42501";
const READ_ONLY_TRANSACTION: &str = "25006";

#[tokio::test]
async fn grafana_reads_events_and_nothing_else_and_the_exporter_only_statistics() {
    let stack = Stack::start_with_own_postgres().await;
    let url = &stack.database_url;
    let migrated = run(Some(&stack), &["migrate"], &[]);
    assert!(migrated.status.success(), "{migrated:?}");
    let mut grafana = connect_as(url, "grafana").await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
        .fetch_one(&mut grafana)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    for table in [
        "cache_epoch",
        "fates",
        "trials",
        "_sqlx_migrations",
        "events_default",
    ] {
        let read = format!("SELECT 1 FROM {table}");
        assert_eq!(
            refusal(&mut grafana, &read).await,
            INSUFFICIENT_PRIVILEGE,
            "{table}"
        );
    }
    assert_eq!(
        refusal(&mut grafana, "CREATE TEMP TABLE t ()").await,
        READ_ONLY_TRANSACTION
    );
    // Whoever turns that off still may not write.
    grafana
        .execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    assert_eq!(
        refusal(&mut grafana, "DELETE FROM events").await,
        INSUFFICIENT_PRIVILEGE
    );
    let timeout: String = sqlx::query_scalar("SHOW statement_timeout")
        .fetch_one(&mut grafana)
        .await
        .unwrap();
    assert_eq!(timeout, "5s");

    let mut exporter = connect_as(url, "exporter").await;
    assert_eq!(
        refusal(&mut exporter, "SELECT 1 FROM events").await,
        INSUFFICIENT_PRIVILEGE
    );
    exporter
        .execute("SELECT count(*) FROM pg_ls_waldir()")
        .await
        .unwrap();
}
