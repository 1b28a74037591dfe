//! What docs/QUERIES.md says about indexes: those of the user's, and ranges that are small.

use ganesh::config::PartitionInterval;
use ganesh::event::Timestamp;
use ganesh::storage::partitions::{make_ahead, partition_of};
use ganesh::storage::schema;
use sqlx::{Executor, PgPool};

use super::plans::{assert_served_by_the_index_of_the_page, scans};
use super::{BY_OWN_INDEX, filled, queries, statements};
use crate::support::stack::new_database;

#[tokio::test]
async fn an_index_of_the_users_serves_the_queries_that_the_page_names() {
    let (_alone, pool) = filled().await;
    let mut undone = pool.begin().await.unwrap();
    for statement in statements("CREATE INDEX").chain(["ANALYZE events"]) {
        undone.execute(statement).await.unwrap();
    }
    let mut queries = queries();
    for name in BY_OWN_INDEX {
        let scans = scans(&mut *undone, &queries[name]).await;
        assert_served_by_the_index_of_the_page(name, &scans);
    }
    let path = queries.remove("by containment").unwrap();
    let path = path.replace(
        "@> '{\"samples_celsius\": [40]}'",
        "@? '$.samples_celsius[*] ? (@ == 40)'",
    );
    let scans = scans(&mut *undone, &path).await;
    assert_served_by_the_index_of_the_page("by containment", &scans);
    undone.rollback().await.unwrap();
    // The only session of the pool: what it has read would count in the next test.
    let flush = "SELECT pg_stat_force_next_flush()";
    pool.execute(flush).await.unwrap();
}

#[tokio::test]
async fn a_range_that_is_small_beside_its_partition_is_read_by_the_index_on_time() {
    let (_alone, pool) = filled().await;
    let queries = queries();
    for name in ["rate", "latency", "slowest", "top talkers", "late"] {
        let narrow = queries[name].replace("'2026-11-25'", "'2026-11-24 00:15'");
        assert_ne!(narrow, queries[name]);
        let scans = scans(&pool, &narrow).await;
        // Of the page's queries this one has that index.
        assert_served_by_the_index_of_the_page("by value", &scans);
    }
}

/// Whether the index of the parent covers all partitions.
async fn is_whole(pool: &PgPool) -> bool {
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'events_celsius'::regclass";
    sqlx::query_scalar(valid).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn an_index_that_is_made_partition_by_partition_covers_them_all_and_those_to_come() {
    let pool = PgPool::connect(&new_database().await).await.unwrap();
    schema::migrate(&pool).await.unwrap();
    let now = Timestamp::now();
    make_ahead(&pool, PartitionInterval::Day, now)
        .await
        .unwrap();
    let on = "(((data ->> 'temperature_celsius')::numeric))";
    let parent = format!("CREATE INDEX events_celsius ON ONLY events {on}");
    pool.execute(parent.as_str()).await.unwrap();
    assert!(!is_whole(&pool).await);
    let partitions =
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass";
    let partitions: Vec<String> = sqlx::query_scalar(partitions)
        .fetch_all(&pool)
        .await
        .unwrap();
    for partition in partitions {
        for statement in [
            format!("CREATE INDEX CONCURRENTLY {partition}_celsius ON {partition} {on}"),
            format!("ALTER INDEX events_celsius ATTACH PARTITION {partition}_celsius"),
        ] {
            pool.execute(statement.as_str()).await.unwrap();
        }
    }
    assert!(is_whole(&pool).await);
    let later = Timestamp::from_micros(now.micros() + 50 * 86_400_000_000);
    make_ahead(&pool, PartitionInterval::Day, later)
        .await
        .unwrap();
    let name = partition_of(later, PartitionInterval::Day).name;
    let attached = format!(
        "SELECT count(*) FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid \
         WHERE inhparent = 'events_celsius'::regclass AND indrelid = '{name}'::regclass"
    );
    let attached: i64 = sqlx::query_scalar(&attached)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(attached, 1);
}
