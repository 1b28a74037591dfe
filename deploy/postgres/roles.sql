-- Roles that only read. Run once by the owner of the new database, before `ganesh migrate`: with Compose
-- by psql, with `make up` by scripts/infrastructure/postgres/run, which understands no psql commands but
-- these two.

\getenv grafana_password GRAFANA_POSTGRES_PASSWORD
\getenv exporter_password EXPORTER_POSTGRES_PASSWORD

-- Grafana reads `events`. Its queries cannot write, and end after 5 s.
CREATE ROLE grafana LOGIN PASSWORD :'grafana_password' CONNECTION LIMIT 10;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '5s';

-- postgres-exporter reads the server's statistics, not its data.
CREATE ROLE exporter LOGIN PASSWORD :'exporter_password' CONNECTION LIMIT 5;
ALTER ROLE exporter SET default_transaction_read_only = on;
ALTER ROLE exporter SET statement_timeout = '5s';
GRANT pg_monitor TO exporter;

-- `events` does not exist yet, so a trigger grants SELECT when the migration makes it. Default privileges
-- would open every new table. Partitions need no grant of their own. With another GANESH_POSTGRES_SCHEMA
-- than public, name that one below, and set it as search_path of grafana.
CREATE FUNCTION let_grafana_read_events() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.events') THEN
        GRANT SELECT ON public.events TO grafana;
    END IF;
END
$$;
CREATE EVENT TRIGGER let_grafana_read_events ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION let_grafana_read_events();
