//! Numbers of JSON that are short as they come and long as Postgres writes them.

use memchr::memchr2_iter;

use super::{DecodeError, DecodeReason};

/// The largest exponent of a number, with either sign. Postgres writes numbers out: 9 bytes of `1e131071`
/// are 131 KB. All that a double can hold is far inside.
pub const EXPONENT_MAX: usize = 1_000;

/// Refuses valid JSON that has a number with a larger exponent than [`EXPONENT_MAX`].
pub(super) fn check_exponents(json: &str) -> Result<(), DecodeError> {
    let bytes = json.as_bytes();
    // Nearly every letter that could begin an exponent stands in a text, and not behind a digit.
    let is_suspect = memchr2_iter(b'e', b'E', bytes).any(|at| begins_large_exponent(bytes, at));
    if !is_suspect || !has_large_exponent(bytes) {
        return Ok(());
    }
    Err(DecodeError::new(
        DecodeReason::InvalidJson,
        format!(
            "the data has a number with an exponent beyond {EXPONENT_MAX} (either sign): such numbers are \
             too long without it"
        ),
    ))
}

/// The same, without what stands in texts.
fn has_large_exponent(json: &[u8]) -> bool {
    let mut in_text = false;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => in_text = !in_text,
            b'\\' => at += 1,
            b'e' | b'E' if !in_text && begins_large_exponent(json, at) => return true,
            _ => {}
        }
        at += 1;
    }
    false
}

fn begins_large_exponent(json: &[u8], at: usize) -> bool {
    let follows_digit = at
        .checked_sub(1)
        .is_some_and(|before| json[before].is_ascii_digit());
    follows_digit && {
        let digits = json[at + 1..].strip_prefix(b"-").unwrap_or(&json[at + 1..]);
        let digits = digits.strip_prefix(b"+").unwrap_or(digits);
        magnitude(digits) > EXPONENT_MAX
    }
}

/// The number that these digits begin with; large ones only as large.
fn magnitude(digits: &[u8]) -> usize {
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum: usize, digit| {
        sum.saturating_mul(10)
            .saturating_add(usize::from(digit - b'0'))
    })
}
