//! Which rows hold JSON that Postgres does not take: all of them by one statement that writes nothing.
//! Without it each one costs a search by halves, and every half that succeeds a commit: 1 % of bad rows
//! takes most of the throughput. Suspects are asked about beforehand, as a batch that fails is written twice.

use sqlx::postgres::PgConnection;

use super::insert::{column, json};
use super::row::Row;

/// Begins the escape of a character by its number (RFC 8259, section 7); four hexadecimal digits follow.
const ESCAPE: &[u8] = b"\\u";
const ESCAPE_BYTES: usize = 6;

/// Returns whether Postgres would reject the row's data for the most common reasons.
pub(super) fn is_suspect(row: &Row<'_>) -> bool {
    row.event
        .data
        .json()
        .is_some_and(|text| has_refused_escape(text))
}

/// Returns whether JSON escapes a NUL, which no text of Postgres can hold, or half of a surrogate
/// pair. An escaped backslash can cause a false alarm, which costs one query or one rejected batch.
fn has_refused_escape(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, ESCAPE) {
        rest = &rest[at..];
        let is_pair = matches!(unit(rest), Some(0xD800..=0xDBFF))
            && matches!(
                rest.get(ESCAPE_BYTES..).and_then(unit),
                Some(0xDC00..=0xDFFF)
            );
        if !is_pair && matches!(unit(rest), Some(0 | 0xD800..=0xDFFF)) {
            return true;
        }
        let escapes = if is_pair { 2 } else { 1 };
        rest = rest.get(escapes * ESCAPE_BYTES..).unwrap_or_default();
    }
    false
}

/// The unit of UTF-16 whose escape the text begins with.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(ESCAPE)?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The rows whose data or extensions are no `jsonb`: their places, and why in Postgres's words with
/// the SQLSTATE, never the value.
pub(super) async fn invalid_json(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
) -> Result<Vec<(usize, String)>, sqlx::Error> {
    let statement = "SELECT row, message, sql_error_code \
         FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS new (data, extensions, row), \
              LATERAL (SELECT * FROM pg_input_error_info(data, 'jsonb') \
                       UNION ALL SELECT * FROM pg_input_error_info(extensions, 'jsonb')) AS refused \
         WHERE message IS NOT NULL ORDER BY row";
    let found: Vec<(i64, String, String)> = sqlx::query_as(statement)
        .bind(column(rows, json))
        .bind(column(rows, Row::extensions_json))
        .fetch_all(connection)
        .await?;
    let invalid = found.into_iter().filter_map(|(row, message, state)| {
        let place = usize::try_from(row).ok()?.checked_sub(1)?;
        Some((place, format!("{message} (SQLSTATE {state})")))
    });
    Ok(invalid.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_no_text_of_postgres_can_hold_is_suspect_and_nothing_else(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "a", "é", "\\n", "\\u0000", "\\u0041", "\\uD83D", "\\ude00", "\\uDBFF", "\\udc00",
                ]),
                0..8,
            ),
        ) {
            let json = format!("\"{}\"", parts.concat());
            let is_text = serde_json::from_str::<String>(&json).is_ok_and(|text| !text.contains('\0'));
            prop_assert_eq!(has_refused_escape(json.as_bytes()), !is_text, "{}", json);
        }

        #[test]
        fn no_bytes_are_too_odd_to_be_looked_at(text in prop::collection::vec(prop::sample::select(
            b"\\u0dD8cF\"".to_vec(),
        ), 0..40)) {
            has_refused_escape(&text);
        }
    }
}
