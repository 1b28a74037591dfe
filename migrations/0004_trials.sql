-- Unfinished writes of messages that were delivered very often. A row is there while such a write runs; one that
-- stays is of a process that died during it. See src/storage/trials.rs.
CREATE TABLE trials (
    stream       text        COLLATE "C" NOT NULL,
    stream_seq   bigint      NOT NULL,
    published_at timestamptz NOT NULL,
    -- Processes that began to write it, and did not say that they ended.
    begun        integer     NOT NULL DEFAULT 1,
    -- The last of them.
    process      text        COLLATE "C" NOT NULL,
    begun_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream_seq, published_at, stream)
);
