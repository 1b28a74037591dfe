//! ganesh takes events from NATS JetStream, lands each exactly once in Postgres, and
//! keeps the newest state of the subjects that are read in Dragonfly or Redis.
//!
//! ```text
//!  JetStream ─▶ source ─16─▶ decode ─16─▶ batch ─W─▶ store ×W ─4─▶ cache ─4─▶ settle ─▶ ack
//!                  │            │ not an event          │ refused row            ▲
//!                  ▼            └─────────256───────────┴──▶ dead_letter ────────┘
//!                held ◀── keeper: progress acks, releases
//! ```
//!
//! The numbers are the channels' capacities (`pipeline.rs`); W is `GANESH_WRITERS`. The
//! modules stand in the order in which a message, or who runs the process, meets them.

pub mod cli;
pub mod config;
mod text;
mod backoff;
pub mod error;
pub mod messaging;
pub mod event;
pub mod pipeline;
pub mod storage;
pub mod cache;
pub mod api;
pub mod telemetry;
pub mod produce;
