-- Day partitions made ahead, so that inserts are cheap and retention is a drop.
create function telemetry_partition_name(p_day date) returns text
language sql
immutable
set search_path = public, pg_temp
return 'communication_telemetry_' || to_char(p_day, 'YYYYMMDD');

comment on function telemetry_partition_name(date) is 'Name of the partition that holds one UTC day.';

create function close_table_to_public(p_table regclass) returns void
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_role name;
begin
    execute format('alter table %s enable row level security', p_table);
    execute format('revoke all on table %s from public', p_table);
    for v_role in select rolname from pg_catalog.pg_roles where rolname in ('anon', 'authenticated') loop
        execute format('revoke all on table %s from %I', p_table, v_role);
    end loop;
end;
$$;

comment on function close_table_to_public(regclass) is
'Switches row level security on and takes back what PUBLIC and the Supabase client roles get by default.';

create function ensure_telemetry_partitions(p_days_ahead integer default 3) returns integer
language plpgsql
security definer
set search_path = public, pg_temp
set lock_timeout = '5s'
as $$
declare
    v_today constant date := (now() at time zone 'UTC')::date;
    v_oldest constant date := v_today - telemetry_setting('retention_days')::integer;
    v_last constant date := v_today + least(greatest(coalesce(p_days_ahead, 3), 0), 366);
    v_days date[];
    v_day date;
    v_from timestamptz;
    v_to timestamptz;
    v_name text;
    v_locked boolean := false;
    v_created integer := 0;
begin
    -- Gathered first: an open cursor on DEFAULT would forbid to change it.
    v_days := array(
        select v_today + ahead.days from generate_series(0, v_last - v_today) as ahead (days)
        union
        select (late.timestamp at time zone 'UTC')::date
        from communication_telemetry_default as late
        where late.timestamp >= v_oldest::timestamp at time zone 'UTC'
            and late.timestamp < v_today::timestamp at time zone 'UTC'
        order by 1
    );
    foreach v_day in array v_days loop
        v_name := telemetry_partition_name(v_day);
        continue when to_regclass(format('public.%I', v_name)) is not null;
        if not v_locked then
            -- Writers wait here, before they choose a partition: one that chose DEFAULT earlier would be refused.
            lock table communication_telemetry in share row exclusive mode;
            lock table communication_telemetry_default in access exclusive mode;
            v_locked := true;
            continue when to_regclass(format('public.%I', v_name)) is not null;
        end if;
        v_from := v_day::timestamp at time zone 'UTC';
        v_to := (v_day + 1)::timestamp at time zone 'UTC';
        execute format('create table %I (like communication_telemetry including defaults including constraints)', v_name);
        execute format(
            'with moved as ('
            '    delete from communication_telemetry_default where timestamp >= $1 and timestamp < $2 returning *'
            ') insert into %I select * from moved', v_name
        ) using v_from, v_to;
        execute format(
            'alter table communication_telemetry attach partition %I for values from (%L) to (%L)',
            v_name, v_from, v_to
        );
        perform close_table_to_public(format('public.%I', v_name)::regclass);
        execute format('comment on table %I is %L', v_name, format('Communications of %s (UTC).', v_day));
        v_created := v_created + 1;
    end loop;
    return v_created;
end;
$$;

comment on function ensure_telemetry_partitions(integer) is
'Makes the partitions from today to p_days_ahead, and moves what waits in DEFAULT into its day; returns how many it made.';

create function drop_old_telemetry_partitions() returns integer
language plpgsql
security definer
set search_path = public, pg_temp
set lock_timeout = '5s'
as $$
declare
    v_oldest constant date := (now() at time zone 'UTC')::date - telemetry_setting('retention_days')::integer;
    v_name text;
    v_dropped integer := 0;
begin
    for v_name in
        select child.relname
        from pg_catalog.pg_inherits as link
        inner join pg_catalog.pg_class as child on link.inhrelid = child.oid
        where link.inhparent = 'public.communication_telemetry'::regclass
            and child.relname ~ '^communication_telemetry_[0-9]{8}$'
            and child.relname < telemetry_partition_name(v_oldest)
        order by child.relname
    loop
        execute format('drop table %I', v_name);
        v_dropped := v_dropped + 1;
    end loop;
    delete from communication_telemetry_default where timestamp < v_oldest::timestamp at time zone 'UTC';
    return v_dropped;
end;
$$;

comment on function drop_old_telemetry_partitions() is
'Drops the days before retention_days, and such rows from DEFAULT; returns how many partitions it dropped.';

select ensure_telemetry_partitions();
