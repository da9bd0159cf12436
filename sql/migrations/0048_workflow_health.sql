-- The health of an n8n workflow: from its recent executions, never from one.
insert into telemetry_settings (name, value, unit, description) values
('workflow_health_executions', 20, 'executions', 'a workflow''s health looks back at most this many ended executions'),
('workflow_health_hours', 24, 'hours', 'a workflow''s health looks back at most this far'),
('workflow_health_least', 3, 'executions', 'fewer ended executions than this leave a workflow''s health as it is'),
('workflow_degraded_percent', 10, 'percent', 'from this share of failed executions on a workflow is degraded'),
('workflow_unhealthy_percent', 50, 'percent', 'from this share of failed executions on a workflow is unhealthy');

create function workflow_health(p_workflow_id text, p_told jsonb) returns text
language sql
stable
set search_path = public, pg_temp
as $$
    with stored as (
        select call.metadata ->> 'execution_id' as execution_id, call.status, call.timestamp as at
        from communication_telemetry as call
        where call.target_id = p_workflow_id
            and call.timestamp > now() - telemetry_setting('workflow_health_hours') * interval '1 hour'
            and call.protocol = 'n8n'
            and call.operation = 'workflow_execution'
            and call.counted
            and call.status in ('success', 'error', 'timeout')
        order by call.timestamp desc
        limit telemetry_setting('workflow_health_executions')::bigint
    ),

    known as (
        select stored.status, stored.at
        from stored
        union all
        -- Told of, and not stored as a row: rows come later, or from nowhere.
        select told.status, told.at
        from jsonb_to_recordset(p_told) as told (id text, status text, at timestamptz)
        where told.status in ('success', 'error', 'timeout')
            and told.at > now() - telemetry_setting('workflow_health_hours') * interval '1 hour'
            and not exists (select from stored where stored.execution_id = told.id)
    ),

    recent as (
        select known.status
        from known
        order by known.at desc
        limit telemetry_setting('workflow_health_executions')::bigint
    )

    select case
        when count(*) < greatest(telemetry_setting('workflow_health_least'), 2) then null
        when 100.0 * count(*) filter (where recent.status <> 'success') >= telemetry_setting('workflow_unhealthy_percent') * count(*)
            then 'unhealthy'
        when 100.0 * count(*) filter (where recent.status <> 'success') >= telemetry_setting('workflow_degraded_percent') * count(*)
            then 'degraded'
        else 'healthy'
    end
    from recent
$$;

comment on function workflow_health(text, jsonb) is
'What the recent ended executions of a workflow say of its health: its counted rows, and of p_told those that are no rows. '
'Cancelled ones say nothing. Null when they are too few; telemetry_settings has the limits.';

create function record_workflow_execution(
    p_workflow_id text,
    p_execution_id text,
    p_status text,
    p_ended_at timestamptz default now(),
    p_count_activity boolean default true
) returns text
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_known unified_registry%rowtype;
    v_told jsonb;
    v_again boolean;
    v_health text;
    v_ended_at constant timestamptz := least(coalesce(p_ended_at, now()), now());
    v_claim text;
    v_subject text;
begin
    if p_status is null or p_status not in ('success', 'error', 'timeout', 'cancelled') then
        raise exception 'an execution ends with success, error, timeout or cancelled, not %', coalesce(quote_literal(left(p_status, 50)), 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    if p_execution_id is null or length(p_execution_id) not between 1 and 255 then
        raise exception 'p_execution_id must be a text of 1 to 255 characters' using errcode = 'invalid_parameter_value';
    end if;
    select known.* into v_known
    from unified_registry as known
    where known.entity_id = p_workflow_id and known.entity_type = 'n8n_workflow'
    for update;
    if not found then
        return null;
    end if;

    v_told := case
        when jsonb_typeof(v_known.metadata -> 'recent_executions') = 'array' then v_known.metadata -> 'recent_executions'
        else '[]'
    end;
    v_again := exists (
        select from jsonb_array_elements(v_told) as told (value) where told.value ->> 'id' = p_execution_id
    );
    -- Where executions are rows, each row brings its activity.
    if p_count_activity and not v_again and not exists (
        select from communication_telemetry as call
        where call.target_id = p_workflow_id
            and call.timestamp > now() - telemetry_setting('workflow_health_hours') * interval '1 hour'
            and call.protocol = 'n8n'
            and call.operation = 'workflow_execution'
            and call.counted
    ) then
        perform record_entity_activity(p_workflow_id, 'n8n_workflow', p_status in ('error', 'timeout'));
    end if;

    select caller.p_claim, caller.p_subject into v_claim, v_subject from caller_claim() as caller;
    if not claim_allows(v_claim, v_subject, v_known.claimed_as, v_known.claim_subject) then
        perform note_refused_claim(
            p_workflow_id, 'n8n_workflow', 'n8n', v_claim, v_subject, 'record_workflow_execution'
        );
        return v_known.health_status;
    end if;
    v_told := jsonb_build_array(jsonb_build_object('id', p_execution_id, 'status', p_status, 'at', v_ended_at)) || coalesce((
        select jsonb_agg(older.value order by older.place)
        from (
            select told.value, told.place
            from jsonb_array_elements(v_told) with ordinality as told (value, place)
            where told.value ->> 'id' is distinct from p_execution_id
            order by told.place
            limit telemetry_setting('workflow_health_executions')::bigint - 1
        ) as older
    ), '[]');
    update unified_registry as known
    set metadata = known.metadata || jsonb_build_object('recent_executions', v_told)
    where known.id = v_known.id;

    v_health := workflow_health(p_workflow_id, v_told);
    if v_health is null or v_known.current_state = 'deleted' then
        return v_known.health_status;
    end if;
    perform record_entity_heartbeat(p_workflow_id, 'n8n_workflow', v_health, 'n8n', 'recent executions');
    return v_health;
end;
$$;

comment on function record_workflow_execution(text, text, text, timestamptz, boolean) is
'Notes how one execution of a workflow ended (metadata.recent_executions, the newest first) and sets the health that follows; '
'telling one again changes nothing. Counts its activity unless p_count_activity is false or executions of the workflow are '
'rows, which bring theirs. Returns the health, null for an unknown workflow.';

create function refresh_workflow_health() returns integer
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_changed integer;
begin
    with recent as (
        select known.id, workflow_health(known.entity_id, coalesce(known.metadata -> 'recent_executions', '[]')) as health
        from unified_registry as known
        where known.entity_type = 'n8n_workflow'
            and known.current_state <> 'deleted'
            and known.last_activity > now() - telemetry_setting('workflow_health_hours') * interval '1 hour'
    ),

    due as (
        select known.id, known.health_status as before, recent.health
        from unified_registry as known
        inner join recent using (id)
        where recent.health <> known.health_status
        order by known.entity_type, known.entity_id
        for update of known skip locked
    ),

    changed as (
        update unified_registry as known
        set health_status = due.health, health_since = now(), last_health_check = now(), last_updated = now()
        from due
        where known.id = due.id
        returning known.entity_id, known.entity_type, known.current_state, due.before, due.health
    )

    insert into registry_state_transitions (
        entity_id, entity_type, from_state, to_state, from_health, health_status, transitioned_by, transition_reason
    )
    select
        changed.entity_id, changed.entity_type, changed.current_state, changed.current_state, changed.before, changed.health,
        'telemetry', 'recent executions'
    from changed;
    get diagnostics v_changed = row_count;
    return v_changed;
end;
$$;

comment on function refresh_workflow_health() is
'Sets the health of every workflow that ran lately by workflow_health(), each change with a transition, but of those that '
'somebody is writing; returns how many changed.';

create or replace function maintain_telemetry() returns jsonb
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_before constant timestamptz := (select last_run from telemetry_upkeep where task = 'maintain_telemetry');
    v_done jsonb;
    v_fired integer;
    v_resolved integer;
    v_forgotten integer;
begin
    -- The lock of the migration runner: the two would wait for each other's tables.
    perform pg_advisory_xact_lock_shared(28548158752780652);
    v_done := jsonb_build_object(
        'rows_settled',
        settle_communications(greatest(least(v_before, now()) - interval '15 minutes', now() - interval '1 day'))
    );
    perform settle_communications_if_due(p_wait => true);
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
    -- Last, and without waiting: a writer may hold an entity and wait for a table that a step above has.
    perform refresh_workflow_health();
    insert into telemetry_upkeep (task, last_run) values ('maintain_telemetry', now())
    on conflict (task) do update set last_run = excluded.last_run, last_error = null;
    return v_done;
end;
$$;

do $$
declare
    v_clients constant text[] := array(
        select quote_ident(role.rolname)
        from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    );
    v_role text;
begin
    foreach v_role in array v_clients || 'public'::text loop
        execute format('revoke all on function workflow_health(text, jsonb) from %s', v_role);
        execute format('revoke all on function refresh_workflow_health() from %s', v_role);
        execute format(
            'revoke all on function record_workflow_execution(text, text, text, timestamptz, boolean) from %s', v_role
        );
        continue when v_role = 'public';
        execute format(
            'grant execute on function record_workflow_execution(text, text, text, timestamptz, boolean) to %s', v_role
        );
    end loop;
    if 'service_role' = any(v_clients) then
        execute 'grant execute on function refresh_workflow_health() to service_role';
    end if;
end;
$$;
