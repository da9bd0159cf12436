-- Whatever writes calls tells the rollups, in its own transaction. Once a statement, never once a row. A change made to a
-- partition by its name, such as retention or moving rows of DEFAULT into their day, is upkeep and tells nothing.
-- Names are cut to what an index entry of all five holds: no caller can write one that cannot be folded.
create function roll_up_added() returns trigger
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_appended bigint;
begin
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
        -- 285 years at most: the sum must never be what a call is refused for.
        coalesce(sum(round(least(call.duration_ms, 9e12) * 1e6)::bigint) filter (where call.duration_ms is not null), 0),
        coalesce(sum(call.tokens_used), 0),
        coalesce(sum(call.estimated_cost), 0),
        min(call.duration_ms),
        max(call.duration_ms),
        max(call.timestamp),
        array_agg(call.duration_ms) filter (where call.duration_ms is not null)
    from added as call
    where call.counted
    group by 1, 2, 3, 4, 5, 6;
    get diagnostics v_appended = row_count;

    -- Now and then, by chance and so without anything to keep count in, the writer folds for all, though never so much
    -- that its time runs out. In a snapshot that stands still it could meet what another has folded since.
    if random() * 4096 < v_appended and current_setting('transaction_isolation') = 'read committed' then
        begin
            perform fold_telemetry_rollups(p_wait => false, p_limit => 50000);
        exception when others then
            raise warning 'telemetry rollups stay pending: %', sqlerrm;
        end;
    end if;
    return null;
end;
$$;

comment on function roll_up_added() is
'Appends the calls a statement added to telemetry_rollup_pending, and folds about every 4096 rows of it.';

create function roll_up_removed() returns trigger
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_appended bigint;
begin
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
        -1,
        -count(*),
        -count(*) filter (where call.status in ('error', 'timeout')),
        -count(*) filter (where call.status = 'cancelled'),
        -count(call.duration_ms),
        -coalesce(sum(round(least(call.duration_ms, 9e12) * 1e6)::bigint) filter (where call.duration_ms is not null), 0),
        -coalesce(sum(call.tokens_used), 0),
        -coalesce(sum(call.estimated_cost), 0),
        min(call.duration_ms),
        max(call.duration_ms),
        max(call.timestamp),
        array_agg(call.duration_ms) filter (where call.duration_ms is not null)
    from removed as call
    where call.counted
    group by 1, 2, 3, 4, 5, 6;
    get diagnostics v_appended = row_count;
    if v_appended > 0 then
        perform fold_telemetry_rollups();
    end if;
    return null;
end;
$$;

comment on function roll_up_removed() is
'Takes the calls a statement deleted out of the rollups.';

create function roll_up_changed() returns trigger
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_appended bigint;
begin
    with old_calls as (
        select timestamp, protocol, source_id, source_type, target_id, target_type, status, duration_ms, tokens_used,
            estimated_cost
        from removed
        where counted
    ),

    new_calls as (
        select timestamp, protocol, source_id, source_type, target_id, target_type, status, duration_ms, tokens_used,
            estimated_cost
        from added
        where counted
    ),

    differences as (
        select -1::smallint as sign, gone.* from (table old_calls except all table new_calls) as gone
        union all
        select 1::smallint, came.* from (table new_calls except all table old_calls) as came
    )

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
        call.sign,
        call.sign,
        case when call.status in ('error', 'timeout') then call.sign else 0 end,
        case when call.status = 'cancelled' then call.sign else 0 end,
        case when call.duration_ms is null then 0 else call.sign end,
        case when call.duration_ms is null then 0 else call.sign * round(least(call.duration_ms, 9e12) * 1e6)::bigint end,
        call.sign * coalesce(call.tokens_used, 0)::numeric,
        call.sign * coalesce(call.estimated_cost, 0),
        call.duration_ms,
        call.duration_ms,
        call.timestamp,
        case when call.duration_ms is not null then array[call.duration_ms] end
    from differences as call;
    get diagnostics v_appended = row_count;
    if v_appended > 0 then
        perform fold_telemetry_rollups();
    end if;
    return null;
end;
$$;

comment on function roll_up_changed() is
'Brings into the rollups what a statement changed of counted calls: settled, corrected, moved in time.';

create function roll_up_truncated() returns trigger
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('elf-automations rollups', 0));
    delete from telemetry_rollup_pending;
    delete from telemetry_minutes;
    delete from telemetry_minute_latency;
    delete from telemetry_pair_minutes;
    delete from telemetry_pair_hours;
    delete from telemetry_pair_days;
    delete from telemetry_ends;
    delete from telemetry_pairs;
    return null;
end;
$$;

comment on function roll_up_truncated() is 'Empties the rollups with the calls.';

create trigger communication_telemetry_added
after insert on communication_telemetry
referencing new table as added
for each statement execute function roll_up_added();
comment on trigger communication_telemetry_added on communication_telemetry is 'Rollups learn of new calls.';

create trigger communication_telemetry_changed
after update on communication_telemetry
referencing old table as removed new table as added
for each statement execute function roll_up_changed();
comment on trigger communication_telemetry_changed on communication_telemetry is 'Rollups learn of corrected calls.';

create trigger communication_telemetry_removed
after delete on communication_telemetry
referencing old table as removed
for each statement execute function roll_up_removed();
comment on trigger communication_telemetry_removed on communication_telemetry is 'Rollups forget deleted calls.';

create trigger communication_telemetry_truncated
after truncate on communication_telemetry
for each statement execute function roll_up_truncated();
comment on trigger communication_telemetry_truncated on communication_telemetry is 'Rollups forget all calls.';
