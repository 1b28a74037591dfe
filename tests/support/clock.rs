//! A wall clock of a process that a test can set.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A library that steps the wall clock of a process that loads it, and the file that says how far.
pub struct Clock {
    folder: TempDir,
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// Compiles it with the linker that Rust needs as well.
    pub fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Self {
            library: folder.path().join("clock.so"),
            file: folder.path().join("step"),
            folder,
        };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&clock.library)
            .arg(source)
            .status()
            .unwrap();
        assert!(compiled.success(), "in {}", clock.folder.path().display());
        clock.step(0);
        clock
    }

    /// What a process needs in its environment.
    pub fn settings(&self) -> [(&'static str, &str); 2] {
        [
            ("LD_PRELOAD", self.library.to_str().unwrap()),
            ("CLOCK_STEP_FILE", self.file.to_str().unwrap()),
        ]
    }

    /// Sets it so far ahead of the machine's. Written in place: the process has mapped the file, and
    /// a page of it that is gone for a moment would end that process.
    pub fn step(&self, seconds: i64) {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.file)
            .unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}
