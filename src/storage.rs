//! Postgres: the pool, the schema, and every statement that touches `events`. A write takes this way:
//! write.rs → round.rs → outcome.rs → copy.rs or insert.rs.

mod bisection;
pub(crate) mod blockers;
pub(crate) mod classify;
mod clock;
mod columns;
mod copy;
pub mod counts;
mod default_rows;
pub mod epoch;
mod exclusion;
mod fates;
pub(crate) mod identity;
mod insert;
mod inspect;
mod keys;
mod layout;
pub(crate) mod deadline;
mod statement;
pub(crate) mod ownership;
mod part_limit;
pub mod partitions;
pub(crate) mod pool;
pub mod queries;
mod round;
pub(crate) mod row;
pub mod schema;
pub mod search;
pub(crate) mod session;
pub mod subjects;
mod timestamp;
pub(crate) mod trail;
mod trials;
pub mod turn;
pub(crate) mod upkeep;
pub(crate) mod write;

pub(crate) use classify::{classify, sqlstate_in};
pub use clock::ServerClock;
pub use fates::MessageFate;
pub use round::OnTransient;
pub use row::Row;
pub use statement::{RowOutcome, write_rows};
pub use write::{EventWriter, FailureCause, WriteFailure, WriteOptions};
