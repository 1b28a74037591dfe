//! Postgres: the pool, the schema, and every statement that touches `events`.

mod bisection;
pub mod classify;
mod copy;
mod default_rows;
pub mod epoch;
mod insert;
mod inspect;
pub(crate) mod limited;
pub mod partitions;
pub mod pool;
pub mod queries;
pub mod row;
pub mod schema;
pub mod upkeep;
pub mod write;

pub use classify::classify;
pub use copy::encode as encode_copy;
pub use row::Row;
pub use write::{EventWriter, RowOutcome, WriteError, WriteOptions, write_rows};
