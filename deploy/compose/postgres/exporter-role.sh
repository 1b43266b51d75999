#!/bin/sh
# Run once, when the database is made: the role by which postgres_exporter reads statistics and nothing else.
set -eu
# psql reads the password itself: what stands on a command line can be read by every process.
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set password `cat /run/secrets/postgres/postgres_exporter_password`
CREATE ROLE exporter LOGIN PASSWORD :'password' IN ROLE pg_monitor, pg_read_all_data;
SQL
