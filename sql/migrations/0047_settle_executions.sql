-- Settling learns of n8n's executions.
create function settle_n8n(p_since timestamptz, p_begun timestamptz[]) returns jsonb
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
            array_agg(distinct call.trace_id),
            coalesce(bool_or(call.protocol = 'n8n' and call.metadata ? 'resumed'), false),
            coalesce(bool_or(call.protocol = 'n8n' and call.metadata ? 'execution_status'), false),
            coalesce(bool_or(call.protocol = 'n8n'), false)
        into v_traces, v_is_resumed, v_is_paused, v_has_runs
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
        v_to := v_to + interval '1 day';
    end if;
    if v_has_runs then
        -- Where n8n never wrote a row, its settling is not even looked for.
        insert into telemetry_upkeep (task, last_run) values ('settle_n8n', now())
        on conflict (task) do update set last_run = excluded.last_run;
    end if;
    if v_traces is null then
        return '{"changed": 0, "corrections": []}';
    end if;
    -- Between a pause and its end may lie weeks.
    v_changes := n8n_changes(
        v_traces,
        case when v_is_resumed then '-infinity' else v_from end,
        case when v_is_paused then 'infinity' else v_to end
    );
    if v_changes is null then
        return '{"changed": 0, "corrections": []}';
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
    return jsonb_build_object('changed', jsonb_array_length(v_changes), 'corrections', coalesce(v_corrections, '[]'));
end;
$$;

comment on function settle_n8n(timestamptz, timestamptz[]) is
'Joins rows of n8n that came without each other, of traces begun since p_since or, with p_begun, of those begun at these '
'times; see n8n_changes(). Returns {"changed": n, "corrections": […]} with what to add to the activity of the entities.';

create or replace function settle_calls(p_since timestamptz, p_begun timestamptz[]) returns jsonb
language plpgsql
set search_path = public, pg_temp
set enable_seqscan = off
as $$
declare
    v_traced jsonb := '{"changed": 0, "corrections": []}';
    v_recorded jsonb := v_traced;
    v_n8n jsonb := v_traced;
    v_claims jsonb;
    v_from timestamptz := p_since - interval '1 hour';
    v_to timestamptz := 'infinity';
    v_longest interval;
    v_has_records boolean := true;
    v_has_nameless boolean;
    v_has_n8n boolean := true;
begin
    if p_begun is not null then
        select min(begun.at), max(begun.at) into v_from, v_to from unnest(p_begun) as begun (at);
        select
            coalesce(max(least(call.duration_ms, 9e5)), 0) * interval '1 millisecond',
            bool_or(call.observed_by = 'manual'),
            bool_or(call.correlation_id is null),
            bool_or(call.protocol = 'n8n' and call.observed_by = 'internal')
        into v_longest, v_has_records, v_has_nameless, v_has_n8n
        from communication_telemetry as call
        where call.timestamp = any(p_begun) and call.timestamp between v_from and v_to and call.trace_id is not null;
        if v_has_nameless then
            -- Whoever wrote these in SQL left it out, and by it the other rows of a trace are found.
            update communication_telemetry as call
            set correlation_id = call.trace_id
            where call.timestamp = any(p_begun) and call.timestamp between v_from and v_to
                and call.trace_id is not null and call.correlation_id is null;
        end if;
        if v_has_records then
            insert into telemetry_upkeep (task, last_run) values ('settle_recorded_by_hand', now())
            on conflict (task) do update set last_run = excluded.last_run;
        else
            -- Where nobody records by hand this is all that it costs.
            v_has_records := exists (
                select from telemetry_upkeep
                where task = 'settle_recorded_by_hand' and last_run > now() - interval '1 hour'
            );
        end if;
        v_has_n8n := v_has_n8n or exists (select from telemetry_upkeep where task = 'settle_n8n');
        v_from := v_from - v_longest - interval '1 minute';
        v_to := v_to + v_longest + interval '1 minute';
    end if;
    v_claims := claims_to_settle(p_since, p_begun);
    if v_claims is not null then
        v_traced := apply_claims(v_claims);
    end if;
    if v_has_records then
        v_recorded := settle_recorded_by_hand(v_from, v_to);
    end if;
    if v_has_n8n then
        v_n8n := settle_n8n(p_since, p_begun);
    end if;
    return jsonb_build_object(
        'changed',
        (v_traced ->> 'changed')::integer + (v_recorded ->> 'changed')::integer + (v_n8n ->> 'changed')::integer,
        'corrections', (v_traced -> 'corrections') || (v_recorded -> 'corrections') || (v_n8n -> 'corrections')
    );
end;
$$;

do $$
declare
    v_internal constant text[] := array[
        'n8n_calls_to_settle(text[], timestamptz, timestamptz)', 'n8n_changes(text[], timestamptz, timestamptz)',
        'settle_n8n(timestamptz, timestamptz[])'
    ];
    v_role text;
    v_function text;
begin
    foreach v_role in array array(
        select quote_ident(role.rolname)
        from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    ) || 'public'::text loop
        foreach v_function in array v_internal loop
            execute format('revoke all on function %s from %s', v_function, v_role);
        end loop;
    end loop;
end;
$$;
