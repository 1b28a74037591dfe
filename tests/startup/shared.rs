//! Two deployments that share a server.

use super::{inventory, refused};
use crate::support::Stack;
use crate::support::ganesh::run;
use crate::support::stack::new_database;

#[tokio::test]
async fn a_second_database_on_the_same_consumer_is_refused_and_nothing_is_made() {
    let stack = Stack::start().await;
    stack.make_streams().await;
    let jetstream = stack.jetstream().await;
    let before = inventory(&jetstream).await;
    let other = new_database().await;
    let settings = [("POSTGRES_URL", other.as_str())];
    let said = refused(&stack, &settings).await;
    let words = ["consumer ganesh: ganesh-database is ", "GANESH_CONSUMER"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert_eq!(said.matches("To fix it").count(), 1, "{said}");
    super::assert_doctor_fails(&stack, &settings, &words);
    assert_eq!(inventory(&jetstream).await, before);
    let pool = sqlx::PgPool::connect(&other).await.unwrap();
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(tables, 0);
    // Its own database is as welcome as before.
    assert!(stack.serve(&[]).await.terminate().await.success());
}

#[tokio::test]
async fn two_deployments_in_one_account_have_letters_of_their_own() {
    let stack = Stack::start().await;
    let _first = stack.serve(&[("GANESH_ACCEPT_PLAIN", "false")]).await;
    let other = new_database().await;
    let settings = [
        ("POSTGRES_URL", other.as_str()),
        ("GANESH_STREAM", "ORDERS"),
        ("GANESH_SUBJECTS", "orders.>"),
        ("GANESH_DLQ_STREAM", "ORDERS_DLQ"),
        ("GANESH_ACCEPT_PLAIN", "false"),
    ];
    let second = stack.serve(&settings).await;
    let jetstream = stack.jetstream().await;
    let subjects = super::stream_config(&jetstream, "ORDERS_DLQ")
        .await
        .subjects;
    assert_eq!(subjects, ["ORDERS_DLQ.>"]);
    for subject in ["events.bad", "orders.bad", "orders.worse"] {
        let sent = jetstream.publish(subject, "no event".into());
        sent.await.unwrap().await.unwrap();
    }
    second
        .wait_for_metric(
            "ganesh_messages_settled_total{outcome=\"dead_lettered\"}",
            2.0,
        )
        .await;
    assert_eq!(stack.dead_letters().await, 1);
    let dlq = |arguments: &[&str]| {
        let output = run(Some(&stack), &[&["dlq"], arguments].concat(), &settings);
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = dlq(&["list", "--subject", "orders.bad"]);
    assert!(
        listed.contains("1 dead letter found in ORDERS_DLQ"),
        "{listed}"
    );
    let shown = dlq(&["show", "1"]);
    assert!(shown.contains("orders.bad"), "{shown}");
    let replayed = dlq(&["replay", "--dry-run"]);
    assert!(replayed.contains("would be replayed: 2 of 2"), "{replayed}");
    // It is fit for the next start, too.
    assert!(second.terminate().await.success());
    assert!(stack.serve(&settings).await.terminate().await.success());
}

#[tokio::test]
async fn subjects_that_another_stream_has_leave_nothing_made() {
    let stack = Stack::start().await;
    let jetstream = stack.jetstream().await;
    let taken = async_nats::jetstream::stream::Config {
        name: "OTHER".to_owned(),
        subjects: vec!["dlq.>".to_owned(), "EVENTS_DLQ.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(taken).await.unwrap();
    let before = inventory(&jetstream).await;
    let said = refused(&stack, &[]).await;
    assert!(said.contains("GANESH_DLQ_STREAM"), "{said}");
    assert_eq!(inventory(&jetstream).await, before);
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
    assert_eq!(tables, 0);
}
