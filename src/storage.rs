//! Postgres: the pool, the schema, and every statement that touches `events`.

mod bisection;
pub(crate) mod classify;
mod clock;
mod copy;
mod default_rows;
pub mod epoch;
mod insert;
mod inspect;
pub(crate) mod deadline;
mod outcome;
pub mod partitions;
pub(crate) mod pool;
pub mod queries;
pub(crate) mod row;
pub mod schema;
mod timestamp;
pub(crate) mod upkeep;
pub(crate) mod write;

pub(crate) use classify::classify;
pub use clock::ServerClock;
pub use outcome::{RowOutcome, write_rows};
pub use row::Row;
pub use write::{EventWriter, WriteError, WriteOptions};
