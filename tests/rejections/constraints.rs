//! Constraints that somebody added to the table: whoever violates one becomes a dead letter, and is no
//! duplicate of an event that has another key.

use ganesh::event::{Event, Timestamp};
use sqlx::Executor;

use crate::support::Stack;
use crate::support::events::event;
use crate::support::keys::publish_in_one_batch;
use crate::support::ledger::letters;

const DUPLICATES: &str = "ganesh_messages_settled_total{outcome=\"duplicate\"}";
/// 2100-01-01T00:00:00Z: all of them are in the default partition.
const TIME_MICROS: i64 = 4_102_444_800_000_000;

/// A constraint, and how an event is changed to another one that violates it.
struct Constraint {
    name: &'static str,
    add: &'static str,
    remove: &'static str,
    sqlstate: &'static str,
    change: fn(&mut Event),
}

fn other_id(event: &mut Event) {
    event.id.push_str("-other");
}

fn other_source(event: &mut Event) {
    "/other".clone_into(&mut event.source);
}

const CONSTRAINTS: [Constraint; 5] = [
    Constraint {
        name: "id-time",
        add: "CREATE UNIQUE INDEX foreign_key ON events (id, time)",
        remove: "DROP INDEX foreign_key",
        sqlstate: "23505",
        change: other_source,
    },
    Constraint {
        name: "subject-time",
        add: "CREATE UNIQUE INDEX foreign_key ON events (subject, time)",
        remove: "DROP INDEX foreign_key",
        sqlstate: "23505",
        change: other_id,
    },
    Constraint {
        name: "exclusion",
        add: "ALTER TABLE events ADD CONSTRAINT foreign_key EXCLUDE USING btree (subject WITH =, time WITH =)",
        remove: "ALTER TABLE events DROP CONSTRAINT foreign_key",
        sqlstate: "23P01",
        change: other_id,
    },
    Constraint {
        name: "partition",
        add: "ALTER TABLE events_default ADD CONSTRAINT foreign_key UNIQUE (subject)",
        remove: "ALTER TABLE events_default DROP CONSTRAINT foreign_key",
        sqlstate: "23505",
        change: other_id,
    },
    Constraint {
        name: "at-commit",
        add: "ALTER TABLE events ADD CONSTRAINT foreign_key UNIQUE (subject, time) DEFERRABLE INITIALLY DEFERRED",
        remove: "ALTER TABLE events DROP CONSTRAINT foreign_key",
        sqlstate: "23505",
        change: other_id,
    },
];

/// So many events, each with another one that violates the constraint.
fn pairs(prefix: &str, pairs: i64, change: fn(&mut Event)) -> Vec<Event> {
    let mut all = Vec::new();
    for pair in 0..pairs {
        let first = Event {
            subject: Some(format!("{prefix}-{pair}")),
            time: Timestamp::from_micros(TIME_MICROS + pair),
            ..event(&format!("{prefix}-{pair}"))
        };
        let mut second = first.clone();
        change(&mut second);
        all.extend([first, second]);
    }
    all
}

#[tokio::test]
async fn a_violation_of_another_constraint_is_a_letter_and_no_duplicate() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[("GANESH_WRITERS", "1")]).await;
    let (mut rows, mut refused, mut duplicates) = (0, 0, 0.0);
    for constraint in CONSTRAINTS {
        stack.pool.execute(constraint.add).await.unwrap();
        // By INSERT at once, and by COPY first.
        for count in [2, 20] {
            let mut all = pairs(
                &format!("{}-{count}", constraint.name),
                count,
                constraint.change,
            );
            // One event twice, which is a duplicate.
            let twice = event(&format!("twice-{}-{count}", constraint.name));
            all.extend([twice.clone(), twice]);
            publish_in_one_batch(&stack, &ganesh, &all).await;
            stack.wait_until_drained().await;
            // One of each pair, the event that came twice, and the one that kept the writer busy.
            rows += count + 2;
            refused += count;
            duplicates += 1.0;
            let found = (stack.rows().await, stack.dead_letters().await);
            let expected = (rows, refused.cast_unsigned());
            assert_eq!(
                found, expected,
                "{}, {count}: rows, letters",
                constraint.name
            );
            for letter in letters(&stack).await.iter().rev().take(2) {
                assert_eq!(letter.reason, "rejected_row");
                assert!(letter.detail.contains(constraint.sqlstate), "{letter:?}");
            }
        }
        stack.pool.execute(constraint.remove).await.unwrap();
    }
    ganesh.wait_for_metric(DUPLICATES, duplicates).await;
    let counted = ganesh.metric(DUPLICATES).await;
    assert!((counted - duplicates).abs() < f64::EPSILON, "{counted}");
}
