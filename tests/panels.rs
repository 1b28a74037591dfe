//! What panels ask Postgres.

use sqlx::Executor;

use crate::support::Stack;
use crate::support::monitoring::{dashboards, list, panels, word};

#[tokio::test]
async fn what_panels_ask_postgres_is_answered_to_a_role_that_may_read_events_and_no_more() {
    let stack = Stack::start().await;
    let _ganesh = stack.serve(&[]).await;
    let mut role = stack.pool.begin().await.unwrap();
    for statement in [
        "CREATE ROLE panel_reader",
        "GRANT SELECT ON events TO panel_reader",
        "SET LOCAL ROLE panel_reader",
        "SET LOCAL statement_timeout = '5s'",
    ] {
        role.execute(statement).await.unwrap();
    }
    let mut asked = 0;
    for (_, dashboard) in dashboards() {
        for panel in panels(&dashboard).filter(|p| p["datasource"]["uid"] == "postgres") {
            for target in list(&panel["targets"]) {
                let rows = role.fetch_all(word(&target["rawSql"])).await.unwrap();
                assert!(!rows.is_empty(), "{}", panel["title"]);
                asked += 1;
            }
        }
    }
    assert!(asked > 0, "a data source that no panel asks");
    role.rollback().await.unwrap();
}
