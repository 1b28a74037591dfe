//! The real binary, without servers.

use std::process::{Command, Output};

use serde_json::Value;

/// Where the binary is.
pub const GANESH: &str = env!("CARGO_BIN_EXE_ganesh");

/// A command of the binary that sees these settings and no others of this machine.
pub fn command(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    command_of(GANESH, arguments, settings)
}

/// The same of another build.
pub fn command_of(program: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("OTEL_TRACES_EXPORTER", "none")
        .envs(settings.iter().copied());
    command
}

/// Runs a command to its end, where there is no `.env` of the checkout.
pub fn output(mut command: Command) -> Output {
    let folder = tempfile::tempdir().unwrap();
    command.current_dir(folder.path()).output().unwrap()
}

/// Every line as the JSON object that it must be.
pub fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value.is_object(), "{line}");
        value
    };
    log.lines().map(object).collect()
}
