-- Writes of single messages that were delivered very often: a row from before such a write until after it. One that
-- stays is of a process that ended in the middle. See src/storage/trials.rs.
CREATE TABLE trials (
    stream       text        COLLATE "C" NOT NULL,
    stream_seq   bigint      NOT NULL,
    published_at timestamptz NOT NULL,
    -- Writes that began; all of them but the last never ended.
    begun        integer     NOT NULL DEFAULT 1,
    begun_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream_seq, published_at, stream)
);
