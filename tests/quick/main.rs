//! Tests that need no server: `make quick`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]
#![allow(
    unreachable_pub,
    reason = "one binary: all of it is for the other files"
)]

mod architecture;
mod catalogue;
mod codec;
mod compose;
mod configuration;
mod dashboards;
mod openmetrics;
mod produce;
mod rejections;
mod rules;
mod stages;
mod support;
mod terminal;
