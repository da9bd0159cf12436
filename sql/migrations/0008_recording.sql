-- Writing rows from SQL and over RPC.
create function store_communications(p_rows jsonb) returns integer
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_known constant text[] := array(
        select attribute.attname::text
        from pg_catalog.pg_attribute as attribute
        where attribute.attrelid = 'public.communication_telemetry'::regclass
            and attribute.attnum > 0
            and not attribute.attisdropped
    );
    v_stored integer;
begin
    insert into communication_telemetry (
        id, timestamp, protocol, source_id, source_type, target_id, target_type, operation, duration_ms, status,
        tool_name, tool_category, task_description, capabilities_required, message_type,
        workflow_id, workflow_name, workflow_node, payload_size_bytes, tokens_used, estimated_cost,
        error_message, error_code, correlation_id, parent_correlation_id, metadata,
        trace_id, span_id, parent_span_id, observed_by, counted, service_name, service_instance_id
    )
    select
        coalesce(given.id, (right(given.trace_id, 16) || given.span_id)::uuid, gen_random_uuid()),
        coalesce(given.timestamp, now()),
        given.protocol,
        given.source_id,
        given.source_type,
        given.target_id,
        given.target_type,
        given.operation,
        given.duration_ms,
        given.status,
        given.tool_name,
        given.tool_category,
        given.task_description,
        given.capabilities_required,
        given.message_type,
        given.workflow_id,
        given.workflow_name,
        given.workflow_node,
        given.payload_size_bytes,
        given.tokens_used,
        given.estimated_cost,
        given.error_message,
        given.error_code,
        given.correlation_id,
        given.parent_correlation_id,
        -- A field this version does not know is kept, not lost.
        coalesce(nullif(given.metadata, 'null'), '{}') || (element.value - v_known),
        given.trace_id,
        given.span_id,
        given.parent_span_id,
        coalesce(given.observed_by, 'manual'),
        coalesce(given.counted, true),
        given.service_name,
        given.service_instance_id
    from jsonb_array_elements(p_rows) as element (value)
    cross join lateral jsonb_populate_record(null::communication_telemetry, element.value) as given
    on conflict do nothing;
    get diagnostics v_stored = row_count;
    return v_stored;
end;
$$;

comment on function store_communications(jsonb) is
'Stores an array of objects keyed by column name in one statement; rows already there are left. Returns how many were new.';

create function ingest_communication_telemetry(p_batch jsonb) returns jsonb
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_count integer;
    v_stored integer := 0;
    v_rejected jsonb := '[]';
    v_element record;
begin
    if p_batch is null or jsonb_typeof(p_batch) <> 'array' then
        raise exception 'p_batch must be a JSON array of rows' using errcode = 'invalid_parameter_value';
    end if;
    v_count := jsonb_array_length(p_batch);
    if v_count > telemetry_setting('ingest_max_rows') or pg_column_size(p_batch) > telemetry_setting('ingest_max_bytes') then
        raise exception 'a batch of % rows and % bytes is too large', v_count, pg_column_size(p_batch)
            using
                errcode = 'program_limit_exceeded',
                hint = 'send it in parts, or raise ingest_max_rows and ingest_max_bytes in telemetry_settings';
    end if;

    begin
        v_stored := store_communications(p_batch);
    exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded then
            -- Something in it is bad: one by one, so that only that is refused.
            for v_element in
                select listed.value, listed.place - 1 as index
                from jsonb_array_elements(p_batch) with ordinality as listed (value, place)
            loop
                begin
                    v_stored := v_stored + store_communications(jsonb_build_array(v_element.value));
                exception
                    when data_exception or integrity_constraint_violation or program_limit_exceeded then
                        v_rejected := v_rejected || jsonb_build_object('index', v_element.index, 'reason', left(sqlerrm, 300));
                end;
            end loop;
    end;
    return jsonb_build_object(
        'stored', v_stored,
        'duplicate', v_count - v_stored - jsonb_array_length(v_rejected),
        'rejected', v_rejected
    );
end;
$$;

comment on function ingest_communication_telemetry(jsonb) is
'Stores one batch: an array of objects keyed by column name. A bad row is refused alone, a row already there is a '
'duplicate. Returns {"stored": n, "duplicate": n, "rejected": [{"index": i, "reason": "…"}]}.';

create function store_call(p_row jsonb) returns uuid
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_id constant uuid := gen_random_uuid();
    v_errors constant integer := case when p_row ->> 'status' in ('error', 'timeout') then 1 else 0 end;
begin
    perform store_communications(jsonb_build_array(p_row || jsonb_build_object('id', v_id)));
    perform record_observed_entities((
        select jsonb_agg(jsonb_build_object(
            'entity_id', ends.entity_id, 'entity_type', registry_entity_type(ends.row_type),
            'observed', false, 'calls', 1, 'errors', v_errors, 'last_activity', now()
        ))
        from (
            select p_row ->> 'source_id' as entity_id, p_row ->> 'source_type' as row_type
            union
            select p_row ->> 'target_id', p_row ->> 'target_type'
        ) as ends
    ));
    return v_id;
end;
$$;

comment on function store_call(jsonb) is
'Stores one call written by hand and adds it to the activity of both ends; returns the id of the row.';

create function record_telemetry(
    p_protocol text,
    p_source_id text,
    p_source_type text,
    p_target_id text,
    p_target_type text,
    p_operation text,
    p_status text,
    p_duration_ms double precision default null,
    p_metadata jsonb default '{}'
) returns uuid
language sql
security definer
set search_path = public, pg_temp
as $$
    select store_call(jsonb_build_object(
        'protocol', p_protocol, 'source_id', p_source_id, 'source_type', p_source_type,
        'target_id', p_target_id, 'target_type', p_target_type, 'operation', p_operation,
        'status', p_status, 'duration_ms', p_duration_ms, 'metadata', coalesce(p_metadata, '{}')
    ));
$$;

comment on function record_telemetry(text, text, text, text, text, text, text, double precision, jsonb) is
'Records one call by hand; duration in milliseconds. Returns the id of the row.';

create function record_a2a_telemetry(
    p_source_team text,
    p_target_team text,
    p_task_description text,
    p_status text,
    p_duration_ms double precision,
    p_correlation_id text default null
) returns void
language sql
security definer
set search_path = public, pg_temp
as $$
    select store_call(jsonb_build_object(
        'protocol', 'a2a', 'source_id', p_source_team, 'source_type', 'team',
        'target_id', p_target_team, 'target_type', 'team', 'operation', 'send_task',
        'message_type', 'task_request', 'task_description', left(p_task_description, 4000),
        'status', p_status, 'duration_ms', p_duration_ms, 'correlation_id', p_correlation_id
    ));
$$;

comment on function record_a2a_telemetry(text, text, text, text, double precision, text) is
'Records one task sent from team to team; duration in milliseconds.';

create function record_mcp_telemetry(
    p_source_id text,
    p_mcp_name text,
    p_tool_name text,
    p_status text,
    p_duration_ms double precision,
    p_tokens_used bigint default null,
    p_correlation_id text default null
) returns void
language sql
security definer
set search_path = public, pg_temp
as $$
    select store_call(jsonb_build_object(
        'protocol', 'mcp', 'source_id', p_source_id, 'source_type', 'team',
        'target_id', p_mcp_name, 'target_type', 'mcp', 'operation', 'tool_call', 'tool_name', p_tool_name,
        'status', p_status, 'duration_ms', p_duration_ms, 'tokens_used', p_tokens_used,
        'correlation_id', p_correlation_id
    ));
$$;

comment on function record_mcp_telemetry(text, text, text, text, double precision, bigint, text) is
'Records one MCP tool call of a team; duration in milliseconds.';
