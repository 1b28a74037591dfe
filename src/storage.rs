//! Postgres: the pool, the schema, and every statement that touches `events`.

pub mod classify;
pub mod pool;

pub use classify::classify;
