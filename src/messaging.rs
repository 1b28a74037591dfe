//! NATS: the connection, the streams, the consumer, what is held of it, and how
//! it is acknowledged.

pub mod connection;
pub mod consumer;
pub mod delivery;
pub mod held;
pub mod keeper;
pub mod lag;
pub mod letters;
pub mod pull;
mod removed;
pub mod streams;
pub mod unfit;
pub mod unreadable;

pub use held::Held;
