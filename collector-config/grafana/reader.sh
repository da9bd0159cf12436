#!/bin/sh
# Run once by the database's image, before the tables are made: `elf-telemetry setup` lets the role authenticated read and
# write nothing, and Grafana's user is a member of it.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$ELF_GRAFANA_PASSWORD" --username="${POSTGRES_USER:-postgres}" \
  --dbname="${POSTGRES_DB:-postgres}" <<'SQL'
create role authenticated nologin;
create role grafana login password :'password' in role authenticated;
SQL
