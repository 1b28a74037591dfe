-- The end of the prefix of all cache keys, which begins with the identity of the database. Advancing it makes everything in the cache unreachable.
-- One row; half-empty pages, so that its frequent updates stay on one page.
CREATE TABLE cache_epoch (
    singleton boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch     bigint      NOT NULL,
    -- The database that advanced the epoch last. A copy of this row names the original until ganesh
    -- starts there.
    database  text        NOT NULL DEFAULT '',
    -- The process of the cache server whose keys this epoch names; NULL: none yet.
    server    text,
    made_at   timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Epochs are taken from the clock, so that two databases that were served by one cache
-- never name the same keys.
INSERT INTO cache_epoch (epoch)
VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
