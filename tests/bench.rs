//! `ganesh bench`: it measures on real servers, and touches none that somebody else uses.

use serde_json::Value;

use crate::support::Stack;
use crate::support::events::{events, publish};
use crate::support::ganesh::run;
use crate::support::servers::postgres_with;

const SMALL: [&str; 10] = [
    "bench",
    "--messages",
    "10000",
    "--pairs",
    "1",
    "--duration",
    "3s",
    "--rates",
    "200",
    "--json",
];

fn positive(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_default();
    assert!(number > 0.0, "{value}");
    number
}

#[tokio::test]
async fn it_measures_ceilings_drains_and_latency_and_counts_rows() {
    let stack = Stack::start_on(postgres_with(&[(
        "POSTGRES_ARGS",
        "-c track_commit_timestamp=on",
    )]))
    .await;
    let output = run(Some(&stack), &SMALL, &[]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["durability"]["synchronous_commit"], "on");
    assert_eq!(report["ceilings"].as_array().unwrap().len(), 6);
    for measured in ["ceilings", "bare", "drains"] {
        for one in report[measured].as_array().unwrap() {
            positive(&one["per_second"]);
        }
    }
    positive(&report["two_processes"]["per_second"]);
    let live = &report["live"][0];
    let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(|name| positive(&live[name]));
    assert!(p50 <= p99 && p99 <= max, "{live}");
    let rate = positive(&live["per_second"]);
    assert!((150.0..250.0).contains(&rate), "{rate}");
    // Most of the processor time that ganesh used is its own process's.
    positive(&live["cpu_micros"]["by_program"]["ganesh serve"]);
    // 200/s for three seconds, each message one row: the rows of the last run are there.
    assert!((550..=650).contains(&stack.rows().await));

    // Their times are those at which they were due, however late they were sent.
    let gaps = "SELECT min(gap)::float8, max(gap)::float8 FROM ( \
        SELECT extract(epoch FROM time - lag(time) OVER (ORDER BY time)) * 1e6 AS gap FROM events) AS gaps";
    let (least, most): (f64, f64) = sqlx::query_as(gaps).fetch_one(&stack.pool).await.unwrap();
    assert!(
        (4_998.0..=5_002.0).contains(&least) && most <= 5_002.0,
        "{least} to {most} us"
    );
    positive(&live["send_delay_p99_ms"]);

    let again = run(Some(&stack), &SMALL, &[]);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
}

#[tokio::test]
async fn servers_that_hold_something_or_keep_no_times_of_commits_are_refused_and_left_as_they_are()
{
    let stack = Stack::start().await;
    let refused = run(Some(&stack), &SMALL, &[]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("track_commit_timestamp is off"), "{said}");
    let ganesh = stack.serve(&[]).await;
    publish(&stack.jetstream().await, &events("e", 10)).await;
    stack.wait_until_drained().await;
    assert!(ganesh.terminate().await.success());
    let refused = run(Some(&stack), &SMALL, &[]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("stream EVENTS exists"), "{said}");
    assert_eq!(stack.rows().await, 10);
    for mistake in ["0", "1000,x", "1,2,3,4,5,6,7,8,9"] {
        let output = run(Some(&stack), &["bench", "--rates", mistake], &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("expected 1 to 8 numbers"), "{said}");
    }
}
