//! ganesh takes events from NATS JetStream and lands each exactly once in Postgres.

pub mod event;
