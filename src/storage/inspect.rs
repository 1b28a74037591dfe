//! Which rows of a refused batch hold JSON that Postgres does not take: all of them by one
//! statement that writes nothing. Without it each one costs a search by halves, and every half
//! that succeeds a commit; a hundredth of bad rows then took most of the throughput.

use sqlx::postgres::PgConnection;

use super::insert::{column, json};
use super::row::Row;

/// A row that is to blame.
pub(super) struct Invalid {
    /// Its place among the rows that were asked about.
    pub(super) row: usize,
    /// Postgres's words and the SQLSTATE, never the value.
    pub(super) why: String,
}

/// The rows whose data or extensions are no `jsonb`.
pub(super) async fn invalid_json(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
) -> Result<Vec<Invalid>, sqlx::Error> {
    let statement = "SELECT row, message, sql_error_code \
         FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS new (data, extensions, row), \
              LATERAL (SELECT * FROM pg_input_error_info(data, 'jsonb') \
                       UNION ALL SELECT * FROM pg_input_error_info(extensions, 'jsonb')) AS refused \
         WHERE message IS NOT NULL ORDER BY row";
    let found: Vec<(i64, String, String)> = sqlx::query_as(statement)
        .bind(column(rows, |row| json(&row.event.data)))
        .bind(column(rows, Row::extensions_json))
        .fetch_all(connection)
        .await?;
    let invalid = found.into_iter().filter_map(|(row, message, state)| {
        Some(Invalid {
            row: usize::try_from(row).ok()?.checked_sub(1)?,
            why: format!("{message} (SQLSTATE {state})"),
        })
    });
    Ok(invalid.collect())
}
