//! What the process logs: how lines look where, which ids they carry, what is never in them,
//! and which of them are logged.

mod file;
mod level;
mod lines;
mod payload;

use serde_json::Value;

use crate::support::binary::objects;

/// The lines with this message.
fn with_message(log: &str, message: &str) -> Vec<Value> {
    let mut lines = objects(log);
    lines.retain(|line| line["message"] == message);
    lines
}
