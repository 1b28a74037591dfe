//! Text for people on a terminal, JSON elsewhere.

use std::fs::File;
use std::io::Read;
use std::process::Output;
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::binary::{command, objects};

/// `serve` that finds no Postgres and gives up at once, having logged a little.
fn serve(settings: &[(&str, &str)]) -> std::process::Command {
    let mut command = command(&["serve"], settings);
    command
        .env("POSTGRES_URL", "postgresql://127.0.0.1:1/db")
        .env("GANESH_HTTP_ADDR", "127.0.0.1:0")
        .env("GANESH_ADMIN_ADDR", "127.0.0.1:0")
        .env("GANESH_STARTUP_TIMEOUT", "1ms")
        .current_dir(std::env::temp_dir());
    command
}

/// What it shows on a terminal.
fn on_terminal(settings: &[(&str, &str)]) -> String {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let mut command = serve(settings);
    let mut child = command.stderr(theirs).spawn().unwrap();
    // It holds the other end, without which reading would end in time.
    drop(command);
    let reader = thread::spawn(move || {
        let mut shown = Vec::new();
        // Ends with EIO when nobody holds the other end any more.
        let _ = File::from(ours).read_to_end(&mut shown);
        String::from_utf8(shown).unwrap()
    });
    assert_eq!(child.wait().unwrap().code(), Some(1));
    reader.join().unwrap()
}

fn log_of(settings: &[(&str, &str)]) -> String {
    let Output { stderr, .. } = serve(settings).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    // The last line is what main says to whoever started it.
    let (log, last) = said.trim_end().rsplit_once('\n').unwrap();
    assert!(last.starts_with("ganesh: "), "{last}");
    log.to_owned()
}

#[test]
fn a_terminal_shows_coloured_text() {
    let shown = on_terminal(&[]);
    assert!(shown.contains("starting"), "{shown}");
    assert!(shown.contains("\x1b[32m"), "{shown}");
    assert!(!shown.starts_with('{'), "{shown}");
}

#[test]
fn a_terminal_shows_no_colour_to_who_wants_none() {
    let shown = on_terminal(&[("NO_COLOR", "1")]);
    assert!(shown.contains("starting"), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown}");
}

#[test]
fn a_terminal_shows_json_when_asked_for() {
    let shown = on_terminal(&[("GANESH_LOG_FORMAT", "json")]);
    let first = shown.lines().next().unwrap();
    assert_eq!(objects(first)[0]["message"], "starting");
}

#[test]
fn elsewhere_lines_are_json() {
    let lines = objects(&log_of(&[]));
    assert_eq!(lines[0]["message"], "starting");
    for line in &lines {
        for member in ["timestamp", "level", "target", "message"] {
            assert!(line[member].is_string(), "{member}: {line}");
        }
    }
}

#[test]
fn elsewhere_lines_are_plain_text_when_asked_for() {
    let log = log_of(&[("GANESH_LOG_FORMAT", "text")]);
    assert!(log.contains("INFO") && log.contains("starting"), "{log}");
    assert!(!log.contains('\x1b') && !log.starts_with('{'), "{log}");
}
