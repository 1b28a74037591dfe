-- Roles that only read. A superuser runs this, before `ganesh migrate` or after it, as often as wanted: with
-- Compose psql at each `up`, with `make up` scripts/infrastructure/postgres/run, which leaves out the lines that
-- begin with a backslash.

\getenv reader_password READER_POSTGRES_PASSWORD
\getenv grafana_password GRAFANA_POSTGRES_PASSWORD
\getenv exporter_password EXPORTER_POSTGRES_PASSWORD
\set schema public
\getenv schema GANESH_POSTGRES_SCHEMA

SELECT set_config('ganesh.schema', coalesce(nullif(:'schema', ''), 'public'), false);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['reader', 'grafana', 'exporter'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I', name);
        END IF;
        EXECUTE format('ALTER ROLE %I SET default_transaction_read_only = on', name);
    END LOOP;
    EXECUTE format('ALTER ROLE grafana SET search_path = %I', current_setting('ganesh.schema'));
END
$$;

-- The reads of ganesh's API (POSTGRES_READ_URL). Each replica uses 4 connections, and sets their timeouts.
ALTER ROLE reader LOGIN PASSWORD :'reader_password' CONNECTION LIMIT 40;

-- Grafana reads `events`. Its queries cannot write, and end after 5 s.
ALTER ROLE grafana LOGIN PASSWORD :'grafana_password' CONNECTION LIMIT 10;
ALTER ROLE grafana SET statement_timeout = '5s';

-- postgres-exporter reads the server's statistics, not its data.
ALTER ROLE exporter LOGIN PASSWORD :'exporter_password' CONNECTION LIMIT 5;
ALTER ROLE exporter SET statement_timeout = '5s';
GRANT pg_monitor TO exporter;

-- Grants what reads need on this table or schema, if it is one of ganesh's. Partitions go by the privileges of
-- `events`; reads of the default one name it, whatever its name is. Both functions run as whoever makes a table, with
-- any search_path: no function or operator of another one may stand for Postgres's.
CREATE OR REPLACE FUNCTION public.grant_reads(made oid, ours text) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    events oid := to_regclass(format('%I.events', ours));
BEGIN
    IF made = to_regnamespace(quote_ident(ours)) THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO reader, grafana', ours);
    END IF;
    IF made IN (SELECT to_regclass(format('%I.%I', ours, name))
                FROM unnest(ARRAY['events', 'events_default', 'cache_epoch', 'fates']) AS name
                UNION SELECT partdefid FROM pg_partitioned_table WHERE partrelid = events) THEN
        EXECUTE format('GRANT SELECT ON %s TO reader', made::regclass);
    END IF;
    IF made = events THEN
        EXECUTE format('GRANT SELECT ON %s TO grafana', made::regclass);
    END IF;
END
$$;

-- Migrations make them later. Default privileges would open every new table.
CREATE OR REPLACE FUNCTION public.let_roles_read() RETURNS event_trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.grant_reads(objid, current_setting('ganesh.schema'))
    FROM pg_event_trigger_ddl_commands() WHERE object_type IN ('table', 'schema');
END
$$;

DROP EVENT TRIGGER IF EXISTS let_roles_read;

CREATE EVENT TRIGGER let_roles_read ON ddl_command_end
    WHEN TAG IN ('CREATE SCHEMA', 'CREATE TABLE') EXECUTE FUNCTION public.let_roles_read();

-- Where they are made already.
DO $$
DECLARE
    ours text := current_setting('ganesh.schema');
BEGIN
    EXECUTE format('ALTER FUNCTION public.let_roles_read() SET ganesh.schema = %L', ours);
    PERFORM public.grant_reads(oid, ours) FROM pg_namespace WHERE nspname = ours;
    PERFORM public.grant_reads(oid, ours) FROM pg_class WHERE relkind IN ('r', 'p');
END
$$;
