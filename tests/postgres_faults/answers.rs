//! P2 on the wire: a proxy before Postgres and one before NATS say in which order the answer that
//! makes a message durable and its acknowledgement passed.

use std::time::Duration;

use super::connections::proxied;
use crate::support::events::{events, publish, publish_invalid};
use crate::support::proxy::{Manner, Proxy, Way};
use crate::support::{Ganesh, Stack};

/// Every batch is as large as it may be, so that its tag tells it from other statements.
const BATCH: usize = 100;
const COPIED: &[u8] = b"COPY 100\0";
const INSERTED: &[u8] = b"INSERT 0 100\0";

/// The server has ended a statement and is in no transaction. What was written is committed by
/// then, and not always when its tag comes: that of a statement with parameters is sent before.
const IDLE: &[u8] = b"Z\0\0\0\x05I";
const COMMITTED: &[u8] = b"COMMIT\0";
/// The answer of the dead-letter stream to what is published there.
const LETTER_STORED: &[u8] = b"{\"stream\":\"EVENTS_DLQ\"";
const ACKNOWLEDGED: &[u8] = b"+ACK\r\n";

/// `ganesh serve` between two proxies.
struct Scene {
    postgres: Proxy,
    nats: Proxy,
    ganesh: Ganesh,
}

impl Scene {
    async fn start(stack: &Stack) -> Self {
        let (postgres, postgres_url) = proxied(stack).await;
        let nats = Proxy::start(stack.nats.port()).await;
        // So that whoever does not wait for an answer is seen not to.
        for proxy in [&postgres, &nats] {
            proxy.behave_one_way(Way::ToClient, Manner::Delay(Duration::from_millis(30)));
        }
        let settings = [
            ("POSTGRES_URL", postgres_url.as_str()),
            ("NATS_URL", &format!("nats://127.0.0.1:{}", nats.port)),
            ("GANESH_BATCH_MAX_EVENTS", &BATCH.to_string()),
            ("GANESH_WRITERS", "1"),
        ];
        let ganesh = stack.serve(&settings).await;
        Self {
            postgres,
            nats,
            ganesh,
        }
    }

    /// For each message of a batch whose rows had this tag, the moment at which ganesh got the
    /// answer to the commit: the first such answer behind the tag on the same connection.
    fn committed(&self, tag: &[u8], answer: &[u8]) -> Vec<u64> {
        let mut moments = Vec::new();
        for connection in self.postgres.passed() {
            let answers = connection.find(answer);
            for (_, behind) in connection.find(tag) {
                let commit = answers.iter().find(|(_, rest)| rest.len() < behind.len());
                // Not yet: later than all that has passed.
                let moment = commit.map_or(u64::MAX, |(moment, _)| *moment);
                moments.extend([moment; BATCH]);
            }
        }
        moments
    }

    /// The moments at which this passed between ganesh and NATS.
    fn passed(&self, way: Way, text: &[u8]) -> Vec<u64> {
        let passed = self.nats.passed();
        let one_way = passed.iter().filter(|passed| passed.way == way);
        let found = one_way.flat_map(|passed| passed.find(text));
        found.map(|(moment, _)| moment).collect()
    }

    fn acknowledged(&self) -> Vec<u64> {
        self.passed(Way::ToServer, ACKNOWLEDGED)
    }
}

/// As many as were acknowledged at any moment were durable before it.
fn assert_none_is_acknowledged_before_it_is_durable(
    messages: usize,
    mut durable: Vec<u64>,
    mut acknowledged: Vec<u64>,
) {
    durable.sort_unstable();
    acknowledged.sort_unstable();
    assert_eq!((durable.len(), acknowledged.len()), (messages, messages));
    for (number, (durable, acknowledged)) in durable.iter().zip(&acknowledged).enumerate() {
        assert!(
            durable < acknowledged,
            "acknowledgement {number}, and no more than {number} messages were durable by then"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_acknowledged_before_the_answer_to_the_commit_of_its_row() {
    const EVENTS: usize = 30 * BATCH;
    let stack = Stack::start().await;
    let scene = Scene::start(&stack).await;
    // Until then a batch is several statements in a transaction.
    let cache = "ganesh_dependency_up{dependency=\"cache\"}";
    scene.ganesh.wait_for_metric(cache, 1.0).await;
    publish(&stack.jetstream().await, &events("e", EVENTS)).await;
    stack.wait_until_drained().await;
    let committed = scene.committed(COPIED, IDLE);
    assert_none_is_acknowledged_before_it_is_durable(EVENTS, committed, scene.acknowledged());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_before_that_to_the_commit_around_it_while_the_cache_is_away() {
    const EVENTS: usize = 10 * BATCH;
    let mut stack = Stack::start().await;
    stack.cache.kill();
    let scene = Scene::start(&stack).await;
    publish(&stack.jetstream().await, &events("e", EVENTS)).await;
    stack.wait_until_drained().await;
    // Behind the rows the epoch advances in the same transaction.
    let committed = scene.committed(COPIED, COMMITTED);
    assert_none_is_acknowledged_before_it_is_durable(EVENTS, committed, scene.acknowledged());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_before_that_to_the_commit_of_an_insert_after_duplicates() {
    const EVENTS: usize = 10 * BATCH;
    let stack = Stack::start().await;
    let scene = Scene::start(&stack).await;
    let jetstream = stack.jetstream().await;
    let twice = events("twice", BATCH);
    for _ in 0..2 {
        publish(&jetstream, &twice).await;
        stack.wait_until_drained().await;
    }
    let before = scene.acknowledged().len();
    publish(&jetstream, &events("e", EVENTS)).await;
    stack.wait_until_drained().await;
    let mut acknowledged = scene.acknowledged();
    acknowledged.sort_unstable();
    let acknowledged = acknowledged.split_off(before);
    let committed = scene.committed(INSERTED, IDLE);
    assert_none_is_acknowledged_before_it_is_durable(EVENTS, committed, acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_acknowledged_before_its_dead_letter_is() {
    const INVALID: usize = 300;
    let stack = Stack::start().await;
    let scene = Scene::start(&stack).await;
    let jetstream = stack.jetstream().await;
    for _ in 0..INVALID {
        publish_invalid(&jetstream).await;
    }
    stack.wait_until_drained().await;
    let letters = scene.passed(Way::ToClient, LETTER_STORED);
    assert_none_is_acknowledged_before_it_is_durable(INVALID, letters, scene.acknowledged());
}
