//! P13: each link encrypted and authenticated, by servers of the test with certificates of the test. What one
//! side does not accept in the other is one line that names the variable to correct.

mod nats;
mod otlp;
mod postgres;
mod redis;

use std::process::Output;

use crate::support::ganesh::run;

/// What a command says that refuses its settings, or what they lead to: one line, exit code 2.
fn refused(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let Output { status, stderr, .. } = run(None, arguments, settings);
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{settings:?}: {said}");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("ganesh: "))
        .collect();
    assert_eq!(lines.len(), 1, "{said}");
    lines[0].to_owned()
}

/// The settings with one more, or another value of one.
fn with<'a>(
    settings: &[(&'a str, &'a str)],
    changed: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let kept = settings
        .iter()
        .filter(|(name, _)| changed.iter().all(|(other, _)| other != name));
    kept.chain(changed)
        .copied()
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

/// The block of code in docs/DEPLOYMENT.md that follows this comment.
fn documented(name: &str) -> String {
    let page = include_str!("../docs/DEPLOYMENT.md");
    let mark = format!("<!-- {name} -->\n");
    let (_, after) = page.split_once(&mark).expect("the page has the mark");
    let (_, code) = after.split_once("```").expect("a block follows");
    let (_, code) = code.split_once('\n').expect("a block has lines");
    let (code, _) = code.split_once("```").expect("the block ends");
    code.to_owned()
}
