-- Spans of one n8n execution come in any order and in any batches: what a row cannot know by itself it learns here.
create or replace function note_unsettled() returns trigger
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    -- A call that nothing called can neither claim nor be claimed; what was claimed came with the row that claims it. Runs of
    -- n8n are what their steps came without, also those that only paused.
    insert into telemetry_unsettled (calls, begun)
    select count(*), array_agg(added.timestamp)
    from added
    where added.trace_id is not null and added.span_id is not null
        and (
            (added.counted and (added.parent_span_id is not null or added.observed_by <> 'internal'))
            or (added.protocol = 'n8n' and added.observed_by = 'internal')
        )
    having count(*) > 0;
    return null;
end;
$$;

create or replace function correct_entity_activity(p_corrections jsonb) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform
    from unified_registry as known
    where (known.entity_id, known.entity_type) in (
        select given.entity_id, given.entity_type
        from jsonb_to_recordset(p_corrections) as given (entity_id text, entity_type text)
    )
    order by known.entity_type, known.entity_id
    for update;

    update unified_registry as known
    set
        activity_count = greatest(known.activity_count + correction.calls, 0),
        error_count = greatest(known.error_count + correction.errors, 0),
        last_activity = greatest(known.last_activity, correction.last_activity)
    from (
        select
            given.entity_id, given.entity_type, sum(given.calls)::bigint as calls, sum(given.errors)::bigint as errors,
            -- A clock ahead of ours must not make an entity look alive tomorrow.
            max(case when given.last_activity < now() then given.last_activity when given.last_activity >= now() then now() end)
                as last_activity
        from jsonb_to_recordset(p_corrections) as given (
            entity_id text, entity_type text, calls bigint, errors bigint, last_activity timestamptz
        )
        group by given.entity_id, given.entity_type
    ) as correction
    where known.entity_id = correction.entity_id and known.entity_type = correction.entity_type;
end;
$$;

comment on function correct_entity_activity(jsonb) is
'Adds (possibly negative) calls and errors to known entities, in the order all writers lock them; never below zero. Where a '
'correction names last_activity, an earlier one gives way.';

create function n8n_calls_to_settle(p_traces text[], p_from timestamptz, p_to timestamptz) returns table (
    began timestamptz,
    id uuid,
    trace_id text,
    span_id text,
    parent_span_id text,
    is_n8n boolean,
    operation text,
    counted boolean,
    status text,
    error_message text,
    error_code text,
    duration_ms double precision,
    source_id text,
    source_type text,
    target_id text,
    target_type text,
    workflow_id text,
    workflow_name text,
    workflow_node text,
    metadata jsonb
)
language plpgsql
stable
rows 1000
set search_path = public, pg_temp
-- Found by index whatever the statistics say.
set enable_seqscan = off
set jit = off
as $$
declare
    v_part regclass;
begin
    -- Partition by partition, and without the time in reach, there is one index to find them by. n8n forwards no baggage, so
    -- the correlation id of all of them is the trace id.
    for v_part in
        select part.inhrelid
        from pg_catalog.pg_inherits as part
        inner join pg_catalog.pg_class as named on part.inhrelid = named.oid
        where part.inhparent = 'communication_telemetry'::regclass
            and (
                named.relname = 'communication_telemetry_default'
                or (
                    (
                        p_from = '-infinity'
                        or named.relname >= telemetry_partition_name((p_from at time zone 'UTC')::date)::name
                    )
                    and (
                        p_to = 'infinity'
                        or named.relname <= telemetry_partition_name((p_to at time zone 'UTC')::date)::name
                    )
                )
            )
        order by part.inhrelid
    loop
        return query execute format(
            $query$
                select
                    mate.timestamp, mate.id, mate.trace_id, mate.span_id,
                    -- The span of an HTTP server in between is no row.
                    case mate.protocol
                        when 'n8n' then mate.parent_span_id
                        else coalesce(mate.metadata ->> 'http_caller_span_id', mate.parent_span_id)
                    end,
                    mate.protocol = 'n8n', mate.operation, mate.counted, mate.status, mate.error_message, mate.error_code, mate.duration_ms,
                    mate.source_id, mate.source_type, mate.target_id, mate.target_type, mate.workflow_id,
                    mate.workflow_name, mate.workflow_node, mate.metadata
                from unnest($1) as wanted (trace_id)
                cross join lateral (
                    select row.* from only %s as row where row.correlation_id = wanted.trace_id offset 0
                ) as mate
                where mate.trace_id = wanted.trace_id and mate.span_id is not null
                    and mate.observed_by = case mate.protocol when 'n8n' then 'internal' else 'server' end
            $query$,
            v_part
        )
        using p_traces;
    end loop;
end;
$$;

comment on function n8n_calls_to_settle(text[], timestamptz, timestamptz) is
'The rows of these traces that settle_n8n() joins, of the days from p_from to p_to: executions and steps of n8n, and what MCP '
'and A2A servers say of calls.';

create function n8n_changes(p_traces text[], p_from timestamptz, p_to timestamptz) returns jsonb
language plpgsql
stable
set search_path = public, pg_temp
-- How many rows the traces have the planner cannot know, and takes them for few.
set enable_nestloop = off
set jit = off
as $$
begin
    -- As model/n8n_links.py of the package does within a batch; the same rows, once all are there.
    return (
        with recursive seen as materialized (
            select found.*, found.began as timestamp from n8n_calls_to_settle(p_traces, p_from, p_to) as found
        ),

        -- n8n says canceled of what ran into its limit as of what somebody stopped; only the latter can be shorter.
        runs as materialized (
            select
                row.*, row.metadata -> 'execution_id' as execution,
                case when declared.is_over then 'timeout' else row.status end as end_status,
                case when declared.is_over then declared.message else row.error_message end as end_message,
                case when declared.is_over then 'timeout' else row.error_code end as end_code
            from seen as row
            left join lateral (
                select
                    row.duration_ms >= 1000 * allowed.seconds and allowed.seconds > 0 as is_over,
                    format('n8n stopped the execution at its limit of %s s', allowed.seconds) as message
                from unified_registry as known
                cross join lateral (
                    select case
                        when jsonb_typeof(known.metadata -> 'execution_timeout') = 'number'
                            then (known.metadata ->> 'execution_timeout')::double precision
                    end as seconds
                ) as allowed
                where row.status = 'cancelled'
                    and known.entity_id = row.workflow_id and known.entity_type = 'n8n_workflow'
            ) as declared on true
            where row.is_n8n and row.operation = 'workflow_execution'
        ),

        -- n8n's step names neither workflow nor execution: its parent does.
        steps as materialized (
            select
                step.timestamp, step.id, step.trace_id, step.span_id, step.target_id, step.target_type, step.workflow_node,
                coalesce(step.workflow_id, run.workflow_id) as workflow_id,
                coalesce(step.workflow_name, run.workflow_name) as workflow_name,
                case
                    when run.id is null then step.source_id
                    else coalesce(step.workflow_id, run.workflow_id, step.source_id)
                end as source_id,
                case
                    when run.id is null or coalesce(step.workflow_id, run.workflow_id) is null then step.source_type
                    else 'workflow'
                end as source_type,
                case
                    when step.metadata ->> 'termination_reason' = 'workflow_cancelled' and run.end_status <> 'success'
                        then run.end_status
                    else step.status
                end as status,
                step.error_message, step.error_code,
                jsonb_strip_nulls(jsonb_build_object(
                    'execution_id', run.metadata -> 'execution_id',
                    'execution_mode', run.metadata -> 'execution_mode',
                    'retry_of', run.metadata -> 'retry_of',
                    'project_id', run.metadata -> 'project_id'
                )) || step.metadata as metadata
            from seen as step
            left join runs as run on step.trace_id = run.trace_id and step.parent_span_id = run.span_id
            where step.is_n8n and step.operation = 'workflow_step'
        ),

        -- A run that was resumed was started when the first run of the execution was.
        walk as (
            select
                run.timestamp, run.id, run.trace_id, run.execution, run.workflow_id, run.parent_span_id,
                run.source_id, run.source_type, 0 as steps
            from runs as run
            union all
            select
                walk.timestamp, walk.id, walk.trace_id, walk.execution, walk.workflow_id, above.parent_span_id,
                above.source_id, above.source_type, walk.steps + 1
            from walk
            inner join runs as above
                on walk.trace_id = above.trace_id and walk.parent_span_id = above.span_id and walk.id <> above.id
                and walk.execution = above.execution and walk.workflow_id is not distinct from above.workflow_id
            where walk.steps < 64
        ),

        started as materialized (
            select distinct on (walk.timestamp, walk.id)
                walk.timestamp, walk.id,
                coalesce(step.workflow_id, run.workflow_id, walk.source_id) as source_id,
                case
                    when coalesce(step.workflow_id, run.workflow_id) is null then walk.source_type else 'workflow'
                end as source_type,
                coalesce(step.metadata -> 'execution_id', run.execution) as parent_execution
            from walk
            left join steps as step on walk.trace_id = step.trace_id and walk.parent_span_id = step.span_id
            left join runs as run on walk.trace_id = run.trace_id and walk.parent_span_id = run.span_id
            order by walk.timestamp asc, walk.id asc, walk.steps desc
        ),

        -- Whom a step called is known best by who was called, and else by who registered the workflow.
        called as materialized (
            select distinct on (step.timestamp, step.id) step.timestamp, step.id, callee.target_id, callee.target_type
            from steps as step
            inner join seen as callee
                on step.trace_id = callee.trace_id and step.span_id = callee.parent_span_id
                and callee.target_id <> 'unknown' and (not callee.is_n8n or callee.operation = 'workflow_execution')
            order by step.timestamp asc, step.id asc, callee.timestamp asc, callee.id asc
        ),

        wanted as (
            select
                step.timestamp, step.id, step.workflow_id, step.workflow_name, step.source_id, step.source_type,
                coalesce(called.target_id, declared.target_id, step.target_id) as target_id,
                coalesce(called.target_type, step.target_type) as target_type,
                step.status, step.error_message, step.error_code, step.metadata
            from steps as step
            left join called on step.timestamp = called.timestamp and step.id = called.id
            left join lateral (
                select nullif(left(known.metadata #>> array['node_targets', step.workflow_node], 255), '') as target_id
                from unified_registry as known
                where known.entity_id = step.workflow_id and known.entity_type = 'n8n_workflow'
                    and step.target_type = 'external'
                    and step.target_id = left(regexp_replace(step.metadata ->> 'node_type', '^.*\.(?=.)', ''), 255)
            ) as declared on true
            union all
            select
                run.timestamp, run.id, run.workflow_id, run.workflow_name, started.source_id, started.source_type,
                run.target_id, run.target_type, run.end_status, run.end_message, run.end_code,
                case
                    when started.parent_execution is null then run.metadata
                    else run.metadata || jsonb_build_object('parent_execution_id', started.parent_execution)
                end
            from runs as run
            inner join started on run.timestamp = started.timestamp and run.id = started.id
            union all
            -- n8n forwards no baggage, so a server that one of its nodes called did not hear who called.
            select
                callee.timestamp, callee.id, callee.workflow_id, callee.workflow_name,
                step.workflow_id, 'workflow', callee.target_id, callee.target_type, callee.status,
                callee.error_message, callee.error_code, callee.metadata
            from seen as callee
            inner join steps as step on callee.trace_id = step.trace_id and callee.parent_span_id = step.span_id
            where not callee.is_n8n and step.workflow_id is not null
        )

        select jsonb_agg(jsonb_build_object(
            'timestamp', row.timestamp, 'id', row.id, 'counted', row.counted, 'duration_ms', row.duration_ms,
            'old_status', row.status, 'status', wanted.status,
            'error_message', wanted.error_message, 'error_code', wanted.error_code,
            'old_source_id', row.source_id, 'old_source_type', row.source_type,
            'source_id', wanted.source_id, 'source_type', wanted.source_type,
            'old_target_id', row.target_id, 'old_target_type', row.target_type,
            'target_id', wanted.target_id, 'target_type', wanted.target_type,
            'workflow_id', wanted.workflow_id, 'workflow_name', wanted.workflow_name, 'metadata', wanted.metadata
        ))
        from wanted
        inner join seen as row on wanted.timestamp = row.timestamp and wanted.id = row.id
        where (
            row.status, row.error_message, row.error_code, row.source_id, row.source_type, row.target_id, row.target_type,
            row.workflow_id, row.workflow_name, row.metadata
        ) is distinct from (
            wanted.status, wanted.error_message, wanted.error_code, wanted.source_id, wanted.source_type, wanted.target_id,
            wanted.target_type, wanted.workflow_id, wanted.workflow_name, wanted.metadata
        )
    );
end;
$$;

comment on function n8n_changes(text[], timestamptz, timestamptz) is
'What the rows of these traces learn from each other: workflow, execution and end of a step, who started an execution, whom a '
'step called; and from the registry: hosts of nodes, and whether an execution ran into its limit. Array of objects with the '
'key and the columns as they are to be; null where nothing changes.';
