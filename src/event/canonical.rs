//! JSON as Postgres writes a `jsonb`: of equal keys the last one, keys ordered by length, numbers without
//! exponent. So a state that the cache was given after a write is the same text as one that was read back.

use std::borrow::Cow;

use memchr::memchr2;

use super::JSON_DEPTH_MAX_LEVELS;
use super::numbers::EXPONENT_MAX;

/// The text of `json::jsonb`. `None` where Postgres may refuse it or write something else, and where it has
/// more than `max_bytes`.
pub fn canonical_json(json: &str, max_bytes: usize) -> Option<String> {
    let mut reader = JsonText { rest: json };
    let value = reader.value(JSON_DEPTH_MAX_LEVELS)?;
    reader.skip_blanks();
    if !reader.rest.is_empty() {
        return None;
    }
    let mut text = String::with_capacity(json.len() + json.len() / 4);
    put(&value, &mut text, max_bytes)?;
    Some(text)
}

enum Value<'a> {
    /// `null`, `true`, `false`.
    Word(&'a str),
    Number(&'a str),
    Text(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// Reads JSON that was found valid. Of what is not, it makes `None` or anything.
struct JsonText<'a> {
    rest: &'a str,
}

impl<'a> JsonText<'a> {
    fn value(&mut self, levels: usize) -> Option<Value<'a>> {
        self.skip_blanks();
        match self.rest.as_bytes().first()? {
            b'"' => self.text().map(Value::Text),
            b'[' => self.array(levels.checked_sub(1)?).map(Value::Array),
            b'{' => self.object(levels.checked_sub(1)?).map(Value::Object),
            b'-' | b'0'..=b'9' => Some(Value::Number(self.take_while(|byte| {
                byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E')
            }))),
            _ => match self.take_while(u8::is_ascii_lowercase) {
                word @ ("null" | "true" | "false") => Some(Value::Word(word)),
                _ => None,
            },
        }
    }

    fn array(&mut self, levels: usize) -> Option<Vec<Value<'a>>> {
        let mut values = Vec::new();
        self.take("[")?;
        if self.take("]").is_some() {
            return Some(values);
        }
        loop {
            values.push(self.value(levels)?);
            if self.take(",").is_none() {
                return self.take("]").map(|()| values);
            }
        }
    }

    fn object(&mut self, levels: usize) -> Option<Vec<(Cow<'a, str>, Value<'a>)>> {
        let mut members = Vec::new();
        self.take("{")?;
        if self.take("}").is_some() {
            return Some(members);
        }
        loop {
            self.skip_blanks();
            let name = self.text()?;
            self.take(":")?;
            members.push((name, self.value(levels)?));
            if self.take(",").is_none() {
                self.take("}")?;
                break;
            }
        }
        // Stable: equal names stay in their order, and the last one counts.
        members.sort_by(|(one, _), (other, _)| (one.len(), one).cmp(&(other.len(), other)));
        members.reverse();
        members.dedup_by(|(earlier, _), (later, _)| earlier == later);
        members.reverse();
        Some(members)
    }

    fn text(&mut self) -> Option<Cow<'a, str>> {
        let inner = self.rest.strip_prefix('"')?;
        let mut end = memchr2(b'"', b'\\', inner.as_bytes())?;
        let has_escapes = inner.as_bytes()[end] == b'\\';
        while inner.as_bytes()[end] == b'\\' {
            // What is escaped is no end.
            let next = end + 2;
            end = next + memchr2(b'"', b'\\', inner.as_bytes().get(next..)?)?;
        }
        let whole = &self.rest[..end + 2];
        self.rest = &self.rest[end + 2..];
        if has_escapes {
            let text: String = serde_json::from_str(whole).ok()?;
            // No text of Postgres can hold it.
            (!text.contains('\0')).then_some(Cow::Owned(text))
        } else {
            Some(Cow::Borrowed(&inner[..end]))
        }
    }

    fn take(&mut self, token: &str) -> Option<()> {
        self.skip_blanks();
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn take_while(&mut self, is_part: impl Fn(&u8) -> bool) -> &'a str {
        let end = self.rest.bytes().position(|byte| !is_part(&byte));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }
}

fn put(value: &Value<'_>, text: &mut String, max_bytes: usize) -> Option<()> {
    match value {
        Value::Word(word) => text.push_str(word),
        Value::Number(number) => put_plain(number, text)?,
        Value::Text(content) => put_text(content, text),
        Value::Array(values) => {
            text.push('[');
            for (place, value) in values.iter().enumerate() {
                if place > 0 {
                    text.push_str(", ");
                }
                put(value, text, max_bytes)?;
            }
            text.push(']');
        }
        Value::Object(members) => {
            text.push('{');
            for (place, (name, value)) in members.iter().enumerate() {
                if place > 0 {
                    text.push_str(", ");
                }
                put_text(name, text);
                text.push_str(": ");
                put(value, text, max_bytes)?;
            }
            text.push('}');
        }
    }
    (text.len() <= max_bytes).then_some(())
}

/// As `escape_json` of Postgres.
fn put_text(content: &str, text: &mut String) {
    text.push('"');
    let mut rest = content;
    while let Some(at) = rest
        .bytes()
        .position(|byte| byte < b' ' || matches!(byte, b'"' | b'\\'))
    {
        text.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'\x08' => text.push_str("\\b"),
            b'\x0c' => text.push_str("\\f"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            control => {
                text.push_str(if control < 0x10 { "\\u000" } else { "\\u001" });
                text.push(char::from(b"0123456789abcdef"[usize::from(control % 0x10)]));
            }
        }
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
    text.push('"');
}

/// Writes a number as Postgres writes a `numeric`: no exponent, no `-0`, and as many digits behind the
/// point as were given. `None` for what is no number, and for a larger exponent than [`EXPONENT_MAX`].
pub(super) fn put_plain(number: &str, text: &mut String) -> Option<()> {
    let (is_negative, unsigned) = match number.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, number),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let exponent: isize = exponent.parse().ok()?;
    if exponent.unsigned_abs() > EXPONENT_MAX {
        return None;
    }
    if is_negative && mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9')) {
        text.push('-');
    }
    let digits = [whole, fraction].concat();
    // The place of the point.
    let point = isize::try_from(whole.len()).ok()? + exponent;
    let before = digits.len().min(point.max(0).unsigned_abs());
    let (whole, fraction) = digits.split_at(before);
    let zeros_behind = point.max(0).unsigned_abs() - before;
    let zeros_before = point.min(0).unsigned_abs();
    match whole.trim_start_matches('0') {
        "" => text.push('0'),
        whole => {
            text.push_str(whole);
            text.extend(std::iter::repeat_n('0', zeros_behind));
        }
    }
    if !fraction.is_empty() {
        text.push('.');
        text.extend(std::iter::repeat_n('0', zeros_before));
        text.push_str(fraction);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::put_plain;

    #[test]
    fn a_number_is_written_out_as_postgres_does() {
        for (number, plain) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.00", "0.00"),
            ("1e2", "100"),
            ("1E+2", "100"),
            ("-12.50e1", "-125.0"),
            ("12.50e-1", "1.250"),
            ("1.5e3", "1500"),
            ("1e-3", "0.001"),
            ("0e-3", "0.000"),
            ("0e3", "0"),
            ("0.001e3", "1"),
            ("0.0010e2", "0.10"),
            ("1e001", "10"),
        ] {
            let mut text = String::new();
            assert_eq!(put_plain(number, &mut text), Some(()), "{number}");
            assert_eq!(text, plain, "{number}");
        }
        for other in [
            "",
            "-",
            "1e1001",
            "1e-1001",
            "1e99999999999999999999",
            ".5",
            "1.x",
        ] {
            assert_eq!(put_plain(other, &mut String::new()), None, "{other}");
        }
    }
}
