//! Programs of others, in Python, that read what the API answers.

use std::process::Command;

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Python with a package that scripts/fetch knows.
pub fn python_with(package: &str) -> Command {
    let fetch = format!("{ROOT}/scripts/fetch");
    let output = Command::new(fetch).args(["--print", package]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let folder = String::from_utf8(output.stdout).unwrap();
    let mut python = Command::new("python3");
    python
        .env("PYTHONPATH", folder.trim())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    python
}
