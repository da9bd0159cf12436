-- Settling also what a server passed on within its own process: mounted servers, proxies, listings of several.
-- It answers with more columns; nobody is granted it.
-- squawk-ignore ban-drop-function
drop function calls_to_settle(timestamptz, timestamptz[]);

create function calls_to_settle(p_since timestamptz, p_begun timestamptz[]) returns table (
    began timestamptz,
    id uuid,
    trace_id text,
    span_id text,
    parent_span_id text,
    protocol text,
    operation text,
    key text,
    observed_by text,
    counted boolean,
    status text,
    is_numbered boolean,
    source_id text,
    target_id text,
    service_name text,
    service_instance_id text,
    knows integer,
    ended timestamptz,
    is_relayed boolean,
    is_guessed boolean
)
language plpgsql
stable
rows 20000
set search_path = public, pg_temp
-- Found by index whatever the statistics say.
set enable_seqscan = off
set jit = off
as $$
declare
    v_query constant text := $query$
        select
            call.timestamp, call.id, call.trace_id, call.span_id, call.parent_span_id, call.protocol, call.operation,
            case call.protocol
                when 'mcp' then coalesce(call.tool_name, call.metadata ->> 'prompt', call.metadata ->> 'resource_uri', '')
                when 'a2a' then
                    coalesce(call.metadata ->> case call.operation when 'send_task' then 'message_id' else 'task_id' end, '')
                else coalesce(call.workflow_node, call.workflow_id, '')
            end,
            call.observed_by, call.counted, call.status, coalesce(call.error_code ~ '^-?[0-9]+$', false),
            call.source_id, call.target_id, call.service_name, call.service_instance_id,
            num_nonnulls(call.tool_name) + 2 * num_nonnulls(call.tool_category) + 4 * num_nonnulls(call.task_description)
            + 8 * num_nonnulls(call.capabilities_required) + 16 * num_nonnulls(call.message_type)
            + 32 * num_nonnulls(call.workflow_id) + 64 * num_nonnulls(call.workflow_name)
            + 128 * num_nonnulls(call.workflow_node) + 256 * num_nonnulls(call.payload_size_bytes)
            + 512 * num_nonnulls(call.tokens_used) + 1024 * num_nonnulls(call.estimated_cost),
            call.timestamp + least(coalesce(call.duration_ms, 0), 9e9) * interval '1 millisecond',
            coalesce(call.metadata ? 'relayed', false), coalesce(call.metadata ? 'target_guessed', false)
        from %s
        where call.trace_id is not null and call.span_id is not null and call.timestamp between $1 and $2
    $query$;
    v_traces text[];
    v_correlations text[];
    v_from timestamptz := p_since - interval '1 hour';
    v_to timestamptz := 'infinity';
    v_part regclass;
begin
    if p_begun is null then
        return query execute format(v_query, 'communication_telemetry as call') using v_from, v_to;
        return;
    end if;
    select min(begun.at), max(begun.at) into v_from, v_to from unnest(p_begun) as begun (at);
    select
        array_agg(distinct fresh.trace_id),
        array_agg(distinct named.correlation_id),
        min(fresh.timestamp) - interval '1 hour',
        max(fresh.timestamp + least(coalesce(fresh.duration_ms, 0), 9e9) * interval '1 millisecond') + interval '1 hour'
    into v_traces, v_correlations, v_from, v_to
    from (
        select call.timestamp, call.duration_ms, call.trace_id, call.correlation_id
        from communication_telemetry as call
        where call.timestamp = any(p_begun) and call.timestamp between v_from and v_to and call.trace_id is not null
        offset 0
    ) as fresh
    -- It is the trace id where nobody gave another.
    cross join lateral unnest(array[fresh.trace_id, fresh.correlation_id]) as named (correlation_id);
    -- Partition by partition, and without the time in reach, there is one index to find them by.
    for v_part in
        select part.inhrelid
        from pg_catalog.pg_inherits as part
        inner join pg_catalog.pg_class as named on part.inhrelid = named.oid
        where part.inhparent = 'communication_telemetry'::regclass
            and (
                named.relname = 'communication_telemetry_default'
                or named.relname between telemetry_partition_name((v_from at time zone 'UTC')::date)::name
                and telemetry_partition_name((v_to at time zone 'UTC')::date)::name
            )
        order by part.inhrelid
    loop
        return query execute format(
            v_query,
            format(
                '(
                    select mate.*
                    from unnest($3) as wanted (correlation_id)
                    cross join lateral (
                        select row.* from only %s as row where row.correlation_id = wanted.correlation_id offset 0
                    ) as mate
                    where mate.trace_id = any($4)
                    offset 0
                ) as call',
                v_part
            )
        )
        using v_from, v_to, v_correlations, v_traces;
    end loop;
end;
$$;

comment on function calls_to_settle(timestamptz, timestamptz[]) is
'The rows that settling looks at: all begun since an hour before p_since, or with p_begun the traces of what began at those '
'times, an hour around them. key is what tells one call of an operation from another; knows has a bit for each column that '
'is filled, of those a claimed row gives away. is_relayed: it passes on the call of the server above it, if that is the '
'same; is_guessed: nobody named its target.';

create or replace function claims_to_settle(p_since timestamptz, p_begun timestamptz[]) returns jsonb
language plpgsql
stable
set search_path = public, pg_temp
set jit = off
as $$
begin
    -- The walk up a trace follows parents as settle() of the package does: it ends at a server of the same protocol,
    -- because what is below that is another call, and the outermost client of the same call claims the row. A server that
    -- passes the call on within its own process, to a server mounted in it or through a proxy, and one that answers a
    -- listing by listings, claims what it passed on. A listing below a tool call was nobody's wish.
    return (
        with recursive seen as materialized (
            select found.*, found.began as timestamp from calls_to_settle(p_since, p_begun) as found
        ),

        -- Between a server and one that is mounted in it lies a span that is no row: the server is around it in time.
        mounted as materialized (
            select row.timestamp, row.id, around.span_id
            from seen as row
            cross join lateral (
                select server.span_id
                from seen as server
                where server.trace_id = row.trace_id and server.id <> row.id and server.observed_by = 'server'
                    and server.protocol = row.protocol and server.operation = row.operation
                    and (server.key = row.key or right(server.key, length(row.key) + 1) = '_' || row.key)
                    and server.service_name is not distinct from row.service_name
                    and server.service_instance_id is not distinct from row.service_instance_id
                    and server.timestamp <= row.timestamp and server.ended >= row.ended
                    and (server.timestamp < row.timestamp or server.ended > row.ended)
                order by server.timestamp desc, server.id
                limit 1
            ) as around
            where row.is_relayed and row.observed_by = 'server' and row.parent_span_id is not null
                and not exists (
                    select from seen as above
                    where above.trace_id = row.trace_id and above.span_id = row.parent_span_id
                )
        ),

        walk as (
            select
                row.timestamp, row.id, row.protocol, row.operation, row.key, row.trace_id,
                coalesce(mounted.span_id, row.parent_span_id) as next_span_id, 0 as steps,
                null::timestamptz as claimant_timestamp, null::uuid as claimant_id, false as is_unasked,
                true as is_layer, row.is_relayed, row.key as inner_key, row.service_name, row.service_instance_id
            from seen as row
            left join mounted on row.timestamp = mounted.timestamp and row.id = mounted.id
            where row.observed_by in ('client', 'server') and row.parent_span_id is not null
                and (p_begun is not null or row.timestamp >= p_since)
            union all
            select
                walk.timestamp, walk.id, walk.protocol, walk.operation, walk.key, walk.trace_id,
                coalesce(mounted.span_id, above.parent_span_id), walk.steps + 1,
                case when met.is_same then above.timestamp else walk.claimant_timestamp end,
                case when met.is_same then above.id else walk.claimant_id end,
                met.is_side and walk.operation = 'tool_list' and above.operation = 'tool_call',
                -- What lies just below the next one up: a layer of this call, and of which process, or another call.
                case when met.is_side then met.is_same else walk.is_layer end,
                case when met.is_side then above.is_relayed else walk.is_relayed end,
                case when met.is_side then above.key else walk.inner_key end,
                case when met.is_side then above.service_name else walk.service_name end,
                case when met.is_side then above.service_instance_id else walk.service_instance_id end
            from walk
            inner join seen as above
                on walk.trace_id = above.trace_id and walk.next_span_id = above.span_id and walk.id <> above.id
            left join mounted on above.timestamp = mounted.timestamp and above.id = mounted.id
            cross join lateral (
                select above.protocol = walk.protocol and above.observed_by in ('client', 'server') as is_side
            ) as side
            cross join lateral (
                select
                    side.is_side,
                    side.is_side and above.operation = walk.operation
                    -- A gateway puts its server's name and _ before the tool's.
                    and (
                        above.key = walk.key or above.key = '' or walk.key = ''
                        or right(above.key, length(walk.key) + 1) = '_' || walk.key
                    ) as is_same
            ) as met
            where walk.steps < 64 and not walk.is_unasked
                and not (
                    above.protocol = walk.protocol and above.observed_by = 'server'
                    and not (
                        walk.is_layer and (walk.is_relayed or walk.operation = 'tool_list')
                        and above.operation = walk.operation
                        and (
                            above.key = walk.inner_key or above.key = '' or walk.inner_key = ''
                            or right(above.key, length(walk.inner_key) + 1) = '_' || walk.inner_key
                        )
                        and above.service_name is not distinct from walk.service_name
                        and above.service_instance_id is not distinct from walk.service_instance_id
                    )
                )
        ),

        claims as materialized (
            select distinct on (walk.timestamp, walk.id)
                walk.timestamp, walk.id, walk.is_unasked,
                case when not walk.is_unasked then walk.claimant_timestamp end as claimant_timestamp,
                case when not walk.is_unasked then walk.claimant_id end as claimant_id
            from walk
            where walk.steps > 0
            order by walk.timestamp, walk.id, walk.steps desc
        ),

        -- Most were settled before they came, and have nothing to give.
        wanting as materialized (
            select distinct claims.claimant_timestamp, claims.claimant_id
            from claims
            inner join seen as layer on claims.timestamp = layer.timestamp and claims.id = layer.id
            inner join seen as claimant
                on claims.claimant_timestamp = claimant.timestamp and claims.claimant_id = claimant.id
            where layer.counted
                or (claimant.status = 'success' and layer.status = 'error')
                or (claimant.status = layer.status and layer.is_numbered and not claimant.is_numbered)
                or layer.knows & 1023 & ~claimant.knows <> 0
                or (layer.knows >= 1024 and claimant.knows < 512)
                or (claimant.protocol = 'mcp' and claimant.target_id = 'unknown' and layer.target_id <> 'unknown')
                or (claimant.is_guessed and not layer.is_guessed and layer.target_id <> 'unknown')
                or (claimant.source_id = claimant.service_name and claimant.source_id <> layer.source_id)
        )

        select jsonb_agg(jsonb_build_object(
            'timestamp', claims.timestamp, 'id', claims.id,
            'claimant_timestamp', claims.claimant_timestamp, 'claimant_id', claims.claimant_id
        ))
        from claims
        left join wanting
            on claims.claimant_timestamp = wanting.claimant_timestamp and claims.claimant_id = wanting.claimant_id
        where wanting.claimant_id is not null
            or (
                claims.is_unasked
                and (claims.timestamp, claims.id) in (select row.timestamp, row.id from seen as row where row.counted)
            )
    );
end;
$$;

comment on function claims_to_settle(timestamptz, timestamptz[]) is
'Which rows of calls_to_settle() are layers of which: [{"timestamp", "id", "claimant_timestamp", "claimant_id"}], all '
'layers of each claimant that one of them may change; without a claimant where nobody asked for the call. Null: none.';

do $$
declare
    v_role text;
begin
    foreach v_role in array array(
        select quote_ident(role.rolname)
        from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    ) || 'public'::text loop
        execute format('revoke all on function calls_to_settle(timestamptz, timestamptz[]) from %s', v_role);
    end loop;
end;
$$;
