//! What the roles of deploy/postgres/roles.sql may do, and what not, on a real Postgres.

use sqlx::{Connection, Executor, PgConnection};

use super::read;
use crate::support::ganesh::run;
use crate::support::stack::new_database;

/// The init script as psql would send it, with the two passwords in the place of its variables.
fn script() -> String {
    let text = read("deploy/postgres/roles.sql");
    let sent: String = text
        .lines()
        .filter(|line| !line.starts_with("\\getenv "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let sent = sent.replace(":'grafana_password'", "'one'");
    let sent = sent.replace(":'exporter_password'", "'two'");
    assert!(!sent.contains(":'"), "{sent}");
    sent
}

/// A database as compose's first start makes it: roles, then the migrations.
async fn database() -> String {
    let url = new_database().await;
    let mut owner = PgConnection::connect(&url).await.unwrap();
    owner.execute(script().as_str()).await.unwrap();
    let migrated = run(None, &["migrate"], &[("POSTGRES_URL", &url)]);
    assert!(migrated.status.success(), "{migrated:?}");
    url
}

async fn connect_as(url: &str, role: &str, password: &str) -> PgConnection {
    let url = url.replace("ganesh:ganesh@", &format!("{role}:{password}@"));
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
    let url = database().await;
    let mut grafana = connect_as(&url, "grafana", "one").await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
        .fetch_one(&mut grafana)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    for table in ["cache_epoch", "_sqlx_migrations", "events_default"] {
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

    let mut exporter = connect_as(&url, "exporter", "two").await;
    assert_eq!(
        refusal(&mut exporter, "SELECT 1 FROM events").await,
        INSUFFICIENT_PRIVILEGE
    );
    exporter
        .execute("SELECT count(*) FROM pg_ls_waldir()")
        .await
        .unwrap();
}
