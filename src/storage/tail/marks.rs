//! Whether the marks of rows can be relied on. If not, only streams have to wait: events are stored as before.

use sqlx::postgres::{PgConnection, PgExecutor};

use crate::storage::guard::{MARK_FOR_TAIL, has_key};

/// What marks rely on. While it is the same, no other server gave out numbers of transactions, and nobody changed what
/// marks rows: each change gives a row of a catalogue another `xmin`.
macro_rules! basis {
    () => {
        concat!(
            "concat_ws('/', ",
            $crate::storage::identity::identity!(),
            // The timeline. A standby that took over may lack what was read before.
            ", left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), \
             (SELECT concat_ws('/', pg_trigger.xmin, pg_proc.xmin, pg_attrdef.xmin) \
              FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid \
              JOIN pg_attribute ON attrelid = tgrelid AND attname = 'stored_in' \
              JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
              WHERE tgrelid = 'events'::regclass AND tgname = 'mark_for_tail'))"
        )
    };
}
pub(super) use basis;

/// The default of the column `stored_in`, as Postgres shows it.
const MARK: &str = "CASE WHEN (current_setting('ganesh.tail'::text, true) = 'on'::text) \
    THEN pg_current_xact_id() ELSE NULL::xid8 END";

/// What is wrong with rows for which [`are_ahead`], and what to do.
pub(crate) const AHEAD: &str = "rows have a stored_in that this server has not reached, as in a copy that pg_restore \
    made: GET /v1/events/stream would send them late or again: \
    UPDATE events SET stored_in = NULL WHERE stored_in >= pg_snapshot_xmax(pg_current_snapshot())";

/// Whether rows have marks of another server, whose transactions had higher numbers. Touches all partitions.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn are_ahead(executor: impl PgExecutor<'_>) -> Result<bool, sqlx::Error> {
    // What a statement sees was stored by transactions before that number.
    const LOOK: &str = "SELECT EXISTS (SELECT FROM events WHERE stored_in >= pg_snapshot_xmax(pg_current_snapshot()))";
    sqlx::query_scalar(LOOK).fetch_one(executor).await
}

/// Why not every row is marked that should be, and what to do, if somebody changed what marks them.
///
/// # Errors
/// When Postgres does not answer.
pub(crate) async fn defect(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let found = match MARK_FOR_TAIL.differs(connection).await? {
        None => others_differ(connection).await?,
        found => found,
    };
    Ok(found.map(|why| format!("GET /v1/events/stream would miss events: {why}")))
}

async fn others_differ(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let has_key = has_key("to_regclass('tail')", "singleton");
    let statement = format!(
        "\
        SELECT CASE \
            WHEN NOT {has_key} \
                THEN 'tail has no unique index on singleton: ALTER TABLE tail ADD PRIMARY KEY (singleton)' \
            WHEN NOT EXISTS ( \
                SELECT FROM pg_attribute JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
                WHERE attrelid = 'events'::regclass AND attname = 'stored_in' AND atttypid = 'xid8'::regtype \
                AND btrim(regexp_replace(pg_get_expr(adbin, 0), '\\s+', ' ', 'g')) = $1) \
                THEN 'events has no column stored_in xid8 with the default that marks rows: \
                      ALTER TABLE events ALTER stored_in SET DEFAULT ' || $1 \
        END"
    );
    let found = sqlx::query_scalar(&statement).bind(MARK);
    found.fetch_one(connection).await
}
