//! Whose tables these are. Migrations that ran in another schema, and tables of other programs, are found
//! before anything is made or written. So are a key or a trigger of ours that somebody dropped, disabled or
//! changed: promises rely on them.

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::guard::{REFUSE_COPY_OF_DECIDED, has_key};
use super::schema::MIGRATIONS;
use super::session::quoted;

/// The tables that the migrations make.
const TABLES: [&str; 6] = [
    "events",
    "events_default",
    "cache_epoch",
    "fates",
    "trials",
    "tail",
];

/// The columns of `events` that ganesh writes and reads, and their types.
const COLUMNS: [(&str, &str); 15] = [
    ("id", "text"),
    ("source", "text"),
    ("time", "timestamp with time zone"),
    ("type", "text"),
    ("subject", "text"),
    ("datacontenttype", "text"),
    ("dataschema", "text"),
    ("data", "jsonb"),
    ("data_bytes", "bytea"),
    ("extensions", "jsonb"),
    ("nats_subject", "text"),
    ("stream_seq", "bigint"),
    ("published_at", "timestamp with time zone"),
    ("stored_at", "timestamp with time zone"),
    ("trace_id", "text"),
];

/// Whose migrations a schema has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Ganesh,
    /// This migration of ours ran there in another form.
    AnotherBuild(i64),
    AnotherProgram,
}

/// Says in one line why ganesh must not use the schema; `None` where it may.
pub(crate) async fn violation(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Option<String>, sqlx::Error> {
    // One snapshot: another replica may be making the tables.
    let mut transaction = connection
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let found = violation_in_snapshot(&mut transaction, schema).await?;
    transaction.commit().await?;
    let setting = format!("GANESH_POSTGRES_SCHEMA={schema}");
    Ok(found.map(|why| format!("{setting}: {why}")))
}

async fn violation_in_snapshot(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Option<String>, sqlx::Error> {
    let (here, elsewhere) = schemas_with_migrations(connection, schema).await?;
    let owner = if here {
        owner_of(connection, schema).await?
    } else {
        Owner::Nobody
    };
    let of_another_program = |table: &str| {
        Some(format!(
            "{table} in schema {schema} belongs to another program: set GANESH_POSTGRES_SCHEMA to a schema \
             for ganesh alone"
        ))
    };
    match owner {
        Owner::AnotherProgram => return Ok(of_another_program("_sqlx_migrations")),
        Owner::AnotherBuild(version) => {
            return Ok(Some(format!(
                "another build of ganesh made the tables in schema {schema}: its migration {version} is not this one's: \
                 use that build, or set GANESH_POSTGRES_SCHEMA to a new schema"
            )));
        }
        Owner::Ganesh => return differs(connection, schema).await,
        Owner::Nobody => {}
    }
    if let Some(table) = first_taken(connection, schema).await? {
        return Ok(of_another_program(&table));
    }
    for other in elsewhere {
        let owner = owner_of(connection, &other).await?;
        if matches!(owner, Owner::Ganesh | Owner::AnotherBuild(_)) {
            return Ok(Some(format!(
                "ganesh's tables are in schema {other}, and schema {schema} has none: set \
                 GANESH_POSTGRES_SCHEMA={other}"
            )));
        }
    }
    Ok(None)
}

/// Whether our schema has a table of migrations, and which others have one that this role may read.
async fn schemas_with_migrations(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<(bool, Vec<String>), sqlx::Error> {
    let statement = "SELECT nspname::text FROM pg_class AS c \
         JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE c.relname = '_sqlx_migrations' AND c.relkind IN ('r', 'p') \
         AND (n.nspname = $1 OR NOT pg_is_other_temp_schema(n.oid) \
              AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) \
         ORDER BY nspname";
    let mut schemas: Vec<String> = sqlx::query_scalar(statement)
        .bind(schema)
        .fetch_all(connection)
        .await?;
    let all = schemas.len();
    schemas.retain(|other| other != schema);
    Ok((schemas.len() < all, schemas))
}

/// By the migrations that ran there: ours have our checksums.
async fn owner_of(connection: &mut PgConnection, schema: &str) -> Result<Owner, sqlx::Error> {
    let schema = quoted(&schema.replace('"', "\"\""));
    let statement = format!(
        "SELECT version::bigint, checksum::bytea FROM {schema}._sqlx_migrations ORDER BY 1"
    );
    // Rolled back alone, if it fails.
    let mut attempt = connection.begin().await?;
    let applied = sqlx::query_as(&statement).fetch_all(&mut *attempt).await;
    let applied: Vec<(i64, Vec<u8>)> = match applied {
        Ok(applied) => applied,
        Err(sqlx::Error::Database(error))
            // undefined_column, cannot_coerce, and what a value of another type is.
            if matches!(error.code().as_deref(), Some("42703" | "42846" | "22P02")) =>
        {
            return Ok(Owner::AnotherProgram);
        }
        Err(error) => return Err(error),
    };
    attempt.commit().await?;
    let ours = |version: i64| MIGRATIONS.iter().find(|ours| ours.version == version);
    let is_ours = |(version, checksum): &(i64, Vec<u8>)| {
        ours(*version).is_some_and(|ours| *ours.checksum == **checksum)
    };
    let mut changed = applied
        .iter()
        .filter(|it| ours(it.0).is_some() && !is_ours(it));
    Ok(if applied.is_empty() {
        Owner::Nobody
    } else if !applied.iter().any(is_ours) {
        Owner::AnotherProgram
    } else if let Some((version, _)) = changed.next() {
        Owner::AnotherBuild(*version)
    } else {
        Owner::Ganesh
    })
}

/// A table with the name of one of ours, where no migration of ours ran.
async fn first_taken(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Option<String>, sqlx::Error> {
    let statement = "SELECT relname::text FROM pg_class AS c \
         JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND relname = ANY ($2) ORDER BY array_position($2, relname::text) LIMIT 1";
    sqlx::query_scalar(statement)
        .bind(schema)
        .bind(TABLES.map(str::to_owned).to_vec())
        .fetch_optional(connection)
        .await
}

/// How the tables differ from what the migrations make and every statement relies on.
async fn differs(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Option<String>, sqlx::Error> {
    let differs = match events_differ(connection, schema).await? {
        None if are_all_applied(connection).await? => all_guards_differ(connection).await?,
        differs => differs,
    };
    Ok(differs.map(|why| {
        format!(
            "schema {schema} is not as ganesh made it: restore it, or set GANESH_POSTGRES_SCHEMA to a schema for \
             ganesh alone: {why}"
        )
    }))
}

/// Whether nothing is left for `migrate` to make.
async fn are_all_applied(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let statement = "SELECT count(*) = cardinality($1) FROM _sqlx_migrations WHERE success AND version = ANY ($1)";
    let versions: Vec<i64> = MIGRATIONS.iter().map(|ours| ours.version).collect();
    sqlx::query_scalar(statement)
        .bind(versions)
        .fetch_one(connection)
        .await
}

async fn events_differ(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Option<String>, sqlx::Error> {
    let has_key = has_key("(SELECT oid FROM events)", "id,source,time");
    let statement = format!(
        "\
        WITH events AS (SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
                        WHERE n.nspname = $1 AND c.relname = 'events'), \
        columns AS (SELECT attnum, attname::text AS name, atttypid::regtype::text AS type \
                    FROM pg_attribute WHERE attrelid = (SELECT oid FROM events) \
                    AND attnum > 0 AND NOT attisdropped), \
        missing AS (SELECT * FROM unnest($2::text[], $3::text[]) AS ours (name, type) \
                    EXCEPT SELECT name, type FROM columns) \
        SELECT CASE \
            WHEN NOT EXISTS (SELECT FROM events) THEN 'events is missing' \
            WHEN NOT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = (SELECT oid FROM events) \
                AND partstrat = 'r' AND partnatts = 1 \
                AND partattrs[0] = (SELECT attnum FROM columns WHERE name = 'time')) \
                THEN 'events is not partitioned by time' \
            WHEN NOT {has_key} THEN 'events has no unique index on id, source, time, or a deferrable one' \
            WHEN EXISTS (SELECT FROM missing) \
                THEN (SELECT format('events has no column %s of type %s', name, type) FROM missing LIMIT 1) \
        END"
    );
    sqlx::query_scalar(&statement)
        .bind(schema)
        .bind(COLUMNS.map(|(name, _)| name.to_owned()).to_vec())
        .bind(COLUMNS.map(|(_, kind)| kind.to_owned()).to_vec())
        .fetch_one(connection)
        .await
}

/// What keeps a message from being a row and a dead letter: the keys of the tables that decide, and the trigger that
/// looks into them.
async fn all_guards_differ(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    match REFUSE_COPY_OF_DECIDED.differs(connection).await? {
        None => keys_differ(connection).await,
        differs => Ok(differs),
    }
}

async fn keys_differ(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let fates = has_key("to_regclass('fates')", "published_at,stream,stream_seq");
    let trials = has_key("to_regclass('trials')", "published_at,stream,stream_seq");
    let epoch = has_key("to_regclass('cache_epoch')", "singleton");
    // Of `tail` only streams need the key: see tail/marks.rs.
    let statement = format!(
        "\
        SELECT CASE \
            WHEN NOT {fates} THEN 'fates is missing, or has no unique index on stream, stream_seq, published_at' \
            WHEN NOT {trials} THEN 'trials is missing, or has no unique index on stream, stream_seq, published_at' \
            WHEN NOT {epoch} THEN 'cache_epoch is missing, or has no unique index on singleton' \
            WHEN to_regclass('tail') IS NULL THEN 'tail is missing' \
        END"
    );
    sqlx::query_scalar(&statement).fetch_one(connection).await
}
