//! Triggers and unique keys of ours that promises rely on: whether they are as the migrations make them, and which
//! statement makes them so again.

use sqlx::postgres::PgConnection;

use super::schema::MIGRATIONS;

/// A trigger of `events` before each `INSERT` and `COPY`, whose function has its name.
pub(super) struct TableGuard {
    name: &'static str,
    /// As Postgres shows it.
    condition: Option<&'static str>,
}

/// Keeps a message from being a row and a dead letter.
pub(super) const REFUSE_COPY_OF_DECIDED: TableGuard = TableGuard {
    name: "refuse_copy_of_decided",
    condition: Some("current_query() ~~ 'COPY %'::text"),
};
/// Marks rows for streams.
pub(super) const MARK_FOR_TAIL: TableGuard = TableGuard {
    name: "mark_for_tail",
    condition: None,
};

/// `tgtype` in `pg_trigger`: BEFORE is 2, INSERT is 4, a trigger for each row would have 1, too.
const BEFORE_INSERT_STATEMENT: i16 = 6;

impl TableGuard {
    /// `pg_get_triggerdef` would wait for a lock on `events`.
    pub(super) async fn differs(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<String>, sqlx::Error> {
        let Self { name, condition } = self;
        let when = condition.map_or(String::new(), |condition| format!("WHEN ({condition}) "));
        let make =
            format!("BEFORE INSERT ON events FOR EACH STATEMENT {when}EXECUTE FUNCTION {name}()");
        let (file, body) = self.made_by();
        let statement = format!(
            "\
            WITH guard AS (SELECT tgtype, tgqual, tgfoid, tgenabled, prosrc, \
                                  EXISTS (SELECT FROM unnest(proconfig) AS setting \
                                          WHERE setting LIKE 'search\\_path=%' \
                                          AND position(current_schema()::text IN setting) = 0) AS looks_elsewhere \
                           FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid \
                           WHERE tgrelid = to_regclass('events') AND tgname = '{name}') \
            SELECT CASE \
                WHEN EXISTS (SELECT FROM guard WHERE prosrc <> $2 OR looks_elsewhere) \
                    THEN 'function {name} was changed: make it anew as {file} does' \
                WHEN NOT EXISTS (SELECT FROM guard) \
                    THEN 'trigger {name} of events is missing: CREATE TRIGGER {name} ' || $3 \
                WHEN EXISTS (SELECT FROM guard WHERE tgenabled NOT IN ('O', 'A')) \
                    THEN 'trigger {name} of events is disabled: ALTER TABLE events ENABLE TRIGGER {name}' \
                WHEN EXISTS (SELECT FROM guard WHERE tgtype <> {BEFORE_INSERT_STATEMENT} \
                             OR tgfoid IS DISTINCT FROM to_regproc('{name}') \
                             OR pg_get_expr(tgqual, 0, true) IS DISTINCT FROM $1) \
                    THEN 'trigger {name} of events was changed: CREATE OR REPLACE TRIGGER {name} ' || $3 \
            END"
        );
        sqlx::query_scalar(&statement)
            .bind(condition)
            .bind(body)
            .bind(make)
            .fetch_one(connection)
            .await
    }

    /// The migration that makes its function, and the body of that.
    fn made_by(&self) -> (String, &'static str) {
        let head = format!("CREATE FUNCTION {}()", self.name);
        let mut made = MIGRATIONS.iter().filter_map(|migration| {
            let (_, function) = migration.sql.split_once(&head)?;
            let (version, name) = (migration.version, &migration.description);
            Some((format!("migrations/{version:04}_{name}.sql"), function))
        });
        let (file, function) = made.next().expect("one migration makes each function");
        let body = function.split("$$").nth(1);
        (file, body.expect("its body stands between two marks"))
    }
}

/// SQL: whether a table has the unique index on these columns, in alphabetical order, that `ON CONFLICT`
/// needs.
pub(super) fn has_key(table: &str, columns: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_index WHERE indrelid = {table} AND indisunique AND indisvalid \
             AND indimmediate AND indpred IS NULL \
             AND (SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute \
                  WHERE attrelid = indrelid AND attnum = ANY ((indkey::int2[])[0:indnkeyatts - 1])) \
                 = '{{{columns}}}'::text[])"
    )
}
