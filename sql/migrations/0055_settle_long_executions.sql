-- Settling reaches the steps of executions that ran for days, and takes back what events counted before the rows came.
create function settle_told_executions(p_since timestamptz, p_begun timestamptz[]) returns jsonb
language plpgsql
set search_path = public, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set jit = off
as $$
declare
    v_from timestamptz := p_since;
    v_to timestamptz := 'infinity';
    v_corrections jsonb;
begin
    if p_begun is not null then
        select min(begun.at), max(begun.at) into v_from, v_to from unnest(p_begun) as begun (at);
    end if;
    with met as (
        update communication_telemetry as call
        set metadata = call.metadata || '{"told_before": true}'
        from unified_registry as known
        cross join lateral jsonb_to_recordset(
            case jsonb_typeof(known.metadata -> 'recent_executions')
                when 'array' then known.metadata -> 'recent_executions'
            end
        ) as told (id text, counted text)
        where call.timestamp between v_from and v_to
            and (p_begun is null or call.timestamp = any(p_begun))
            and call.protocol = 'n8n' and call.operation = 'workflow_execution' and call.counted
            and not call.metadata ? 'told_before'
            and known.entity_id = call.target_id and known.entity_type = 'n8n_workflow'
            and told.counted is not null and told.id = call.metadata ->> 'execution_id'
        returning call.target_id, told.counted as status
    )

    select jsonb_agg(jsonb_build_object(
        'entity_id', met.target_id, 'entity_type', 'n8n_workflow', 'calls', -1,
        'errors', case when met.status in ('error', 'timeout') then -1 else 0 end
    )) into v_corrections
    from met;
    return coalesce(v_corrections, '[]');
end;
$$;

comment on function settle_told_executions(timestamptz, timestamptz[]) is
'Finds the executions begun since p_since or, with p_begun, at these times that counted as activity when they were told '
'(metadata.recent_executions of their workflow) and are rows now, which count by themselves; marks these rows told_before. '
'Returns what to add to the activity of the workflows.';

create or replace function settle_n8n(p_since timestamptz, p_begun timestamptz[]) returns jsonb
language plpgsql
set search_path = public, pg_temp
-- Each row is found by its key. A plan kept from when the table was empty would compare every row with every other.
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set jit = off
as $$
declare
    v_from timestamptz := p_since - interval '1 hour';
    v_to timestamptz := 'infinity';
    v_traces text[];
    v_has_runs boolean;
    v_is_resumed boolean;
    v_is_paused boolean;
    v_end timestamptz;
    v_told jsonb := '[]';
    v_changes jsonb;
    v_corrections jsonb;
begin
    if p_begun is null then
        select array_agg(distinct call.trace_id), coalesce(bool_or(call.metadata ? 'resumed'), false), count(*) > 0
        into v_traces, v_is_resumed, v_has_runs
        from communication_telemetry as call
        where call.timestamp >= v_from and call.protocol = 'n8n' and call.observed_by = 'internal'
            and call.trace_id is not null;
    else
        select min(begun.at), max(begun.at) into v_from, v_to from unnest(p_begun) as begun (at);
        select
            -- As far as the longest reaches: its steps began while it ran.
            max(call.timestamp + least(coalesce(call.duration_ms, 0), 9e12) * interval '1 millisecond'),
            array_agg(distinct call.trace_id),
            coalesce(bool_or(call.protocol = 'n8n' and call.metadata ? 'resumed'), false),
            coalesce(bool_or(call.protocol = 'n8n' and call.metadata ? 'execution_status'), false),
            coalesce(bool_or(call.protocol = 'n8n'), false)
        into v_end, v_traces, v_is_resumed, v_is_paused, v_has_runs
        from communication_telemetry as call
        where call.timestamp = any(p_begun) and call.timestamp between v_from and v_to and call.trace_id is not null
            and (
                (call.protocol = 'n8n' and call.observed_by = 'internal')
                -- A server that somebody called of whom nothing is stored, perhaps a node whose spans came before.
                or (
                    call.observed_by = 'server' and call.counted and call.parent_span_id is not null
                    and call.source_type <> 'workflow'
                )
            );
        v_from := v_from - interval '1 day';
        v_to := v_end + interval '1 day';
    end if;
    if v_has_runs then
        -- Where n8n never wrote a row, its settling is not even looked for.
        insert into telemetry_upkeep (task, last_run) values ('settle_n8n', now())
        on conflict (task) do update set last_run = excluded.last_run;
        v_told := settle_told_executions(p_since, p_begun);
    end if;
    if v_traces is null then
        return jsonb_build_object('changed', 0, 'corrections', v_told);
    end if;
    -- Between a pause and its end may lie weeks.
    v_changes := n8n_changes(
        v_traces,
        case when v_is_resumed then '-infinity' else v_from end,
        case when v_is_paused then 'infinity' else v_to end
    );
    if v_changes is null then
        return jsonb_build_object('changed', 0, 'corrections', v_told);
    end if;

    -- What a row added to the registry while it counted as it was is taken back, and added as it counts now.
    select jsonb_agg(jsonb_build_object(
        'entity_id', ended.entity_id, 'entity_type', ended.entity_type, 'calls', ended.calls, 'errors', ended.errors,
        'last_activity', ended.last_activity
    ))
    into v_corrections
    from (
        select ends.entity_id, registry_entity_type(ends.row_type) as entity_type,
            sum(ends.calls) as calls, sum(ends.errors) as errors, max(ends.at) as last_activity
        from jsonb_to_recordset(v_changes) as changed (
            timestamp timestamptz, counted boolean, duration_ms double precision, old_status text, status text,
            old_source_id text, old_source_type text, source_id text, source_type text,
            old_target_id text, old_target_type text, target_id text, target_type text
        )
        cross join lateral (
            select was.entity_id, was.row_type, -1 as calls,
                case when changed.old_status in ('error', 'timeout') then -1 else 0 end as errors, null::timestamptz as at
            from (
                select changed.old_source_id, changed.old_source_type
                union
                select changed.old_target_id, changed.old_target_type
            ) as was (entity_id, row_type)
            union all
            select now.entity_id, now.row_type, 1,
                case when changed.status in ('error', 'timeout') then 1 else 0 end,
                changed.timestamp + least(coalesce(changed.duration_ms, 0), 9e12) * interval '1 millisecond'
            from (
                select changed.source_id, changed.source_type
                union
                select changed.target_id, changed.target_type
            ) as now (entity_id, row_type)
        ) as ends
        where changed.counted
        group by 1, 2
    ) as ended
    where ended.entity_type is not null;

    update communication_telemetry as call
    set
        status = change.status,
        error_message = change.error_message,
        error_code = change.error_code,
        source_id = change.source_id,
        source_type = change.source_type,
        target_id = change.target_id,
        target_type = change.target_type,
        workflow_id = change.workflow_id,
        workflow_name = change.workflow_name,
        metadata = change.metadata
    from jsonb_to_recordset(v_changes) as change (
        timestamp timestamptz, id uuid, status text, error_message text, error_code text, source_id text, source_type text,
        target_id text, target_type text, workflow_id text, workflow_name text, metadata jsonb
    )
    where call.timestamp = change.timestamp and call.id = change.id;
    return jsonb_build_object('changed', jsonb_array_length(v_changes), 'corrections', coalesce(v_corrections, '[]') || v_told);
end;
$$;

comment on function settle_n8n(timestamptz, timestamptz[]) is
'Joins rows of n8n that came without each other, of traces begun since p_since or, with p_begun, of those begun at these '
'times; see n8n_changes(). Returns {"changed": n, "corrections": […]} with what to add to the activity of the entities.';

do $$
declare
    v_role text;
begin
    foreach v_role in array array(
        select quote_ident(role.rolname)
        from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    ) || 'public'::text loop
        execute format('revoke all on function settle_told_executions(timestamptz, timestamptz[]) from %s', v_role);
    end loop;
end;
$$;
