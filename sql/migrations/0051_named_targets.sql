-- Settling: whoever knows the target corrects whoever guessed it.
create or replace function apply_claims(p_claims jsonb) returns jsonb
language plpgsql
set search_path = public, pg_temp
-- Each row is found by its key. A plan kept from when the table was empty would compare every row with every other.
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set jit = off
as $$
declare
    v_changes jsonb;
    v_corrections jsonb;
begin
    -- Of what several layers know the outermost is believed, which the aggregate keeps for it comes last.
    with layers as materialized (
        select call.timestamp, call.id, claims.claimant_timestamp, claims.claimant_id,
            jsonb_strip_nulls(jsonb_build_object(
                'tool_name', case when claimant.tool_name is null then call.tool_name end,
                'tool_category', case when claimant.tool_category is null then call.tool_category end,
                'task_description', case when claimant.task_description is null then call.task_description end,
                'capabilities_required', case when claimant.capabilities_required is null then call.capabilities_required end,
                'message_type', case when claimant.message_type is null then call.message_type end,
                'workflow_id', case when claimant.workflow_id is null then call.workflow_id end,
                'workflow_name', case when claimant.workflow_name is null then call.workflow_name end,
                'workflow_node', case when claimant.workflow_node is null then call.workflow_node end,
                'payload_size_bytes', case when claimant.payload_size_bytes is null then call.payload_size_bytes end,
                'tokens_used', case when claimant.tokens_used is null then call.tokens_used end,
                -- Tokens and what they cost come from one layer.
                'estimated_cost', case
                    when claimant.tokens_used is null and claimant.estimated_cost is null and not coalesce(
                        bool_or(call.tokens_used is not null) over (
                            partition by claims.claimant_timestamp, claims.claimant_id
                            order by call.timestamp, call.id
                            rows between unbounded preceding and 1 preceding
                        ),
                        false
                    )
                        then call.estimated_cost
                end,
                ':failure', case
                    when claimant.status = 'success' and call.status = 'error'
                        then jsonb_build_object('message', call.error_message, 'code', call.error_code)
                end,
                -- A number is the protocol's own code, and says more than the name of a class.
                ':number', case
                    when call.error_code ~ '^-?[0-9]+$'
                        and not coalesce(claimant.error_code ~ '^-?[0-9]+$', false)
                        and call.status = case claimant.status when 'success' then 'error' else claimant.status end
                        then call.error_code
                end,
                ':target', case
                    when claimant.protocol = 'mcp' and claimant.target_id = 'unknown' and call.target_id <> 'unknown'
                        then jsonb_build_object(
                            'id', call.target_id, 'type', call.target_type,
                            'is_guessed', coalesce(call.metadata ? 'target_guessed', false)
                        )
                end,
                -- Of layers that only guess the outermost is believed, but not where one of them knows.
                ':named', case
                    when claimant.protocol = 'mcp' and call.target_id <> 'unknown'
                        and (claimant.target_id = 'unknown' or claimant.metadata ? 'target_guessed')
                        and not coalesce(call.metadata ? 'target_guessed', false)
                        then jsonb_build_object('id', call.target_id, 'type', call.target_type, 'is_guessed', false)
                end,
                -- Rows do not say that a source was stated; one that is not what its process is called was.
                ':source', case
                    when claimant.source_id = claimant.service_name and claimant.observed_by in ('client', 'server')
                        and call.observed_by = 'client' and call.source_id <> call.service_name
                        and call.service_name = claimant.service_name
                        and call.service_instance_id is not distinct from claimant.service_instance_id
                        then jsonb_build_object('id', call.source_id, 'type', call.source_type)
                end
            )) as gift
        from jsonb_to_recordset(p_claims) as claims (
            timestamp timestamptz, id uuid, claimant_timestamp timestamptz, claimant_id uuid
        )
        cross join lateral (
            select row.*
            from communication_telemetry as row
            where row.timestamp = claims.timestamp and row.id = claims.id
            offset 0
        ) as call
        left join lateral (
            select row.*
            from communication_telemetry as row
            where row.timestamp = claims.claimant_timestamp and row.id = claims.claimant_id
            offset 0
        ) as claimant on true
    ),

    -- A row may be a layer of one call and have layers of its own.
    touched as materialized (
        select either.timestamp, either.id, bool_or(either.is_layer) as is_layer,
            coalesce(
                jsonb_object_agg(either.name, either.value order by either.giver_timestamp desc, either.giver_id desc)
                filter (where either.name is not null),
                '{}'
            ) as given
        from (
            select layer.timestamp, layer.id, true as is_layer, null::text as name, null::jsonb as value,
                layer.timestamp as giver_timestamp, layer.id as giver_id
            from layers as layer
            union all
            select layer.claimant_timestamp, layer.claimant_id, false, gift.name, gift.value, layer.timestamp, layer.id
            from layers as layer
            cross join lateral jsonb_each(layer.gift) as gift (name, value)
            where layer.claimant_id is not null
        ) as either
        group by either.timestamp, either.id
    ),

    changed as materialized (
        select
            call.timestamp, call.id, touched.given,
            call.counted as was_counted,
            call.counted and not touched.is_layer as counted,
            call.status as old_status,
            case when touched.given ? ':failure' then 'error' else call.status end as status,
            case
                when touched.given ? ':failure' then touched.given #>> '{:failure,message}' else call.error_message
            end as error_message,
            coalesce(
                touched.given ->> ':number',
                case when touched.given ? ':failure' then touched.given #>> '{:failure,code}' else call.error_code end
            ) as error_code,
            call.source_id as old_source_id, call.source_type as old_source_type,
            coalesce(touched.given #>> '{:source,id}', call.source_id) as source_id,
            coalesce(touched.given #>> '{:source,type}', call.source_type) as source_type,
            call.target_id as old_target_id, call.target_type as old_target_type,
            coalesce(answered.by ->> 'id', call.target_id) as target_id,
            coalesce(answered.by ->> 'type', call.target_type) as target_type,
            case
                when answered.by is null then call.metadata
                when (answered.by ->> 'is_guessed')::boolean
                    then coalesce(call.metadata, '{}') || '{"target_guessed": true}'
                else call.metadata - 'target_guessed'
            end as metadata
        from touched
        cross join lateral (
            select row.*
            from communication_telemetry as row
            where row.timestamp = touched.timestamp and row.id = touched.id
            offset 0
        ) as call
        cross join lateral (select coalesce(touched.given -> ':named', touched.given -> ':target') as by) as answered
        where touched.given <> '{}' or call.counted
    )

    select
        (
            select jsonb_agg(changed.given || jsonb_build_object(
                'timestamp', changed.timestamp, 'id', changed.id, 'counted', changed.counted, 'status', changed.status,
                'error_message', changed.error_message, 'error_code', changed.error_code,
                'source_id', changed.source_id, 'source_type', changed.source_type,
                'target_id', changed.target_id, 'target_type', changed.target_type, 'metadata', changed.metadata
            ))
            from changed
        ),
        -- What a row added to the registry while it counted as it was is taken back, and added as it counts now.
        (
            select jsonb_agg(jsonb_build_object(
                'entity_id', ended.entity_id, 'entity_type', ended.entity_type, 'calls', ended.calls, 'errors', ended.errors
            ))
            from (
                select ends.entity_id, registry_entity_type(ends.row_type) as entity_type,
                    sum(ends.calls) as calls, sum(ends.errors) as errors
                from changed
                cross join lateral (
                    select was.entity_id, was.row_type, -1 as calls,
                        case when changed.old_status in ('error', 'timeout') then -1 else 0 end as errors
                    from (
                        select changed.old_source_id, changed.old_source_type
                        union
                        select changed.old_target_id, changed.old_target_type
                    ) as was (entity_id, row_type)
                    where changed.was_counted
                    union all
                    select now.entity_id, now.row_type, 1,
                        case when changed.status in ('error', 'timeout') then 1 else 0 end
                    from (
                        select changed.source_id, changed.source_type
                        union
                        select changed.target_id, changed.target_type
                    ) as now (entity_id, row_type)
                    where changed.counted
                ) as ends
                group by 1, 2
            ) as ended
            where ended.calls <> 0 or ended.errors <> 0
        )
    into v_changes, v_corrections;
    if v_changes is null then
        return '{"changed": 0, "corrections": []}';
    end if;

    update communication_telemetry as call
    set
        counted = change.counted,
        status = change.status,
        error_message = change.error_message,
        error_code = change.error_code,
        source_id = change.source_id,
        source_type = change.source_type,
        target_id = change.target_id,
        target_type = change.target_type,
        metadata = change.metadata,
        tool_name = coalesce(call.tool_name, change.tool_name),
        tool_category = coalesce(call.tool_category, change.tool_category),
        task_description = coalesce(call.task_description, change.task_description),
        capabilities_required = coalesce(call.capabilities_required, change.capabilities_required),
        message_type = coalesce(call.message_type, change.message_type),
        workflow_id = coalesce(call.workflow_id, change.workflow_id),
        workflow_name = coalesce(call.workflow_name, change.workflow_name),
        workflow_node = coalesce(call.workflow_node, change.workflow_node),
        payload_size_bytes = coalesce(call.payload_size_bytes, change.payload_size_bytes),
        tokens_used = coalesce(call.tokens_used, change.tokens_used),
        estimated_cost = coalesce(call.estimated_cost, change.estimated_cost)
    from jsonb_to_recordset(v_changes) as change (
        timestamp timestamptz, id uuid, counted boolean, status text, error_message text, error_code text,
        source_id text, source_type text, target_id text, target_type text, tool_name text, tool_category text,
        task_description text, capabilities_required text[], message_type text, workflow_id text, workflow_name text,
        workflow_node text, payload_size_bytes bigint, tokens_used bigint, estimated_cost numeric, metadata jsonb
    )
    where call.timestamp = change.timestamp and call.id = change.id;
    return jsonb_build_object('changed', jsonb_array_length(v_changes), 'corrections', coalesce(v_corrections, '[]'));
end;
$$;
