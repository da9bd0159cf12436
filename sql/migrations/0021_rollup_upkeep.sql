-- Rollups of what was there before, their retention, and their place in the upkeep that somebody runs now and then.
create function rebuild_telemetry_rollups(p_day date) returns bigint
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_from constant timestamptz := p_day::timestamp at time zone 'UTC';
    v_to constant timestamptz := (p_day + 1)::timestamp at time zone 'UTC';
    v_calls bigint;
begin
    perform pg_advisory_xact_lock(hashtextextended('elf-automations rollups', 0));
    delete from telemetry_minutes where minute >= v_from and minute < v_to;
    delete from telemetry_minute_latency where minute >= v_from and minute < v_to;
    delete from telemetry_pair_minutes where minute >= v_from and minute < v_to;
    delete from telemetry_pair_hours where hour >= v_from and hour < v_to;
    delete from telemetry_pair_days where day = p_day;
    delete from telemetry_ends where last_at >= v_from and last_at < v_to;

    -- One statement, so one snapshot: the calls it reads are the very ones whose pending rows it drops.
    with forgotten as (
        delete from telemetry_rollup_pending where minute >= v_from and minute < v_to
    ),

    found as (
        insert into telemetry_rollup_pending (
            minute, protocol, source_id, source_type, target_id, target_type, sign, calls, errors, cancelled, timed,
            duration_ns, tokens, cost, shortest_ms, longest_ms, last_at, durations_ms
        )
        select
            date_trunc('minute', call.timestamp, 'UTC'),
            call.protocol,
            left(call.source_id, 255),
            left(call.source_type, 50),
            left(call.target_id, 255),
            left(call.target_type, 50),
            1,
            count(*),
            count(*) filter (where call.status in ('error', 'timeout')),
            count(*) filter (where call.status = 'cancelled'),
            count(call.duration_ms),
            coalesce(sum(round(least(call.duration_ms, 9e12) * 1e6)::bigint) filter (where call.duration_ms is not null), 0),
            coalesce(sum(call.tokens_used), 0),
            coalesce(sum(call.estimated_cost), 0),
            min(call.duration_ms),
            max(call.duration_ms),
            max(call.timestamp),
            array_agg(call.duration_ms) filter (where call.duration_ms is not null)
        from communication_telemetry as call
        where call.counted and call.timestamp >= v_from and call.timestamp < v_to
        group by 1, 2, 3, 4, 5, 6
        returning calls
    )

    select coalesce(sum(found.calls), 0) into v_calls from found;
    perform fold_telemetry_rollups();
    return v_calls;
end;
$$;

comment on function rebuild_telemetry_rollups(date) is
'Makes the rollups of one UTC day anew from the calls themselves, while others write; returns how many calls it read. For '
'calls that were written past the triggers: a restored dump, or rows put into a partition by its name.';

create function maintain_telemetry_rollups() returns void
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_minutes_from constant timestamptz := now() - telemetry_setting('rollup_minute_days') * interval '1 day';
begin
    perform fold_telemetry_rollups();
    delete from telemetry_ends where last_at < now() - interval '1 day';
    delete from telemetry_minutes where minute < v_minutes_from;
    delete from telemetry_minute_latency where minute < v_minutes_from;
    delete from telemetry_pair_minutes where minute < now() - interval '3 hours';
    delete from telemetry_pair_hours where hour < now() - telemetry_setting('rollup_hour_days') * interval '1 day';
    delete from telemetry_pair_days
    where day < (now() at time zone 'UTC')::date - telemetry_setting('rollup_day_days')::integer;
    -- Numbers are given and looked up only under the lock that this holds.
    delete from telemetry_pairs as pair
    where not exists (select from telemetry_pair_days as rollup where rollup.pair_id = pair.pair_id)
        and not exists (select from telemetry_pair_hours as rollup where rollup.pair_id = pair.pair_id)
        and not exists (select from telemetry_pair_minutes as rollup where rollup.pair_id = pair.pair_id);
end;
$$;

comment on function maintain_telemetry_rollups() is
'Folds what is pending and drops rollups older than rollup_minute_days, rollup_hour_days and rollup_day_days.';

insert into telemetry_settings (name, value, unit, description) values
('rollup_minute_days', 30, 'days', 'maintain_telemetry() drops minute rollups older than this; views need 1'),
('rollup_hour_days', 3, 'days', 'maintain_telemetry() drops hour rollups of pairs older than this; views need 2'),
('rollup_day_days', 400, 'days', 'maintain_telemetry() drops day rollups of pairs older than this; views need 8');

create or replace function refresh_telemetry_metrics() returns void
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    perform settle_communications(now() - interval '1 hour');
    perform fold_telemetry_rollups();
end;
$$;

comment on function refresh_telemetry_metrics() is
'Brings counts and outcomes of the last hour up to date and folds the rollups; the views are exact without it too, only '
'slower the longer nobody folds.';

create or replace function maintain_telemetry() returns jsonb
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_created integer;
    v_dropped integer;
    v_settled integer;
begin
    v_settled := settle_communications(now() - interval '1 day');
    perform maintain_telemetry_rollups();
    v_created := ensure_telemetry_partitions(telemetry_setting('partition_days_ahead')::integer);
    v_dropped := drop_old_telemetry_partitions();
    return jsonb_build_object(
        'partitions_created', v_created, 'partitions_dropped', v_dropped, 'rows_settled', v_settled
    );
end;
$$;

comment on function maintain_telemetry() is
'Settling of counts, rollups, partitions ahead, retention; run it at least once a day. Returns what it did.';

-- What was there before the triggers: one day at a time, the newest first. A day costs one index probe to find.
do $$
declare
    v_before timestamptz := 'infinity';
    v_found timestamptz;
    v_day date;
begin
    loop
        select max(call.timestamp) into v_found from communication_telemetry as call where call.timestamp < v_before;
        exit when v_found is null or v_found = '-infinity';
        v_day := (v_found at time zone 'UTC')::date;
        perform rebuild_telemetry_rollups(v_day);
        v_before := v_day::timestamp at time zone 'UTC';
    end loop;
end;
$$;
