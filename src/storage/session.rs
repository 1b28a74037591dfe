//! A session with Postgres as ganesh needs it. What the promises need is set by statements and read back: a
//! pooler may drop what a connection asks for at its start, and a role may have settings of its own.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, Row};

/// The oldest version that the tests run against.
pub(crate) const POSTGRES_MIN_MAJOR_VERSION: i32 = 17;

/// How long the server lets a statement run.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionUse {
    /// The pipeline and the commands.
    Write,
    /// Reads of the API: the server refuses writes.
    Read,
}

type SessionSetting = (&'static str, &'static [&'static str]);

const OF_WRITES: &[SessionSetting] = &[
    // STATEMENT_TIMEOUT, as Postgres shows it.
    ("statement_timeout", &["30s"]),
    // Below it, so that a wait for a lock has a code of its own: it seldom is the fault of the rows.
    ("lock_timeout", &["25s"]),
];
const OF_READS: &[SessionSetting] = &[
    // READ_LIMIT in queries.rs: nobody waits for the answer any more.
    ("statement_timeout", &["4s"]),
    ("lock_timeout", &["3s"]),
    ("default_transaction_read_only", &["on"]),
];

/// What every session has to have. The first value is set; the others are as good.
const SETTINGS: [SessionSetting; 11] = [
    // A commit is durable when it is answered.
    ("synchronous_commit", &["on", "remote_apply"]),
    // By this name replicas find each other's statements under way (fates.rs).
    ("application_name", &["ganesh"]),
    // Triggers run: one of ours keeps rows out of events (migrations/0003_fates.sql).
    ("session_replication_role", &["origin", "local"]),
    // A statement that nobody waits for any more ends, and its server process with it.
    ("client_connection_check_interval", &["1s"]),
    // Whoever set one of these had other clients in mind: batches and idle connections would end.
    ("idle_in_transaction_session_timeout", &["0"]),
    ("idle_session_timeout", &["0"]),
    ("transaction_timeout", &["0"]),
    ("default_transaction_isolation", &["read committed"]),
    ("client_encoding", &["UTF8"]),
    ("TimeZone", &["UTC"]),
    ("standard_conforming_strings", &["on"]),
];

/// What a server has to have, and nobody can set in a session.
const SERVER: [&str; 4] = ["server_version_num", "fsync", "server_encoding", STANDBY];
const STANDBY: &str = "in_hot_standby";
const SEARCH_PATH: &str = "search_path";
/// Stands for the id of the server's process.
const PROCESS: &str = "process";

const SESSION_MODE: &str = "a pooler between ganesh and Postgres has to give each connection a session of \
     its own (PgBouncer: pool_mode = session)";

/// Opens a connection outside of the pool, which would repeat what fails, and then say no more than that
/// it took long.
///
/// # Errors
/// `Configuration` for a server or a session that breaks a promise.
pub(crate) async fn open(
    options: &PgConnectOptions,
    schema: &str,
) -> Result<PgConnection, sqlx::Error> {
    open_for(SessionUse::Write, options, schema).await
}

/// The same for one use.
///
/// # Errors
/// See [`open`].
pub(crate) async fn open_for(
    session_use: SessionUse,
    options: &PgConnectOptions,
    schema: &str,
) -> Result<PgConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    prepare(&mut connection, session_use, schema).await?;
    Ok(connection)
}

/// Pins a new session to our schema, and to what the promises need.
///
/// # Errors
/// See [`open`].
pub(super) async fn prepare(
    connection: &mut PgConnection,
    session_use: SessionUse,
    schema: &str,
) -> Result<(), sqlx::Error> {
    let mut names = vec![PROCESS];
    names.extend(SERVER);
    let server = read(connection, &names).await?;
    let unfit = unfit_server(&server, session_use);
    if !unfit.is_empty() {
        return Err(refusal(unfit.join("; ")));
    }
    set(connection, session_use, schema).await?;
    names = vec![PROCESS, SEARCH_PATH];
    names.extend(settings(session_use).map(|(name, _)| name));
    let session = read(connection, &names).await?;
    if session[PROCESS] != server[PROCESS] {
        return Err(refusal(format!(
            "two statements had two sessions: {SESSION_MODE}"
        )));
    }
    let found = session[SEARCH_PATH].trim_matches('"');
    let search_path = (found != schema).then_some((SEARCH_PATH, schema, found));
    let mut others = settings(session_use).filter_map(|(name, good)| {
        let found = session[name].as_str();
        (!good.contains(&found)).then_some((name, good[0], found))
    });
    match search_path.or_else(|| others.next()) {
        None => Ok(()),
        Some((name, wanted, found)) => Err(refusal(format!(
            "the session does not keep {name} = {wanted}, it has {found}: {SESSION_MODE}"
        ))),
    }
}

/// Refuses a pooler that gives each transaction another session: what is set for one is not there for the
/// next, and a lock is another client's.
///
/// # Errors
/// See [`open`].
pub(crate) async fn refuse_shared_sessions(
    first: &mut PgConnection,
    session_use: SessionUse,
    options: &PgConnectOptions,
    schema: &str,
) -> Result<(), sqlx::Error> {
    let own = process_of(first).await?;
    let mut second = open_for(session_use, options, schema).await?;
    // In a transaction it keeps its session: one that the first connection has left, if it can.
    let mut transaction = match second.begin().await {
        Ok(transaction) => transaction,
        Err(sqlx::Error::Database(error)) => {
            return Err(refusal(format!("{}: {SESSION_MODE}", error.message())));
        }
        Err(error) => return Err(error),
    };
    let is_shared = process_of(&mut transaction).await? == own || process_of(first).await? != own;
    transaction.rollback().await?;
    second.close().await?;
    if is_shared {
        return Err(refusal(format!(
            "connections share their sessions: {SESSION_MODE}"
        )));
    }
    Ok(())
}

/// The server's process of this session.
pub(crate) async fn process_of(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let row = connection
        .fetch_one("SELECT pg_backend_pid()::text")
        .await?;
    let process: String = row.try_get(0)?;
    Ok(process.parse().unwrap_or_default())
}

/// Without prepared statements, here and below: not every pooler has them.
async fn read(
    connection: &mut PgConnection,
    names: &[&str],
) -> Result<HashMap<String, String>, sqlx::Error> {
    let statement = format!(
        "SELECT name, coalesce(CASE name WHEN '{PROCESS}' THEN pg_backend_pid()::text \
             ELSE current_setting(name, true) END, '') \
         FROM unnest('{{{}}}'::text[]) AS name",
        names.join(",")
    );
    let rows = connection.fetch_all(statement.as_str()).await?;
    let pairs = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    pairs.collect()
}

fn settings(session_use: SessionUse) -> impl Iterator<Item = SessionSetting> {
    let own = match session_use {
        SessionUse::Write => OF_WRITES,
        SessionUse::Read => OF_READS,
    };
    SETTINGS.iter().chain(own).copied()
}

async fn set(
    connection: &mut PgConnection,
    session_use: SessionUse,
    schema: &str,
) -> Result<(), sqlx::Error> {
    let mut statements = vec![format!("SET {SEARCH_PATH} = {}", quoted(schema))];
    statements.extend(settings(session_use).map(|(name, good)| {
        let (wanted, list) = (good[0], good.join("', '"));
        format!(
            "SELECT set_config('{name}', '{wanted}', false) \
             WHERE current_setting('{name}') NOT IN ('{list}')"
        )
    }));
    connection.execute(statements.join("; ").as_str()).await?;
    Ok(())
}

/// What breaks a promise whatever a session sets, each with a fix.
fn unfit_server(server: &HashMap<String, String>, session_use: SessionUse) -> Vec<String> {
    let mut unfit = Vec::new();
    let version: i32 = server["server_version_num"].parse().unwrap_or_default();
    if version / 10_000 < POSTGRES_MIN_MAJOR_VERSION {
        unfit.push(format!(
            "the server is version {}.{}: expected {POSTGRES_MIN_MAJOR_VERSION} or later",
            version / 10_000,
            version % 10_000
        ));
    }
    if server["fsync"] != "on" {
        unfit.push(
            "the server runs with fsync = off: a commit would not be durable. Set fsync = on"
                .to_owned(),
        );
    }
    if session_use == SessionUse::Read && server[STANDBY] == "on" {
        unfit.push(
            "the server is a standby, which gets rows late: a read there would answer an older state. Name \
             the primary"
                .to_owned(),
        );
    }
    let encoding = &server["server_encoding"];
    if encoding != "UTF8" {
        unfit.push(format!(
            "the database has the encoding {encoding}: expected UTF8, which holds every text \
             (CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8')"
        ));
    }
    unfit
}

fn refusal(why: String) -> sqlx::Error {
    sqlx::Error::Configuration(why.into())
}

/// As an identifier; the name has no quotes itself.
pub(crate) fn quoted(schema: &str) -> String {
    format!("\"{schema}\"")
}
