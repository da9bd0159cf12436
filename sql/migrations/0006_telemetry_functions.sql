-- Writing rows from SQL and over RPC, and settling which row of a call counts.
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

create function settle_communications(p_since timestamptz default now() - interval '15 minutes') returns integer
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_role constant text := nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role';
    -- A client key may settle what is recent, not make us read everything.
    v_since constant timestamptz := case
        when v_role in ('anon', 'authenticated') then greatest(p_since, now() - interval '1 hour')
        else p_since
    end;
    v_changed integer;
    v_corrections jsonb;
begin
    -- Two passes at once would update the same rows in different order.
    perform pg_advisory_xact_lock(hashtextextended('elf-automations settle', 0));

    -- The walk up a trace follows parents as settle() of the package does: it ends at a server of the same protocol,
    -- because what is below that is another call, and the outermost client of the same call claims the row.
    with recursive seen as materialized (
        select
            call.timestamp, call.id, call.protocol, call.operation, coalesce(call.tool_name, '') as tool,
            call.trace_id, call.span_id, call.parent_span_id, call.observed_by, call.counted,
            call.status, call.error_message, call.error_code,
            call.source_id, call.source_type, call.target_id, call.target_type
        from communication_telemetry as call
        where call.timestamp >= v_since - interval '1 hour' and call.trace_id is not null and call.span_id is not null
    ),

    walk as (
        select
            row.timestamp, row.id, row.protocol, row.operation, row.tool, row.trace_id,
            row.parent_span_id as next_span_id, 0 as steps, null::timestamptz as claimant_timestamp, null::uuid as claimant_id
        from seen as row
        where row.timestamp >= v_since and row.observed_by in ('client', 'server')
        union all
        select
            walk.timestamp, walk.id, walk.protocol, walk.operation, walk.tool, walk.trace_id,
            above.parent_span_id, walk.steps + 1,
            case when claim.is_same then above.timestamp else walk.claimant_timestamp end,
            case when claim.is_same then above.id else walk.claimant_id end
        from walk
        inner join seen as above
            on walk.trace_id = above.trace_id and walk.next_span_id = above.span_id and walk.id <> above.id
        cross join lateral (
            select above.observed_by = 'client'
                and above.protocol = walk.protocol
                and above.operation = walk.operation
                and (above.tool = walk.tool or above.tool = '' or walk.tool = '') as is_same
        ) as claim
        where walk.steps < 64 and not (above.protocol = walk.protocol and above.observed_by = 'server')
    ),

    claims as (
        select distinct on (walk.timestamp, walk.id)
            walk.timestamp, walk.id, walk.claimant_timestamp, walk.claimant_id
        from walk
        order by walk.timestamp, walk.id, walk.steps desc
    ),

    witnesses as (
        select distinct on (claims.claimant_timestamp, claims.claimant_id)
            claims.claimant_timestamp as timestamp, claims.claimant_id as id,
            witness.status, witness.error_message, witness.error_code
        from claims
        inner join seen as witness on claims.timestamp = witness.timestamp and claims.id = witness.id
        where claims.claimant_id is not null and witness.status = 'error'
        order by claims.claimant_timestamp, claims.claimant_id, witness.timestamp, witness.id
    ),

    verdicts as (
        select
            row.timestamp, row.id, row.source_id, row.source_type, row.target_id, row.target_type,
            row.counted as was_counted, row.status as old_status,
            row.counted and claims.claimant_id is null as counted,
            row.status = 'success' and witnesses.status is not null as corrected,
            witnesses.status, witnesses.error_message, witnesses.error_code
        from seen as row
        left join claims on row.timestamp = claims.timestamp and row.id = claims.id
        left join witnesses on row.timestamp = witnesses.timestamp and row.id = witnesses.id
        where (row.counted and claims.claimant_id is not null)
            or (row.status = 'success' and witnesses.status is not null)
    ),

    settled as (
        update communication_telemetry as call
        set
            counted = verdicts.counted,
            status = case when verdicts.corrected then verdicts.status else call.status end,
            error_message = case when verdicts.corrected then verdicts.error_message else call.error_message end,
            error_code = case when verdicts.corrected then verdicts.error_code else call.error_code end
        from verdicts
        where call.timestamp = verdicts.timestamp and call.id = verdicts.id
        returning call.id
    ),

    -- What a row added to the registry while it counted is taken back, and the error it learned of is added.
    corrections as (
        select
            ends.entity_id,
            registry_entity_type(ends.row_type) as entity_type,
            case when verdicts.was_counted and not verdicts.counted then -1 else 0 end as calls,
            case
                when verdicts.was_counted and not verdicts.counted
                    then case when verdicts.old_status in ('error', 'timeout') then -1 else 0 end
                when verdicts.counted and verdicts.corrected then 1
                else 0
            end as errors
        from verdicts
        cross join lateral (
            select verdicts.source_id, verdicts.source_type
            union
            select verdicts.target_id, verdicts.target_type
        ) as ends (entity_id, row_type)
    )

    select
        (select count(*) from settled),
        (
            select jsonb_agg(jsonb_build_object(
                'entity_id', corrections.entity_id, 'entity_type', corrections.entity_type,
                'calls', corrections.calls, 'errors', corrections.errors
            ))
            from corrections
        )
    into v_changed, v_corrections;
    perform correct_entity_activity(v_corrections);
    return v_changed;
end;
$$;

comment on function settle_communications(timestamptz) is
'Settles calls whose two sides arrived apart: the outermost client row counts and takes the error its server saw. '
'Looks at calls begun since p_since, corrects the activity of their entities, changes nothing the second time; '
'returns how many rows changed.';

create function refresh_telemetry_metrics() returns void
language sql
security definer
set search_path = public, pg_temp
as $$
    select settle_communications(now() - interval '1 hour');
$$;

comment on function refresh_telemetry_metrics() is
'Brings counts and outcomes of the last hour up to date; the views read the rows themselves and are never stale.';

create function maintain_telemetry() returns jsonb
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_created integer;
    v_dropped integer;
    v_settled integer;
begin
    v_created := ensure_telemetry_partitions(telemetry_setting('partition_days_ahead')::integer);
    v_dropped := drop_old_telemetry_partitions();
    v_settled := settle_communications(now() - interval '1 day');
    return jsonb_build_object(
        'partitions_created', v_created, 'partitions_dropped', v_dropped, 'rows_settled', v_settled
    );
end;
$$;

comment on function maintain_telemetry() is
'Partitions ahead, retention, settling of counts; run it at least once a day. Returns what it did.';
