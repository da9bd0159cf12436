"""The guide's original system, as the ingest benchmark compares with it: seven indexes, and a trigger for each row."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psycopg

_SCHEMA: Final = Path(__file__).resolve().parents[1] / "fixtures" / "sql" / "original_schema.sql"
# Activity of both ends, for each row, as that system keeps it: through its own function.
_TRIGGER: Final = """
create function note_activity() returns trigger
language plpgsql
as $$
begin
    perform record_entity_activity(new.source_id, 'team', new.status = 'error');
    perform record_entity_activity(new.target_id, 'mcp_server', new.status = 'error');
    return null;
end;
$$;
create trigger telemetry_activity after insert on communication_telemetry
for each row execute function note_activity();
"""
_FILL: Final = """
insert into communication_telemetry (id, timestamp, protocol, source_id, source_type, target_id, target_type,
    operation, duration_ms, status, tool_name, correlation_id, parent_correlation_id, metadata{columns})
select gen_random_uuid(), now() - {age}, 'mcp', 'team-' || n %% 200, 'team', 'target-' || n %% 1600, 'mcp',
    'tool_call', random() * 200, case when n %% 12 = 0 then 'error' else 'success' end, 'tool_' || n %% 30,
    md5(n::text), left(md5(n::text), 16), '{{"transport": "tcp"}}'{values}
from generate_series(1, %s) as n
"""
_TRACE_COLUMNS: Final = ", trace_id, span_id, parent_span_id, observed_by"
_TRACE_VALUES: Final = ", md5(n::text), left(md5(n::text), 16), left(md5(n::text), 16), 'client'"
# The last 30 days, more of late: the last day holds a third.
_AGE: Final = "interval '30 days' * power(random(), 3)"
_DAYS: Final = """
do $$
begin
    for days in 1..31 loop
        execute format(
            'create table %I partition of communication_telemetry for values from (%L) to (%L)',
            telemetry_partition_name((now() at time zone 'UTC')::date - days),
            ((now() at time zone 'UTC')::date - days)::timestamp at time zone 'UTC',
            ((now() at time zone 'UTC')::date - days + 1)::timestamp at time zone 'UTC'
        );
    end loop;
end;
$$
"""


def make_original(connection: psycopg.Connection, entities: list[tuple[str, str]]) -> None:
    """Make the original system in an empty database, `entities` (type, id) registered, its trigger not yet there."""
    connection.execute(_SCHEMA.read_bytes())
    with connection.cursor() as cursor:
        cursor.executemany("select register_entity(%s, %s, %s, 'bench')", [(name, of, name) for of, name in entities])


def add_trigger(connection: psycopg.Connection) -> None:
    """Let each row add to the activity of its two ends, as that system does."""
    connection.execute(_TRIGGER.encode())


def fill(connection: psycopg.Connection, rows: int, *, original: bool) -> None:
    """Put `rows` rows of the last 30 days into the table, past triggers; ours has its 30 partitions."""
    if original:
        connection.execute(_FILL.format(age=_AGE, columns="", values="").encode(), [rows])
    else:
        connection.execute(_DAYS.encode())
        connection.execute("alter table communication_telemetry disable trigger user")
        connection.execute(_FILL.format(age=_AGE, columns=_TRACE_COLUMNS, values=_TRACE_VALUES).encode(), [rows])
        connection.execute("alter table communication_telemetry enable trigger user")
    connection.execute("vacuum analyze")
