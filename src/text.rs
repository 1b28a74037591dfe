//! Text that others chose, as people may see it: cut, and without characters that act on a
//! terminal or break a log line.

use std::fmt::Display;

use serde::Serializer;

const QUOTED_MAX_CHARS: usize = 40;

/// The beginning of a text: whole characters, of `max_bytes` at most.
pub(crate) fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// Serialises a value as people read it.
pub(crate) fn as_text<S: Serializer>(
    value: &impl Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A name or a short value in quotes, its end cut off where it is long.
pub(crate) fn quoted(text: &str) -> String {
    let start = text.chars().take(QUOTED_MAX_CHARS);
    let shown: String = start.flat_map(char::escape_debug).collect();
    let more = text.chars().nth(QUOTED_MAX_CHARS).map_or("", |_| "…");
    format!("\"{shown}{more}\"")
}

/// Printable ASCII, other characters as `\n` or `\u{e9}`; `max_bytes` at most.
pub(crate) fn printable(text: &str, max_bytes: usize) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        let before = shown.len();
        push(&mut shown, c, c != ' ' && !c.is_ascii_graphic());
        if shown.len() > max_bytes {
            shown.truncate(before);
            break;
        }
    }
    shown
}

/// Escapes line breaks and characters that move the text around them.
pub(crate) fn on_one_line(text: &str) -> String {
    escape(text, moves_text)
}

/// As [`on_one_line`], but line breaks and tabs stay.
pub(crate) fn on_lines(text: &str) -> String {
    escape(text, |c| moves_text(c) && !matches!(c, '\n' | '\t'))
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        push(&mut shown, c, is_escaped(c));
    }
    shown
}

fn push(shown: &mut String, c: char, escape: bool) {
    if escape {
        shown.extend(c.escape_default());
    } else {
        shown.push(c);
    }
}

/// Control characters, line separators, and marks of writing direction.
fn moves_text(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
