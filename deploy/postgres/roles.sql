-- The roles of those who only look. Run once, when the cluster is made, as the owner of the
-- database, before `ganesh migrate` has made any table: by psql in docker-compose.yml's Postgres, by
-- scripts/infrastructure/postgres/run in that of `make up`, which knows no more of psql than these
-- two variables.

\getenv grafana_password GRAFANA_POSTGRES_PASSWORD
\getenv exporter_password EXPORTER_POSTGRES_PASSWORD

-- Grafana: reads `events`, and nothing that a panel asks can write or run for long.
CREATE ROLE grafana LOGIN PASSWORD :'grafana_password' CONNECTION LIMIT 10;
ALTER ROLE grafana SET default_transaction_read_only = on;
ALTER ROLE grafana SET statement_timeout = '5s';

-- postgres-exporter: the statistics of the server, not its data.
CREATE ROLE exporter LOGIN PASSWORD :'exporter_password' CONNECTION LIMIT 5;
ALTER ROLE exporter SET default_transaction_read_only = on;
ALTER ROLE exporter SET statement_timeout = '5s';
GRANT pg_monitor TO exporter;

-- Default privileges would open every table that is ever made, and there is no table yet to grant
-- on: so `events` is opened when the migration makes it. Its partitions need no grant of their own.
CREATE FUNCTION let_grafana_read_events() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.events') THEN
        GRANT SELECT ON public.events TO grafana;
    END IF;
END
$$;
CREATE EVENT TRIGGER let_grafana_read_events ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION let_grafana_read_events();
