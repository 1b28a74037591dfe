-- Every event, once: the primary key is what makes an event the same event as another.
-- Partitions are made ahead of time by the service; see src/storage/partitions.rs.
CREATE TABLE events (
    id              text        COLLATE "C" NOT NULL,
    source          text        COLLATE "C" NOT NULL,
    time            timestamptz NOT NULL,
    type            text        COLLATE "C" NOT NULL,
    subject         text        COLLATE "C",
    datacontenttype text        COLLATE "C",
    dataschema      text        COLLATE "C",
    data            jsonb,
    data_bytes      bytea,
    extensions      jsonb,
    nats_subject    text        COLLATE "C" NOT NULL,
    stream_seq      bigint      NOT NULL,
    -- When the stream stored the message.
    published_at    timestamptz NOT NULL,
    -- When Postgres began to write the row; ganesh sends it. The default is for other writers: now(), not
    -- clock_timestamp(), as a volatile default makes COPY insert row by row.
    stored_at       timestamptz NOT NULL DEFAULT now(),
    trace_id        text        COLLATE "C" NOT NULL,
    -- The transaction that stored the row, while somebody reads the tail (0005_tail.sql). STABLE functions alone: with
    -- a volatile default COPY inserts row by row.
    stored_in       xid8        DEFAULT CASE WHEN current_setting('ganesh.tail', true) = 'on' THEN pg_current_xact_id() END,
    PRIMARY KEY (id, source, time)
) PARTITION BY RANGE (time);

CREATE INDEX events_subject_time ON events (subject, time DESC);

-- Times that no partition covers land here and are never lost.
CREATE TABLE events_default PARTITION OF events DEFAULT;

-- Upkeep looks for rows of a partition that it makes, and for expired ones, among millions.
CREATE INDEX events_default_time ON events_default (time);

-- Searches and counts go by time. Most events come in the order of their time, so its last page takes them.
-- The index above becomes its part for the default partition.
CREATE INDEX events_time ON events (time);

-- The tail, where rows are marked. All rows of a batch have the same value, which the index has once.
CREATE INDEX events_stored_in ON events (stored_in) WHERE stored_in IS NOT NULL;
