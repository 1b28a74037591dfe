-- The prefix of all cache keys. Advancing it makes everything in the cache unreachable.
-- One row; half-empty pages, so that its frequent updates stay on one page.
CREATE TABLE cache_epoch (
    singleton boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch     bigint      NOT NULL,
    made_at   timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

INSERT INTO cache_epoch (epoch) VALUES (1);
