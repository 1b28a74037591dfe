//! P1 and P4 while Postgres misbehaves, one way a test: each event is one row in the end,
//! and what was held meanwhile is delivered once.

mod answers;
pub mod connections;
mod disk;
mod recovery;
mod server;

use ganesh::event::Event;

use crate::support::ledger::assert_each_is_one_row_or_one_letter;
use crate::support::{Ganesh, Stack};

const REDELIVERED: &str = "ganesh_messages_redelivered_total";

/// What a fault must not have cost: no row, no letter, no second delivery.
async fn assert_all_are_rows_at_their_first_delivery(
    stack: &Stack,
    ganesh: &Ganesh,
    all: &[Event],
) {
    assert_each_is_one_row_or_one_letter(stack, all).await;
    assert_eq!(stack.dead_letters().await, 0);
    assert!(ganesh.metric(REDELIVERED).await < f64::EPSILON);
}
