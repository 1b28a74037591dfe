//! ganesh takes events from NATS JetStream and lands each exactly once in Postgres.

pub mod api;
pub mod cache;
pub mod cli;
pub mod config;
pub mod error;
pub mod event;
pub mod messaging;
pub mod pipeline;
pub mod produce;
pub mod storage;
pub mod telemetry;
