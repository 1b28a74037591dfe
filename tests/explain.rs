//! `ganesh explain`: one message is brought to each of its ends, and asked about.

mod ends;
mod http;
mod letters;
mod nothing;
mod places;
mod replica;
mod stream;

use std::process::Output;

use serde_json::Value;

use crate::support::Stack;
use crate::support::ganesh::run;

/// Whoever runs a ganesh on this machine keeps it out of the tests.
const NO_REPLICA: (&str, &str) = ("GANESH_ADMIN_ADDR", "127.0.0.1:1");

fn asked(stack: &Stack, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let settings = [&[NO_REPLICA], settings].concat();
    run(Some(stack), &[&["explain"], arguments].concat(), &settings)
}

/// The answer to one question, as `--json`.
fn explain_with(stack: &Stack, arguments: &[&str], settings: &[(&str, &str)]) -> Value {
    let output = asked(stack, &[&["--json"], arguments].concat(), settings);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn explain(stack: &Stack, arguments: &[&str]) -> Value {
    explain_with(stack, arguments, &[])
}

/// The answer for people.
fn in_words(stack: &Stack, arguments: &[&str]) -> String {
    let output = asked(stack, arguments, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the places say, in one text.
fn told(answer: &Value) -> String {
    let lines = answer["story"].as_array().unwrap().iter();
    let lines = lines.map(|line| {
        let (says, text) = (line["says"].as_str(), line["text"].as_str());
        format!("{} says: {}\n", says.unwrap(), text.unwrap())
    });
    lines.collect()
}

/// The places that could not be asked.
fn not_asked(answer: &Value) -> Vec<&str> {
    let gaps = answer["not_asked"].as_array().unwrap().iter();
    gaps.map(|gap| gap["place"].as_str().unwrap()).collect()
}
