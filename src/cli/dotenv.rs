//! `.env` in the working directory, read as Compose reads it. What both would read otherwise is
//! refused.

use std::collections::HashMap;

const FILE: &str = ".env";

/// Adds the settings of `.env` to the environment, which wins.
///
/// # Errors
/// A sentence about the line, without its text: a password may stand in it.
pub(super) fn read() -> Result<(), String> {
    // What cannot be read is said below.
    check(&std::fs::read_to_string(FILE).unwrap_or_default())?;
    match dotenvy::from_path(FILE) {
        Err(error) if error.not_found() => Ok(()),
        Err(dotenvy::Error::LineParse(line, _)) => {
            // What the library calls the line may be the value alone.
            let found = line.lines().next().unwrap_or_default().trim();
            let text = std::fs::read_to_string(FILE).unwrap_or_default();
            let number = text
                .lines()
                .position(|line| !line.trim_start().starts_with('#') && line.contains(found));
            let place = number.map_or_else(String::new, |number| format!(" line {}", number + 1));
            Err(format!(
                "{FILE}{place}: expected NAME=value, in quotes when the value holds spaces, quotes or #"
            ))
        }
        Err(error) => Err(format!(
            "{FILE}: {error}: expected a readable file, or none"
        )),
        Ok(()) => Ok(()),
    }
}

fn check(text: &str) -> Result<(), String> {
    let mut lines = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start();
        if line.starts_with('#') {
            continue;
        }
        if substitutes(line) {
            return Err(format!(
                "{FILE} line {number}: Compose reads a $ otherwise: put the value in 'single quotes'"
            ));
        }
        let Some((name, _)) = line.split_once('=') else {
            continue;
        };
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        if let Some(first) = lines.insert(name, number) {
            return Err(format!(
                "{FILE} line {number}: {name} is in line {first}, too: expected each name once"
            ));
        }
    }
    Ok(())
}

/// Whether a line has a `$` that is neither in single quotes, escaped, nor in a comment.
fn substitutes(line: &str) -> bool {
    let mut quote = None;
    let mut before = ' ';
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return false,
            (Some('\''), c) if c != '\'' => {}
            (None | Some('"'), '\\') => {
                characters.next();
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (_, '$') => return true,
            _ => {}
        }
        before = c;
    }
    false
}
