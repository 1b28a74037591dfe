//! What a request's target may carry: strict, so that a misspelt parameter is not a wider answer.

use axum::extract::RawPathParams;
use axum::extract::rejection::RawPathParamsRejection;
use percent_encoding::percent_decode_str;

use super::problem::Problem;
use crate::event::Timestamp;

/// The longest id, source or subject that an event can have.
const VALUE_MAX_BYTES: usize = 1_024;
/// A cursor has an id and a source in it, in base64.
const CURSOR_MAX_BYTES: usize = 3_072;
const ENCODING: &str = "UTF-8 in percent-encoding";

/// The query parameters that a route knows, each at most once.
///
/// # Errors
/// An unknown, repeated, empty, too long or undecodable one: named in a 400.
pub(super) fn query<const N: usize>(
    query: Option<&str>,
    known: [&str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for pair in pairs(query) {
        let (name, value) = pair?;
        let Some(place) = known.iter().position(|known| *known == name) else {
            return Err(unknown(&name, &known));
        };
        set(&mut values[place], &name, value)?;
    }
    Ok(values)
}

/// Names and values, decoded.
///
/// # Errors
/// An empty, too long or undecodable one: named in a 400.
pub(super) fn pairs(
    query: Option<&str>,
) -> impl Iterator<Item = Result<(String, String), Problem>> {
    let pairs = query.unwrap_or_default().split('&');
    pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // As in forms, a plus is a space; a plus is written %2B.
        let name = decode(&name.replace('+', " "), "a parameter's name", None)?;
        let value = decode(&value.replace('+', " "), &format!("{name:?}"), Some(&name))?;
        Ok((name, value))
    })
}

/// 400: this route has no such parameter.
pub(super) fn unknown(name: &str, known: &[&str]) -> Problem {
    let (known, expected) = if known.is_empty() {
        ("none".to_owned(), "no parameters".to_owned())
    } else {
        let known = known.join(", ");
        (known.clone(), format!("one of {known}"))
    };
    let detail = format!("unknown parameter {name:?}; this route knows: {known}");
    Problem::bad_request(detail).about(name, &expected)
}

/// Keeps the one value of a parameter.
///
/// # Errors
/// 400 when it has one already.
pub(super) fn set<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), Problem> {
    if place.is_some() {
        let detail = format!("parameter {name:?} is given more than once");
        return Err(Problem::bad_request(detail).about(name, "one value"));
    }
    *place = Some(value);
    Ok(())
}

/// A point in time.
///
/// # Errors
/// 400 when it is none.
pub(super) fn time(name: &str, value: &str) -> Result<Timestamp, Problem> {
    Timestamp::parse_rfc3339(value).ok_or_else(|| {
        let expected = "an RFC 3339 timestamp with time and offset, such as 2026-11-30T12:00:00Z or \
             2026-11-30T12:00:00%2B01:00";
        Problem::parameter(name, value, expected)
    })
}

/// # Errors
/// 400 when the range has no time in it.
pub(super) fn check_range(from: Timestamp, to: Timestamp) -> Result<(), Problem> {
    if from < to {
        return Ok(());
    }
    let expected = format!("a time after from, {from}");
    Err(Problem::parameter("to", &to.to_string(), &expected))
}

/// A whole number from 1 to `max`.
///
/// # Errors
/// 400 when it is none.
pub(super) fn count(name: &str, value: &str, max: usize) -> Result<usize, Problem> {
    let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
    let count = value.parse().ok().filter(|_| is_plain);
    count
        .filter(|count| (1..=max).contains(count))
        .ok_or_else(|| Problem::parameter(name, value, &format!("a whole number from 1 to {max}")))
}

/// The one variable segment of a route's path.
///
/// # Errors
/// 400 when it is too long or undecodable.
pub(super) fn segment(
    params: Result<RawPathParams, RawPathParamsRejection>,
    name: &str,
) -> Result<String, Problem> {
    let undecodable =
        || Problem::bad_request(format!("{name} is not {ENCODING}")).about(name, ENCODING);
    let params = params.map_err(|_| undecodable())?;
    let value = params.iter().find(|(key, _)| *key == name);
    let (_, value) = value.ok_or_else(undecodable)?;
    check(value, name, Some(name))?;
    Ok(value.to_owned())
}

/// `shown` is how an error names what is decoded, `name` the parameter that it is about.
fn decode(text: &str, shown: &str, name: Option<&str>) -> Result<String, Problem> {
    let mut escapes = text.split('%').skip(1);
    let is_encoded = escapes.all(|escape| {
        let digits = escape.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    match percent_decode_str(text).decode_utf8() {
        Ok(value) if is_encoded => {
            check(&value, shown, name)?;
            Ok(value.into_owned())
        }
        _ => Err(bad(format!("{shown} is not {ENCODING}"), name, ENCODING)),
    }
}

fn check(value: &str, shown: &str, name: Option<&str>) -> Result<(), Problem> {
    let max = match name {
        Some("cursor" | "after") => CURSOR_MAX_BYTES,
        _ => VALUE_MAX_BYTES,
    };
    let expected = format!("1 to {max} bytes without U+0000");
    // Postgres has no text with it, so it would refuse the question.
    if value.contains('\0') {
        let detail = format!("{shown} contains U+0000, which no event does");
        return Err(bad(detail, name, &expected));
    }
    match value.len() {
        0 => Err(bad(format!("{shown} is empty"), name, &expected)),
        length if length <= max => Ok(()),
        length => {
            let detail = format!("{shown} has {length} bytes: at most {max} are possible");
            Err(bad(detail, name, &expected))
        }
    }
}

fn bad(detail: String, name: Option<&str>, expected: &str) -> Problem {
    let problem = Problem::bad_request(detail);
    match name {
        Some(name) => problem.about(name, expected),
        None => problem,
    }
}
