//! NATS: the connection, the streams, the consumer, the register of what is held, progress acks and
//! releases.

pub(crate) mod connection;
pub(crate) mod consumer;
pub mod delivery;
pub mod in_flight;
pub(crate) mod keepalive;
pub(crate) mod lag;
pub mod letters;
mod login;
pub(crate) mod position;
pub(crate) mod pull;
pub(crate) mod readable;
mod refusals;
mod removed;
pub mod streams;
pub(crate) mod reported;
pub(crate) mod requirements;
pub(crate) mod unreadable;

pub use in_flight::InFlight;
