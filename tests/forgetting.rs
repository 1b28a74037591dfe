//! `ganesh forget`: what the cache holds of a subject is not answered any more.

use sqlx::Executor;

use crate::support::events::publish;
use crate::support::ganesh::run;
use crate::support::reads::{ago, latest, latest_by_cache, of};
use crate::support::{Stack, eventually};

/// Runs it to its end. What it says.
fn forget(stack: &Stack, subject: &str) -> String {
    let output = run(Some(stack), &["forget", "--subject", subject], &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_deleted_row_is_forgotten_and_what_is_left_of_the_subject_is_named() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let all = [of("s", "older", ago(2_000)), of("s", "newer", ago(1_000))];
    publish(&stack.jetstream().await, &all).await;
    stack.wait_until_drained().await;
    eventually("the cache has it", || async {
        latest_by_cache(&ganesh, "s").await.cache.contains("hit")
    })
    .await;
    for (id, left, words) in [
        ("newer", Some("older".to_owned()), "has events"),
        ("older", None, "no event"),
    ] {
        let delete = format!("DELETE FROM events WHERE id = '{id}'");
        stack.pool.execute(delete.as_str()).await.unwrap();
        let said = forget(&stack, "s");
        assert!(said.contains(words), "{said}");
        // Each process learns of it within a second.
        eventually("it is forgotten", || async {
            latest(&ganesh, "s").await.id == left
        })
        .await;
        for _ in 0..3 {
            assert_eq!(latest(&ganesh, "s").await.id, left);
        }
    }
}

#[tokio::test]
async fn without_a_subject_it_says_what_is_missing() {
    let stack = Stack::start().await;
    let output = run(Some(&stack), &["forget"], &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("GANESH_FORGET_SUBJECT"), "{said}");
}
