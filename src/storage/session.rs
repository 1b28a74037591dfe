//! A session with Postgres as ganesh needs it. It is set by statements and read back: what a connection
//! asks for at its start, a pooler may drop.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor, Row};

/// Opens a connection outside of the pool, which would repeat what fails, and then say no more than that
/// it took long.
///
/// # Errors
/// `Configuration` for a session that does not keep what was set.
pub(crate) async fn open(
    options: &PgConnectOptions,
    schema: &str,
) -> Result<PgConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    prepare(&mut connection, schema).await?;
    Ok(connection)
}

/// Pins a new session to our schema: whatever else has an `events`, names mean ours.
///
/// # Errors
/// See [`open`].
pub(super) async fn prepare(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<(), sqlx::Error> {
    let pin = format!("SET search_path = {}", quoted(schema));
    connection.execute(pin.as_str()).await?;
    let row = connection.fetch_one("SHOW search_path").await?;
    let search_path: String = row.try_get(0)?;
    if search_path.trim_matches('"') == schema {
        return Ok(());
    }
    let why = format!("the session does not keep search_path = {schema}: it has {search_path}");
    Err(sqlx::Error::Configuration(why.into()))
}

/// As an identifier; the name has no quotes itself.
pub(crate) fn quoted(schema: &str) -> String {
    format!("\"{schema}\"")
}
