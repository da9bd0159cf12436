-- Upkeep: what it does, who does it when nobody schedules it, and pg_cron where it is installed.
create table telemetry_upkeep (
    task text not null,
    last_run timestamptz not null,
    last_error text,
    constraint telemetry_upkeep_pkey primary key (task)
);

alter table telemetry_upkeep enable row level security;

comment on table telemetry_upkeep is 'When upkeep that anybody may start was last done, so that nobody does it again at once.';
comment on column telemetry_upkeep.task is 'Name of the function.';
comment on column telemetry_upkeep.last_run is 'When it last ran, well or not.';
comment on column telemetry_upkeep.last_error is 'Why the last run failed; null when it did not.';
comment on index telemetry_upkeep_pkey is 'One row for each task.';

-- There is nothing to do right after setup.
insert into telemetry_upkeep (task, last_run) values ('maintain_telemetry', now());

-- Locks that writers wait for are taken last and held shortly.
create or replace function maintain_telemetry() returns jsonb
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_done jsonb;
    v_fired integer;
    v_resolved integer;
    v_forgotten integer;
begin
    -- The lock of the migration runner: the two would wait for each other's tables.
    perform pg_advisory_xact_lock_shared(28548158752780652);
    v_done := jsonb_build_object('rows_settled', settle_communications(now() - interval '1 day'));
    perform maintain_telemetry_rollups();
    select count(*) filter (where changed.resolved_at is null), count(changed.resolved_at)
    into v_fired, v_resolved
    from evaluate_alerts() as changed;
    delete from alert_history where resolved_at < now() - telemetry_setting('alert_history_days') * interval '1 day';
    get diagnostics v_forgotten = row_count;
    v_done := v_done || jsonb_build_object(
        'alerts_fired', v_fired, 'alerts_resolved', v_resolved, 'alerts_forgotten', v_forgotten
    );
    begin
        v_done := v_done || jsonb_build_object(
            'partitions_created', ensure_telemetry_partitions(telemetry_setting('partition_days_ahead')::integer),
            'partitions_dropped', drop_old_telemetry_partitions()
        );
    exception when lock_not_available then
        -- Somebody reads them all, a dump perhaps. There are some days ahead, and the rest must not wait for it.
        v_done := v_done || jsonb_build_object(
            'partitions_created', 0, 'partitions_dropped', 0, 'partitions_postponed', true
        );
    end;
    insert into telemetry_upkeep (task, last_run) values ('maintain_telemetry', now())
    on conflict (task) do update set last_run = excluded.last_run, last_error = null;
    return v_done;
end;
$$;

comment on function maintain_telemetry() is
'Settling of counts, rollups, alerts, partitions ahead, retention; run it at least once a day. Returns what it did; '
'partitions_postponed when somebody held them for too long.';

create function maintain_telemetry_if_due(p_every interval default interval '10 minutes') returns boolean
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_due_before constant timestamptz := now() - greatest(p_every, interval '1 minute');
    v_locked boolean := false;
begin
    loop
        if exists (select from telemetry_upkeep where task = 'maintain_telemetry' and last_run > v_due_before) then
            return false;
        end if;
        -- Asked again once nobody else can be at it: who had the lock may just have done it.
        exit when v_locked;
        v_locked := pg_try_advisory_xact_lock(hashtextextended('elf-automations upkeep', 0));
        if not v_locked then
            return false;
        end if;
    end loop;
    begin
        perform maintain_telemetry();
    exception when others or query_canceled then
        -- Whoever writes calls must not fail because of it, nor try again at once.
        insert into telemetry_upkeep (task, last_run, last_error) values ('maintain_telemetry', now(), sqlerrm)
        on conflict (task) do update set last_run = excluded.last_run, last_error = excluded.last_error;
    end;
    return true;
end;
$$;

comment on function maintain_telemetry_if_due(interval) is
'maintain_telemetry() when nobody ran it for p_every and nobody does now; false when it was not due. Never fails: '
'telemetry_upkeep.last_error says why it did not work.';

create function schedule_telemetry_maintenance() returns boolean
language plpgsql
set search_path = public, pg_temp
as $$
begin
    if to_regprocedure('cron.schedule(text, text, text)') is null then
        return false;
    end if;
    -- Scheduling a name again replaces it.
    execute 'select cron.schedule($1, $2, $3)'
    using 'elf-telemetry-maintain', '*/10 * * * *', 'select public.maintain_telemetry()';
    execute 'select cron.schedule($1, $2, $3)'
    using 'elf-telemetry-alerts', '* * * * *', 'select public.evaluate_alerts()';
    return true;
exception when insufficient_privilege then
    return false;
end;
$$;

comment on function schedule_telemetry_maintenance() is
'Lets pg_cron run maintain_telemetry() every ten minutes and evaluate_alerts() every minute, as the user who calls this; '
'false where pg_cron is not installed or not for this user.';

select schedule_telemetry_maintenance();
