-- How messages end that get no row: decided here once, for all replicas. See src/storage/fates.rs.
CREATE TABLE fates (
    -- A mirror has the sequences and times of its origin, and so has a stream that was restored under another name.
    stream       text        COLLATE "C" NOT NULL,
    stream_seq   bigint      NOT NULL,
    published_at timestamptz NOT NULL,
    -- The reason of its dead letter, or 'skipped'.
    fate         text        COLLATE "C" NOT NULL,
    detail       text        NOT NULL,
    decided_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream_seq, published_at, stream)
);

CREATE INDEX fates_decided_at ON fates (decided_at);

-- Once for each statement: ganesh's COPY ends with the first and the last sequence of its rows. This
-- runs when the statement has its lock on events, and sees what was committed until then. It may refuse one
-- needlessly, for a message of another stream.
CREATE FUNCTION refuse_copy_of_decided() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    sequences text[];
BEGIN
    sequences := regexp_match(right(current_query(), 60), '/\* (\d+) to (\d+) \*/;?$');
    IF sequences IS NOT NULL AND EXISTS (
        SELECT FROM fates WHERE stream_seq BETWEEN sequences[1]::bigint AND sequences[2]::bigint
    ) THEN
        RAISE 'a message of this batch may be decided' USING ERRCODE = 'GN001';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER refuse_copy_of_decided BEFORE INSERT ON events
    FOR EACH STATEMENT WHEN (current_query() LIKE 'COPY %') EXECUTE FUNCTION refuse_copy_of_decided();
