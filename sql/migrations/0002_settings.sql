-- Numbers an operator may change without a release: thresholds, retention, limits.
create table telemetry_settings (
    name text not null,
    value double precision not null,
    unit text not null,
    description text not null,
    updated_at timestamptz not null default now(),
    constraint telemetry_settings_pkey primary key (name),
    constraint telemetry_settings_value_usable check (value >= 0 and value < 'infinity'::double precision)
);

alter table telemetry_settings enable row level security;

comment on table telemetry_settings is
'Thresholds, retention and limits; change a value with update telemetry_settings set value = … where name = ….';
comment on column telemetry_settings.name is 'What the number governs.';
comment on column telemetry_settings.value is 'The number in force, in the unit of this row.';
comment on column telemetry_settings.unit is 'Unit of the value.';
comment on column telemetry_settings.description is 'What happens at this number.';
comment on column telemetry_settings.updated_at is 'When the row was made; an operator may set it on a change.';
comment on index telemetry_settings_pkey is 'One row for each setting.';

insert into telemetry_settings (name, value, unit, description) values
('retention_days', 30, 'days', 'maintain_telemetry() drops communications older than this'),
('partition_days_ahead', 3, 'days', 'maintain_telemetry() keeps day partitions ready this far ahead'),
('alert_window_minutes', 5, 'minutes', 'error rate and latency alerts look back this far'),
('alert_error_rate_percent', 5, 'percent', 'a protocol alerts above this share of errors and timeouts'),
('alert_latency_ms', 1000, 'ms', 'a protocol alerts above this average duration'),
('alert_inactive_minutes', 60, 'minutes', 'an entity in use alerts when nothing was heard of it for longer'),
('alert_unhealthy_minutes', 10, 'minutes', 'an entity alerts when it has been unhealthy for longer'),
('registration_gap_days', 7, 'days', 'check_registration_gaps() looks for unregistered callers this far back'),
('stale_registration_hours', 168, 'hours', 'a registration is stale when nothing was heard of it for longer'),
('missing_health_check_hours', 24, 'hours', 'a health check is missing when the last one is older'),
('ingest_max_rows', 10000, 'rows', 'ingest_communication_telemetry() refuses a larger batch'),
('ingest_max_bytes', 16777216, 'bytes', 'ingest_communication_telemetry() refuses a larger batch');

create function telemetry_setting(p_name text) returns double precision
language plpgsql
stable
set search_path = public, pg_temp
as $$
declare
    v_value double precision;
begin
    select value into v_value from telemetry_settings where name = p_name;
    if not found then
        raise exception 'telemetry_settings has no row %', quote_literal(p_name)
            using hint = 'insert it again with the value you want';
    end if;
    return v_value;
end;
$$;

comment on function telemetry_setting(text) is 'The value in force of one setting; an error when the row is gone.';
