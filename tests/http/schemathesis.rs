//! Schemathesis (PyPI `schemathesis`) makes requests by the OpenAPI document, and finds no answer that is not as the
//! document says.

use std::process::Stdio;

use super::client::store;
use super::python::{ROOT, python_with};
use crate::support::Stack;
use crate::support::events::events;

/// Random requests for an operation, after those that try the limits of each parameter.
const EXAMPLES: &str = "4";
const SEED: &str = "7";

#[tokio::test]
async fn schemathesis_finds_nothing() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    store(&stack, &events("e", 20)).await;
    // It writes what it has found, and what it remembers.
    let folder = tempfile::tempdir().unwrap();
    let settings = format!("{ROOT}/tests/http/schemathesis.toml");
    let output = python_with("schemathesis")
        .args(["-c", "import schemathesis.cli as cli; cli.schemathesis()"])
        .args(["--config-file", &settings, "run"])
        .arg(format!("{}/v1/openapi.json", ganesh.api))
        .args(["--max-examples", EXAMPLES, "--seed", SEED])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
}
