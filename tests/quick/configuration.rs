//! The configuration: where values come from, what is refused and in which words, and
//! that no secret is ever printed.

pub mod example;
mod links;
mod mistakes;
mod secrets;
mod silent;
mod sources;
mod units;
mod unknown;

use std::process::Output;

use ganesh::config::{Config, ConfigErrors, Reader, SETTINGS, Setting};

use crate::support::binary::command;

/// Reads these values in this process.
fn read(values: &[(&'static str, &str)]) -> Result<Config, ConfigErrors> {
    let mut reader = Reader::default();
    for (env, value) in values {
        reader.set(env, (*value).to_owned());
    }
    Config::read(reader)
}

/// The settings of `serve`, some of which other commands have, too.
pub fn shared_settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS
        .iter()
        .filter(|setting| !setting.group.is_of_one_command())
}

/// What `serve` logs of its configuration before it finds no server and gives up.
fn started_with(arguments: &[&str], settings: &[(&str, &str)], dotenv: &str) -> String {
    let output = in_folder_with(dotenv, &[&["serve"], arguments].concat(), settings);
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("is not there after"), "{log}");
    log
}

/// Runs the binary where `.env` says this, with no server to be found and free ports.
fn in_folder_with(dotenv: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), dotenv).unwrap();
    command(arguments, settings)
        // Nobody listens on port 1.
        .env("POSTGRES_URL", "postgresql://127.0.0.1:1/db")
        .env("GANESH_HTTP_ADDR", "127.0.0.1:0")
        .env("GANESH_ADMIN_ADDR", "127.0.0.1:0")
        .env("GANESH_STARTUP_TIMEOUT", "1ms")
        .envs(settings.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
