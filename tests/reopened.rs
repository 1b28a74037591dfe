//! Connections that were lost and opened again are counted.

use crate::support::events::{events, publish};
use crate::support::proxy::Proxy;
use crate::support::{Ganesh, Stack};

async fn wait_for(ganesh: &Ganesh, dependency: &str, event: &str, at_least: f64) {
    let series =
        format!("ganesh_connection_events_total{{dependency=\"{dependency}\",event=\"{event}\"}}");
    ganesh.wait_for_metric(&series, at_least).await;
}

#[tokio::test]
async fn each_connection_that_is_cut_is_counted_as_closed_and_as_opened_again() {
    let stack = Stack::start().await;
    let database = url::Url::parse(&stack.database_url).unwrap();
    let postgres_port = database.port().unwrap();
    let nats = Proxy::start(stack.nats.port()).await;
    let postgres = Proxy::start(postgres_port).await;
    let cache = Proxy::start(stack.cache.port()).await;
    let (from, to) = (format!(":{postgres_port}/"), format!(":{}/", postgres.port));
    let settings = [
        ("NATS_URL", format!("nats://127.0.0.1:{}", nats.port)),
        ("POSTGRES_URL", stack.database_url.replace(&from, &to)),
        ("REDIS_URL", format!("redis://127.0.0.1:{}", cache.port)),
    ];
    let settings = settings.each_ref().map(|(k, v)| (*k, v.as_str()));
    let ganesh = stack.serve(&settings).await;
    publish(&stack.jetstream().await, &events("first", 10)).await;
    stack.wait_until_drained().await;
    let dependencies = ["nats", "postgres", "cache"];
    for dependency in dependencies {
        wait_for(&ganesh, dependency, "opened", 1.0).await;
    }
    for proxy in [&nats, &postgres, &cache] {
        proxy.cut();
    }
    publish(&stack.jetstream().await, &events("second", 10)).await;
    for dependency in dependencies {
        wait_for(&ganesh, dependency, "closed", 1.0).await;
        wait_for(&ganesh, dependency, "opened", 2.0).await;
    }
    stack.wait_until_drained().await;
    assert_eq!(stack.rows().await, 20);
}
