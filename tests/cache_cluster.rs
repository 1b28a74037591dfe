//! A Redis in cluster mode is not supported: said in one line, and everything else goes on without it.

use crate::support::cache_server::ask;
use crate::support::events::{event, events, publish};
use crate::support::ganesh::run;
use crate::support::reads::latest;
use crate::support::servers::Server;
use crate::support::{Stack, eventually};

const CACHE_UP: &str = "ganesh_dependency_up{dependency=\"cache\"}";
const STORED: &str = "ganesh_messages_settled_total{outcome=\"stored\"}";

/// Two commands a batch would find out.
const BATCHES: usize = 20;

async fn cluster_of_one() -> Stack {
    let mut stack = Stack::start().await;
    stack.cache = Server::start("dragonfly", &[("CLUSTER_MODE", "1")]);
    stack
}

async fn serve_all_slots(stack: &Stack) {
    ask::<()>(&stack.cache, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    eventually("it serves all slots", || async {
        let info: String = ask(&stack.cache, &["CLUSTER", "INFO"]).await;
        info.contains("cluster_state:ok")
    })
    .await;
}

#[tokio::test]
async fn doctor_and_serve_say_in_one_line_that_cluster_mode_is_not_supported() {
    for serves in [true, false] {
        let stack = cluster_of_one().await;
        if serves {
            serve_all_slots(&stack).await;
        }
        let output = run(Some(&stack), &["doctor"], &[]);
        let said = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("cache")).collect();
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("FAILED") && line.contains("cluster mode")),
            "{said}"
        );
        assert_eq!(output.status.code(), Some(1), "{said}");

        let ganesh = stack.serve(&[]).await;
        let jetstream = stack.jetstream().await;
        for batch in 0..BATCHES {
            publish(&jetstream, &events(&format!("e-{batch}"), 5)).await;
        }
        ganesh.wait_for_metric(STORED, 100.0).await;
        let subject = event("e-0-0").subject.unwrap();
        let answer = latest(&ganesh, &subject).await;
        assert_eq!(
            (answer.status, answer.cache.as_str()),
            (200, "ganesh; fwd=bypass")
        );
        assert_eq!(ganesh.metric(CACHE_UP).await.to_string(), "0");
        let log = ganesh.log();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("cluster mode"))
            .collect();
        // Again every ten seconds, and on a slow machine this takes some.
        assert!((1..=3).contains(&lines.len()), "{log}");
        assert!(lines[0].contains("REDIS_URL"), "{log}");
        assert!(
            !log.contains("CROSSSLOT") && !log.contains("CLUSTERDOWN"),
            "{log}"
        );
        assert!(ganesh.terminate().await.success());
    }
}
