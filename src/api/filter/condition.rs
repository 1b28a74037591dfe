//! `data.<path>=<operator>.<value>`, as PostgREST writes operators.

use serde::de::IgnoredAny;

use crate::api::problem::Problem;
use crate::event::EXPONENT_MAX;
use crate::storage::search::{Comparison, DataCondition, DataTest, JsonState, Operand};

const PATH_MAX_NAMES: usize = 16;
/// In a pattern: each costs a search of the text.
const WILDCARDS_MAX: usize = 10;

const PATH: &str = "data. and up to 16 names or places in arrays, with dots between them; a name with a dot in \
     double quotes";
const OPERATOR: &str = "eq.V, neq.V, gt.V, gte.V, lt.V, lte.V, in.(V,V), like.P*, is.null, is.not_null, is.true \
     or is.false";
const LIST: &str = "values in parentheses, such as in.(a,b,\"c,d\")";
const PATTERN: &str = "a pattern of up to 10 wildcards (* or %) that does not end with a backslash";
const STATE: &str = "is.null, is.not_null, is.true or is.false";
const NUMBER: &str = "a number with an exponent of at most 1000";

/// # Errors
/// 400 that names the parameter.
pub(super) fn read(name: &str, value: &str) -> Result<DataCondition, Problem> {
    let path = name.strip_prefix("data.").and_then(|path| split(path, '.'));
    let is_path = |path: &Vec<String>| {
        path.len() <= PATH_MAX_NAMES && path.iter().all(|name| !name.is_empty())
    };
    let path = path
        .filter(is_path)
        .ok_or_else(|| Problem::parameter(name, value, PATH))?;
    let test = test(value).map_err(|expected| Problem::parameter(name, value, expected))?;
    Ok(DataCondition { path, test })
}

/// What was expected, if it is none.
fn test(value: &str) -> Result<DataTest, &'static str> {
    let (operator, rest) = value.split_once('.').ok_or(OPERATOR)?;
    let comparison = match operator {
        "eq" => Comparison::Equal,
        "neq" => Comparison::NotEqual,
        "gt" => Comparison::Greater,
        "gte" => Comparison::GreaterOrEqual,
        "lt" => Comparison::Less,
        "lte" => Comparison::LessOrEqual,
        "in" => return list(rest),
        "like" => return pattern(rest),
        "is" => return state(rest),
        _ => return Err(OPERATOR),
    };
    Ok(DataTest::Compare(comparison, operand(rest.to_owned())?))
}

fn operand(text: String) -> Result<Operand, &'static str> {
    let is_number = is_number(&text);
    if is_number {
        let exponent = text
            .split_once(['e', 'E'])
            .map_or("0", |(_, exponent)| exponent);
        let is_small = exponent
            .parse::<isize>()
            .is_ok_and(|exponent| exponent.unsigned_abs() <= EXPONENT_MAX);
        if !is_small {
            return Err(NUMBER);
        }
    }
    Ok(Operand { text, is_number })
}

/// A number of JSON, without the blanks that may stand around it.
fn is_number(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let ends = text.ends_with(|c: char| c.is_ascii_digit());
    begins && ends && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn list(rest: &str) -> Result<DataTest, &'static str> {
    let inner = rest
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .ok_or(LIST)?;
    let values = split(inner, ',').ok_or(LIST)?;
    let operands: Result<_, _> = values.into_iter().map(operand).collect();
    Ok(DataTest::In(operands?))
}

fn pattern(rest: &str) -> Result<DataTest, &'static str> {
    let pattern = rest.replace('*', "%");
    let ends_escaping = pattern
        .bytes()
        .rev()
        .take_while(|byte| *byte == b'\\')
        .count()
        % 2
        == 1;
    if ends_escaping || pattern.matches('%').count() > WILDCARDS_MAX {
        return Err(PATTERN);
    }
    Ok(DataTest::Like(pattern))
}

fn state(rest: &str) -> Result<DataTest, &'static str> {
    let state = match rest {
        "null" => JsonState::Null,
        "not_null" => JsonState::NotNull,
        "true" => JsonState::True,
        "false" => JsonState::False,
        _ => return Err(STATE),
    };
    Ok(DataTest::Is(state))
}

/// The parts of a text. A part in double quotes may hold the separator; a backslash there stands before a
/// quote or a backslash. `None`: a quote has no end, or something follows it.
fn split(text: &str, separator: char) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = if let Some(quoted) = rest.strip_prefix('"') {
            unquote(quoted)?
        } else {
            let end = rest.find(separator).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        parts.push(part);
        if after.is_empty() {
            return Some(parts);
        }
        rest = after.strip_prefix(separator)?;
    }
}

/// What stands before the closing quote, and what after it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((part, &text[at + 1..])),
            '\\' => part.push(chars.next()?.1),
            c => part.push(c),
        }
    }
    None
}
