//! Behaviour tests: one file for each behaviour, against real servers that they
//! start themselves on free ports.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

mod codec;
mod exactly_once;
mod produce;
mod support;
