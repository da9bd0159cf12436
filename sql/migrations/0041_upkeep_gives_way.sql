-- Upkeep by who writes leaves the time of a migration to the migration: a writer must not wait for it.
create or replace function maintain_telemetry_if_due(p_every interval default interval '10 minutes') returns boolean
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
        -- The second is the lock of the migration runner.
        v_locked := pg_try_advisory_xact_lock(hashtextextended('elf-automations upkeep', 0))
        and pg_try_advisory_xact_lock_shared(28548158752780652);
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
'maintain_telemetry() when nobody ran it for p_every and nobody does now, nor migrates; false when it was not due. Never '
'fails: telemetry_upkeep.last_error says why it did not work.';
