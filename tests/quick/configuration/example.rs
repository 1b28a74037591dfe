//! `.env.example` lists every setting with its help and its default. It is written from the
//! code: `GANESH_WRITE_DOCS=1 cargo test --locked env_example`. Its end, from
//! [`COMPOSE`] on, is written by hand, and tests/compose.rs holds it to docker-compose.yml.

use std::fmt::Write;

use ganesh::config::{Group, Reader, SETTINGS};
use ganesh::produce::options::Options;

use super::{in_folder_with, stderr};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example");

const HEAD: &str = "\
# Every setting of ganesh with its default. Copy this file to .env and take the # away from what
# you change. Single quotes keep spaces, # and $ as they are: POSTGRES_URL='postgresql://…'
# NAME_FILE instead of NAME names a file with the value, such as a mounted secret.
";

/// Where the variables begin that only docker-compose.yml reads.
pub const COMPOSE: &str = "\n# ---- docker compose:";

/// `.env.example`, cut in two before [`COMPOSE`].
pub fn parts() -> (String, String) {
    let text = std::fs::read_to_string(PATH).unwrap_or_default();
    let start = text.find(COMPOSE).unwrap_or(text.len());
    (text[..start].to_owned(), text[start..].to_owned())
}

/// The lines that set something once their `#` is gone, without it.
pub fn settable(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.starts_with("# "))
        .filter_map(|line| line.strip_prefix('#'))
}

fn from_code() -> String {
    let mut text = HEAD.to_owned();
    for group in Group::ALL {
        write!(text, "\n# ---- {} ----\n", group.heading()).unwrap();
        let settings = SETTINGS.iter().filter(|setting| setting.group == group);
        for setting in settings {
            let (help, env, default) = (setting.help, setting.env, setting.default);
            write!(text, "\n# {help}\n#{env}={default}\n").unwrap();
        }
    }
    text
}

#[test]
fn env_example_lists_every_setting_as_the_code_has_it() {
    let expected = from_code();
    let (mut found, compose) = parts();
    if std::env::var_os("GANESH_WRITE_DOCS").is_some() {
        std::fs::write(PATH, format!("{expected}{compose}")).unwrap();
        found.clone_from(&expected);
    }
    let differs = expected
        .lines()
        .zip(found.lines())
        .position(|(a, b)| a != b);
    let line = differs.unwrap_or_else(|| expected.lines().count().min(found.lines().count()));
    assert!(
        found == expected,
        ".env.example, line {}:\n  code: {}\n  file: {}\nto write it again: \
         GANESH_WRITE_DOCS=1 cargo test --locked env_example",
        line + 1,
        expected.lines().nth(line).unwrap_or("(ends)"),
        found.lines().nth(line).unwrap_or("(ends)"),
    );
}

#[test]
fn env_example_changes_nothing_as_it_is_and_is_valid_when_uncommented() {
    let commented = std::fs::read_to_string(PATH).unwrap();
    assert!(
        commented
            .lines()
            .all(|line| line.is_empty() || line.starts_with('#'))
    );
    let uncommented: String = settable(&commented).flat_map(|line| [line, "\n"]).collect();
    assert_eq!(settable(&parts().0).count(), SETTINGS.len());
    let log = |dotenv| {
        let settings = [("GANESH_MIGRATE_ON_START", "")];
        let output = in_folder_with(dotenv, &["serve"], &settings);
        let log = stderr(&output);
        let start = log
            .lines()
            .find(|line| line.contains("starting"))
            .map(str::to_owned);
        let start = start.unwrap_or_else(|| panic!("refused: {log}"));
        start[start.find("Config {").unwrap()..].to_owned()
    };
    assert_eq!(log(&uncommented), log(&commented));
}

#[test]
fn env_example_gives_the_producer_the_options_that_it_has_without_it() {
    let mut example = Reader::default();
    for line in settable(&parts().0) {
        let (name, value) = line.split_once('=').unwrap();
        example.set(name, value);
    }
    let options = Options::read(&mut example);
    assert_eq!(
        example.finish(options).unwrap(),
        Options::read(&mut Reader::default())
    );
}
