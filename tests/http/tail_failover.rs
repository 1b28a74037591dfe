//! `GET /v1/events/stream` where a standby takes over.

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection, Executor};

use super::client::store;
use super::tail_client::{Tail, refused};
use crate::support::events::{event, events};
use crate::support::proxy::Proxy;
use crate::support::{Stack, eventually};

fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

/// It gives the numbers of transactions out again that it has not seen.
#[tokio::test]
async fn a_stream_is_told_of_a_failover_and_a_new_one_has_all_that_the_standby_has() {
    let mut stack = Stack::start_with_own_postgres().await;
    let proxy = Proxy::start(stack.postgres.as_ref().unwrap().port()).await;
    let through = format!("postgresql://ganesh:ganesh@127.0.0.1:{}/ganesh", proxy.port);
    let ganesh = stack.serve(&[("POSTGRES_URL", &through)]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    store(&stack, &events("kept", 5)).await;
    tail.ids(5).await;
    let standby = stack.postgres.as_mut().unwrap().copy_as_standby();
    let on_standby = through.replace(&proxy.port.to_string(), &standby.port().to_string());
    for url in [&on_standby, &through] {
        eventually("it answers", || async {
            PgConnection::connect(url).await.is_ok()
        })
        .await;
    }
    // The standby never has them.
    for n in 0..5 {
        store(&stack, &[event(&format!("lost-{n}"))]).await;
    }
    assert_eq!(tail.ids(5).await, ids("lost", 5));
    let standby = PgPool::connect(&on_standby).await.unwrap();
    standby.execute("SELECT pg_promote()").await.unwrap();
    proxy.lead_to(standby.connect_options().get_port());
    proxy.cut();
    store(&stack, &events("after", 5)).await;
    tail.lagged().await;
    let refused = refused(&ganesh, &format!("after={}", tail.id)).await;
    let detail = refused.problem(410, "Gone");
    assert!(detail.contains("another server took over"), "{detail}");
    let mut again = Tail::open(&ganesh, "newest=100").await;
    let mut found = again.ids(10).await;
    found.sort();
    assert_eq!(found, [ids("after", 5), ids("kept", 5)].concat());
    store(&stack, &[event("last")]).await;
    assert_eq!(again.ids(1).await, ["last"]);
}
