//! Postgres: the pool, the schema, and every statement that touches `events`.

pub mod classify;
pub mod epoch;
pub(crate) mod limited;
pub mod pool;
pub mod queries;

pub use classify::classify;
