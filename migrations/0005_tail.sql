-- The tail: rows of events in the order of the transactions that stored them (stored_in). Only while somebody reads it
-- are rows marked with their transaction: a mark and its place in the index cost time. See src/storage/tail/lease.rs.
CREATE TABLE tail (
    singleton    boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    -- Statements that begin before this time mark their rows.
    wanted_until timestamptz NOT NULL,
    -- Until this time all of them do: the last renewal but one came in time.
    sure_until   timestamptz NOT NULL,
    -- The transaction that began the marking. It names a time without a gap: with each gap it is another one.
    begun_in     xid8        NOT NULL,
    -- The database, the server, and what marks rows. When one of them is another one, so is the marking.
    basis        text        COLLATE "C" NOT NULL,
    -- Rows may have marks of another server: it was another one, and nobody has looked.
    has_others   boolean     NOT NULL DEFAULT false,
    -- Statements that began before the marking have ended.
    is_complete  boolean     NOT NULL DEFAULT false
) WITH (fillfactor = 50);

-- Each page of a stream looks here, with whatever role reads. Nothing in it is a secret.
GRANT SELECT ON tail TO PUBLIC;

-- Once for each statement, whoever runs it: when it has its lock on events, and before defaults are made. It sees
-- what was committed until then, but for a transaction that keeps its first snapshot: that one always marks. The clock
-- is read first: a session that rests before it looks marks a row too many, and none too few.
CREATE FUNCTION mark_for_tail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    looked_at timestamptz := clock_timestamp();
BEGIN
    PERFORM set_config('ganesh.tail', CASE
        WHEN current_setting('transaction_isolation') <> 'read committed' THEN 'on'
        WHEN EXISTS (SELECT FROM tail WHERE looked_at < wanted_until) THEN 'on'
        ELSE 'off'
    END, true);
    RETURN NULL;
END $$;

-- A temporary table of the caller must not stand for ours.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION mark_for_tail() SET search_path = %I, pg_temp', current_schema());
END $$;

CREATE TRIGGER mark_for_tail BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION mark_for_tail();
