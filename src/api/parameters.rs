//! What a request's target may carry: strict, so that a misspelt parameter is not a wider answer.

use axum::extract::RawPathParams;
use axum::extract::rejection::RawPathParamsRejection;
use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// The longest id, source or subject that an event can have.
const VALUE_MAX_BYTES: usize = 1_024;

/// The query parameters that a route knows, each at most once.
///
/// # Errors
/// An unknown, repeated, empty, too long or undecodable one: named in a 400.
pub(super) fn query<const N: usize>(
    query: Option<&str>,
    known: [&str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    let pairs = query.unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(&name.replace('+', " "), "a parameter's name")?;
        let Some(place) = known.iter().position(|known| *known == name) else {
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            return Err(Problem::bad_request(format!(
                "unknown parameter {name:?}; this route knows: {known}"
            )));
        };
        if values[place].is_some() {
            return Err(Problem::bad_request(format!(
                "parameter {name:?} is given more than once"
            )));
        }
        // As in forms, a plus is a space; a plus is written %2B.
        values[place] = Some(decode(&value.replace('+', " "), &format!("{name:?}"))?);
    }
    Ok(values)
}

/// The one variable segment of a route's path.
///
/// # Errors
/// 400 when it is too long or undecodable.
pub(super) fn segment(
    params: Result<RawPathParams, RawPathParamsRejection>,
    name: &str,
) -> Result<String, Problem> {
    let undecodable = || Problem::bad_request(format!("{name} is not UTF-8 in percent-encoding"));
    let params = params.map_err(|_| undecodable())?;
    let value = params.iter().find(|(key, _)| *key == name);
    let (_, value) = value.ok_or_else(undecodable)?;
    check(value, name)?;
    Ok(value.to_owned())
}

fn decode(text: &str, name: &str) -> Result<String, Problem> {
    let mut escapes = text.split('%').skip(1);
    let is_encoded = escapes.all(|escape| {
        let digits = escape.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    match percent_decode_str(text).decode_utf8() {
        Ok(value) if is_encoded => {
            check(&value, name)?;
            Ok(value.into_owned())
        }
        _ => Err(Problem::bad_request(format!(
            "{name} is not UTF-8 in percent-encoding"
        ))),
    }
}

fn check(value: &str, name: &str) -> Result<(), Problem> {
    // Postgres has no text with it, so it would refuse the question.
    if value.contains('\0') {
        let detail = format!("{name} contains U+0000, which no event does");
        return Err(Problem::bad_request(detail));
    }
    match value.len() {
        0 => Err(Problem::bad_request(format!("{name} is empty"))),
        1..=VALUE_MAX_BYTES => Ok(()),
        length => Err(Problem::bad_request(format!(
            "{name} has {length} bytes: at most {VALUE_MAX_BYTES} are possible"
        ))),
    }
}
