//! An operator who deletes and changes rows by SQL: whatever ganesh does afterwards, the last word is his.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ganesh::event::Timestamp;
use sqlx::{PgConnection, PgExecutor, PgPool};
use tokio_util::sync::CancellationToken;

use super::nats;
use super::postgres::{FILLER, FILLERS};
use super::scene::Scene;
use super::verify::{Key, key};
use crate::support::binary;
use crate::support::ganesh::command;

/// Of the rows that were changed.
pub const CHANGED: &str = "com.example.changed";
/// So many are deleted at a time, and as many changed.
const AT_ONCE: i64 = 12;
const EVERY: Duration = Duration::from_millis(300);
/// It has no common divisor with the number of fillers, so that each comes once.
const STRIDE: i64 = 7_919;

/// What the operator did.
#[derive(Default)]
pub struct Operated {
    /// Rows of messages that were deleted.
    pub deleted: HashMap<Key, Deletion>,
    /// Rows of messages that were changed, and not deleted since.
    pub changed: HashSet<Key>,
    /// The same of rows that no message made, by their ids.
    pub fillers_deleted: HashSet<String>,
    pub fillers_changed: HashSet<String>,
}

/// How often each message had been delivered, by its stream sequence.
#[derive(Clone)]
pub struct Deletion {
    before: Rc<[u32]>,
    after: Rc<[u32]>,
}

/// What must have become of a row that was deleted when its message was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// Its message was delivered once, before that.
    Gone,
    /// Its message was delivered again later, and so stored again.
    Back,
    /// A replica may have had it from a second delivery when it was deleted, and stored it later.
    Either,
}

impl Deletion {
    /// Of an event that these messages carry, which have been delivered so often in the end.
    pub fn now(&self, sequences: &[usize], deliveries: &[u32]) -> Now {
        let sum = |counts: &[u32]| -> u32 {
            let counts = sequences.iter().map(|&sequence| counts.get(sequence));
            counts.flatten().sum()
        };
        let (before, after) = (sum(&self.before), sum(&self.after));
        assert!(before > 0, "a row of no delivery");
        match sum(deliveries) {
            _ if before > 1 || after > before => Now::Either,
            in_the_end if in_the_end > after => Now::Back,
            _ => Now::Gone,
        }
    }
}

/// Deletes and changes rows whose messages are acknowledged, for so long, and has the cache forget them.
pub async fn strike(scene: &mut Scene, lasts: Duration) {
    let (jetstream, began) = (scene.jetstream().await, Instant::now());
    let mut subject = None;
    while subject.is_none() || began.elapsed() < lasts {
        assert!(
            began.elapsed() < super::scene::RECOVERY_MAX,
            "no row is acknowledged"
        );
        tokio::time::sleep(EVERY).await;
        let Some(acknowledged) = nats::floor(&jetstream).await else {
            continue;
        };
        let acknowledged = i64::try_from(acknowledged).expect("not that many");
        let before = scene.deliveries.counts().into();
        let deleted = delete(&scene.stack.pool, acknowledged).await;
        let after = scene.deliveries.counts().into();
        let deletion = Deletion { before, after };
        let changed = change(&scene.stack.pool, acknowledged).await;
        subject = subject.or_else(|| deleted.first().map(|(_, subject)| subject.clone()));
        for (key, _) in deleted {
            scene.operated.changed.remove(&key);
            scene.operated.deleted.insert(key, deletion.clone());
        }
        let changed = changed.into_iter().map(|(key, _)| key);
        scene.operated.changed.extend(changed);
    }
    forget(scene, &subject.expect("some were deleted")).await;
}

/// Rows of the producer whose messages are acknowledged: the newest ones, and any.
fn choice(acknowledged: i64) -> String {
    let half = AT_ONCE / 2;
    let rows = format!(
        "SELECT id, source, time FROM events \
         WHERE stream_seq <= {acknowledged} AND source LIKE 'https://%'"
    );
    format!(
        "(id, source, time) IN (({rows} ORDER BY stream_seq DESC LIMIT {half}) \
         UNION ({rows} ORDER BY random() LIMIT {half})) \
         RETURNING source, id, (extract(epoch FROM time) * 1000000)::bigint, coalesce(subject, '')"
    )
}

async fn delete(pool: &PgPool, acknowledged: i64) -> Vec<(Key, String)> {
    let choice = choice(acknowledged);
    rows(pool, &format!("DELETE FROM events WHERE {choice}")).await
}

async fn change(pool: &PgPool, acknowledged: i64) -> Vec<(Key, String)> {
    let choice = choice(acknowledged);
    let change = format!("UPDATE events SET type = '{CHANGED}' WHERE {choice}");
    rows(pool, &change).await
}

/// Their keys and subjects.
async fn rows<'a>(executor: impl PgExecutor<'a>, statement: &str) -> Vec<(Key, String)> {
    let rows: Vec<(String, String, i64, String)> =
        sqlx::query_as(statement).fetch_all(executor).await.unwrap();
    rows.into_iter()
        .map(|(source, id, micros, subject)| {
            (key(&source, &id, Timestamp::from_micros(micros)), subject)
        })
        .collect()
}

async fn forget(scene: &Scene, subject: &str) {
    let forget = command(Some(&scene.stack), &["forget", "--subject", subject], &[]);
    let output = tokio::task::spawn_blocking(move || binary::output(forget));
    let output = output.await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Deletes and changes fillers from this number on until it is told to stop; each has to be there. Those
/// that were deleted, and those that were changed.
pub async fn operate_on_fillers(
    pool: PgPool,
    first: i64,
    stop: CancellationToken,
) -> [HashSet<String>; 2] {
    let mut operated = [HashSet::new(), HashSet::new()];
    for number in 0..FILLERS {
        if stop.is_cancelled() {
            break;
        }
        let is_changed = number % 2 == 1;
        let what = if is_changed {
            format!("UPDATE events SET type = '{CHANGED}'")
        } else {
            "DELETE FROM events".to_owned()
        };
        let id = format!("filler-{}", first + number * STRIDE % FILLERS);
        let statement = format!("{what} WHERE id = '{id}' AND source = '{FILLER}'");
        match sqlx::query(&statement).execute(&pool).await {
            Ok(done) => {
                assert_eq!(done.rows_affected(), 1, "{statement}");
                operated[usize::from(is_changed)].insert(id);
            }
            // Those who move rows and he waited for each other.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("40P01") => {}
            Err(error) => panic!("{statement}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    operated
}

/// Rows of messages that were changed have to be so still.
pub async fn verify_changed(scene: &Scene, connection: &mut PgConnection) {
    let statement = format!(
        "SELECT source, id, (extract(epoch FROM time) * 1000000)::bigint, '' FROM events \
         WHERE type = '{CHANGED}' AND source <> '{FILLER}'"
    );
    let changed = rows(connection, &statement).await;
    let changed: HashSet<Key> = changed.into_iter().map(|(key, _)| key).collect();
    let undone = scene.operated.changed.difference(&changed).count();
    assert_eq!(undone, 0, "changes of an operator that were undone");
    assert_eq!(changed.len(), scene.operated.changed.len());
}

/// Rows that no message made are there, but for those that were deleted, and changed as they were.
pub async fn verify_fillers(scene: &Scene, connection: &mut PgConnection) {
    let statement = format!("SELECT id, type FROM events WHERE source = '{FILLER}'");
    let found: Vec<(String, String)> = sqlx::query_as(&statement)
        .fetch_all(connection)
        .await
        .unwrap();
    let Operated {
        fillers_deleted,
        fillers_changed,
        ..
    } = &scene.operated;
    let ids: HashSet<&String> = found.iter().map(|(id, _)| id).collect();
    let back = fillers_deleted.iter().filter(|id| ids.contains(id)).count();
    assert_eq!(back, 0, "rows that an operator deleted are back");
    let expected = usize::try_from(scene.fillers).unwrap() - fillers_deleted.len();
    assert_eq!(
        (found.len(), ids.len()),
        (expected, expected),
        "rows that no message made: all, and different ones"
    );
    let changed = found.iter().filter(|(_, kind)| kind == CHANGED);
    let changed: HashSet<&String> = changed.map(|(id, _)| id).collect();
    let undone = fillers_changed.iter().filter(|id| !changed.contains(id));
    assert_eq!(undone.count(), 0, "changes of an operator that were undone");
    assert_eq!(changed.len(), fillers_changed.len());
}
