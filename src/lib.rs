//! ganesh takes events from NATS JetStream, lands each exactly once in Postgres, and
//! keeps the newest state of the subjects that are read in Dragonfly or Redis.
//!
//! ```text
//!  JetStream ─▶ source, decode ─▶ queue ─▶ writer ×W: store ─▶ cache ─▶ settle ─▶ ack
//!                  │                │        COPY or     newest    ack after
//!                  │ no event       │        INSERT      states    the commit
//!                  ▼                │          │ rejected row
//!               dead letters ◀──────┼──────────┘
//!               held ◀── keepalive: progress acks, releases
//! ```
//!
//! W is four times `GANESH_WRITERS`, of which `GANESH_WRITERS` store at the same time. The queue holds
//! no more than may be held (`GANESH_MAX_IN_FLIGHT`). `pipeline.rs` names the file of
//! each step. Imports run one way (tests/quick/architecture.rs).

pub mod config;
pub mod cli;
pub mod error;
pub mod labels;
mod text;
mod backoff;
mod tls;
pub mod event;
pub mod message;
pub mod messaging;
pub mod pipeline;
pub mod storage;
pub mod cache;
pub mod observe;
pub(crate) mod api;
pub mod telemetry;
pub mod produce;
pub(crate) mod bench;
