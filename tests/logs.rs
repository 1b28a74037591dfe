//! What the process logs: how lines look where, which ids they carry, what is never in them,
//! and which of them are logged.

mod file;
mod level;
mod lines;
mod payload;
mod terminal;

use serde_json::Value;

/// Every line as the JSON object that it must be.
fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value.is_object(), "{line}");
        value
    };
    log.lines().map(object).collect()
}

/// The lines with this message.
fn with_message(log: &str, message: &str) -> Vec<Value> {
    let mut lines = objects(log);
    lines.retain(|line| line["message"] == message);
    lines
}
