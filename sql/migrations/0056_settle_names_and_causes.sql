-- Settling: a server that no handler of its own answers for may know the call it passes on by another name. The prefix of a
-- mounted server stands within the URI of its resources, not before it as with tools.
-- A client that was only told that its call failed takes the cause from its server; who wrote that down learns it too.
create or replace function calls_to_settle(p_since timestamptz, p_begun timestamptz[]) returns table (
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
    is_guessed boolean,
    is_derived boolean,
    is_unhandled boolean,
    http_caller text,
    http_requests jsonb
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
            + 512 * num_nonnulls(call.tokens_used) + 1024 * num_nonnulls(call.estimated_cost)
            + 2048 * (coalesce(call.error_message, '') not in ('', 'unknown exception'))::integer,
            call.timestamp + least(coalesce(call.duration_ms, 0), 9e9) * interval '1 millisecond',
            coalesce(call.metadata ? 'relayed', false), coalesce(call.metadata ? 'target_guessed', false),
            coalesce(call.metadata ? 'outcome_derived', false), coalesce(call.metadata ? 'unhandled', false),
            call.metadata ->> 'http_caller_span_id', call.metadata -> 'http_span_ids'
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
'is filled, of those a claimed row gives away, and one for a text of an error that says what failed. '
'is_relayed: it passes on the call of the server above it, if that is the same; is_guessed: nobody named its target; '
'is_derived: a client that did not say that the call succeeded; is_unhandled: no '
'handler of its own answered; http_caller: the span its HTTP request came from; http_requests: those of the requests it made.';

create or replace function claims_to_settle(p_since timestamptz, p_begun timestamptz[]) returns jsonb
language plpgsql
stable
set search_path = public, pg_temp
set jit = off
as $$
declare
    v_listings constant text[] := array['tool_list', 'prompt_list', 'resource_list', 'resource_template_list'];
begin
    -- The walk up a trace follows parents as settle() of the package does: it ends at a server of the same protocol,
    -- because what is below that is another call, and the outermost client of the same call claims the row. A server that
    -- passes the call on within its own process, to a server mounted in it or through a proxy, and one that answers a
    -- listing by listings, claims what it passed on; above it the call goes by the name that server has for it. A listing
    -- below a client's tool call was nobody's wish, and neither was one that a server looked up by itself: below a call
    -- that no handler of its own answered.
    return (
        with recursive seen as materialized (
            select found.*, found.began as timestamp from calls_to_settle(p_since, p_begun) as found
        ),

        -- Between a server and one that is mounted in it lies a span that is no row: the server is around it in time, and its
        -- name for the call ends alike, because several may be answered at once.
        mounted as materialized (
            select row.timestamp, row.id, around.span_id
            from seen as row
            cross join lateral (
                select server.span_id
                from seen as server
                where server.trace_id = row.trace_id and server.id <> row.id and server.observed_by = 'server'
                    and server.protocol = row.protocol and server.operation = row.operation
                    and (
                        server.key = row.key or right(server.key, length(row.key) + 1) = '_' || row.key
                        -- A prefix of a resource stands between the scheme and the rest.
                        or (
                            row.key like '%://%'
                            and right(server.key, length(split_part(row.key, '://', 2)) + 1)
                            = '/' || split_part(row.key, '://', 2)
                        )
                    )
                    and server.service_name is not distinct from row.service_name
                    and server.service_instance_id is not distinct from row.service_instance_id
                    and server.timestamp <= row.timestamp and server.ended >= row.ended
                    and (server.timestamp < row.timestamp or server.ended > row.ended)
                order by server.timestamp desc, server.id
                limit 1
            ) as around
            where row.is_relayed and row.observed_by = 'server' and row.parent_span_id is not null
                and row.http_caller is null
                and not exists (
                    select from seen as above
                    where above.trace_id = row.trace_id and above.span_id = row.parent_span_id
                )
        ),

        -- Between a call and who made it may lie spans of HTTP, which are no rows either: whoever made the request is above it.
        requested as materialized (
            select row.timestamp, row.id, client.span_id
            from seen as client
            cross join lateral jsonb_array_elements_text(client.http_requests) as request (span_id)
            inner join seen as row
                on client.trace_id = row.trace_id
                and coalesce(row.http_caller, row.parent_span_id) = request.span_id
                and client.id <> row.id
        ),

        -- Where nobody knows who made it, the client is around the server in time. Another server that is around it too, and
        -- began later, made the request, for the same call. A millisecond is for different clocks.
        timed as materialized (
            select distinct on (row.timestamp, row.id)
                row.timestamp, row.id, case when around.observed_by = 'client' then around.span_id end as span_id
            from seen as row
            inner join seen as around
                on row.trace_id = around.trace_id and row.protocol = around.protocol and row.operation = around.operation
            where row.http_caller is not null and row.observed_by = 'server' and row.counted and row.id <> around.id
                and (
                    around.key = row.key or around.key = '' or row.key = ''
                    or right(around.key, length(row.key) + 1) = '_' || row.key
                )
                and around.timestamp <= row.timestamp + interval '1 millisecond'
                and around.ended >= row.ended - interval '1 millisecond'
                and (
                    (around.observed_by = 'client' and around.http_requests is null)
                    or (
                        around.observed_by = 'server'
                        and (around.service_name, around.service_instance_id)
                        is distinct from (row.service_name, row.service_instance_id)
                    )
                )
                and not exists (
                    select from requested where requested.timestamp = row.timestamp and requested.id = row.id
                )
            order by row.timestamp, row.id, around.timestamp desc, around.id
        ),

        bridged as materialized (
            select mounted.timestamp, mounted.id, mounted.span_id from mounted
            union all
            select requested.timestamp, requested.id, requested.span_id from requested
            union all
            select timed.timestamp, timed.id, timed.span_id from timed where timed.span_id is not null
        ),

        walk as (
            select
                row.timestamp, row.id, row.protocol, row.operation, row.key, row.trace_id,
                coalesce(bridged.span_id, row.parent_span_id) as next_span_id, 0 as steps,
                null::timestamptz as claimant_timestamp, null::uuid as claimant_id, false as is_unasked,
                true as is_layer, row.is_relayed, row.key as inner_key, row.service_name, row.service_instance_id
            from seen as row
            left join bridged on row.timestamp = bridged.timestamp and row.id = bridged.id
            where row.observed_by in ('client', 'server') and row.parent_span_id is not null
                and (p_begun is not null or row.timestamp >= p_since)
            union all
            select
                walk.timestamp, walk.id, walk.protocol, walk.operation,
                case when passed.is_on then above.key else walk.key end, walk.trace_id,
                coalesce(bridged.span_id, above.parent_span_id), walk.steps + 1,
                case when met.is_same then above.timestamp else walk.claimant_timestamp end,
                case when met.is_same then above.id else walk.claimant_id end,
                met.is_side and (walk.operation = 'tool_list' and above.operation = 'tool_call' or met.is_looked_up),
                -- What lies just below the next one up: a layer of this call, and of which process, or another call.
                case when met.is_side then met.is_same else walk.is_layer end,
                case when met.is_side then above.is_relayed else walk.is_relayed end,
                case when met.is_side then above.key else walk.inner_key end,
                case when met.is_side then above.service_name else walk.service_name end,
                case when met.is_side then above.service_instance_id else walk.service_instance_id end
            from walk
            inner join seen as above
                on walk.trace_id = above.trace_id and walk.next_span_id = above.span_id and walk.id <> above.id
            left join bridged on above.timestamp = bridged.timestamp and above.id = bridged.id
            cross join lateral (
                select
                    above.protocol = walk.protocol and above.observed_by in ('client', 'server') as is_side,
                    above.protocol = walk.protocol and above.observed_by = 'server' as is_server,
                    walk.is_layer and above.service_name is not distinct from walk.service_name
                    and above.service_instance_id is not distinct from walk.service_instance_id as is_here
            ) as side
            cross join lateral (
                select
                    side.is_server and side.is_here and above.operation = walk.operation
                    and (
                        (walk.is_relayed and above.is_unhandled)
                        or (
                            (walk.is_relayed or above.is_unhandled or walk.operation = any(v_listings))
                            and (
                                above.key = walk.inner_key or above.key = '' or walk.inner_key = ''
                                or right(above.key, length(walk.inner_key) + 1) = '_' || walk.inner_key
                            )
                        )
                    ) as is_on
            ) as passed
            cross join lateral (
                select
                    side.is_side,
                    passed.is_on or side.is_side and above.operation = walk.operation
                    -- A gateway puts its server's name and _ before the tool's.
                    and (
                        above.key = walk.key or above.key = '' or walk.key = ''
                        or right(above.key, length(walk.key) + 1) = '_' || walk.key
                    ) as is_same,
                    side.is_here and walk.operation = any(v_listings) and above.is_unhandled and not passed.is_on
                    as is_looked_up
            ) as met
            where walk.steps < 64 and not walk.is_unasked
                and not (side.is_server and not passed.is_on and not met.is_looked_up)
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
                or ((claimant.status = 'success' or claimant.is_derived) and layer.status = 'error')
                or (
                    claimant.is_derived and claimant.status = 'success'
                    and layer.status = 'cancelled' and (layer.observed_by = 'server' or layer.is_derived)
                )
                or (
                    claimant.is_derived and layer.observed_by = 'client' and layer.status = 'success'
                    and not layer.is_derived
                )
                or (claimant.status = layer.status and layer.is_numbered and not claimant.is_numbered)
                or layer.knows & 1023 & ~claimant.knows <> 0
                or (layer.knows & 1024 <> 0 and claimant.knows & 1536 = 0)
                or (
                    claimant.status = 'error' and layer.status = 'error' and layer.knows & 2048 & ~claimant.knows <> 0
                    and claimant.observed_by = 'client' and layer.observed_by = 'server'
                )
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
                    when (claimant.status = 'success' or claimant.metadata ? 'outcome_derived') and call.status = 'error'
                        then jsonb_build_object('message', call.error_message, 'code', call.error_code)
                end,
                -- Over HTTP+JSON the SDK of A2A tells a caller no more than this, whatever an executor raised.
                ':cause', case
                    when call.status = 'error' and coalesce(call.error_message, '') not in ('', 'unknown exception')
                        and (
                            claimant.status = 'success' or claimant.metadata ? 'outcome_derived'
                            or (claimant.status = 'error' and coalesce(claimant.error_message, '') in ('', 'unknown exception'))
                        )
                        and (
                            (claimant.observed_by = 'client' and call.observed_by = 'server')
                            -- Who wrote the call down took its error, and learns what it learns.
                            or (
                                claimant.observed_by = 'manual' and call.observed_by = 'client'
                                and claimant.error_message = 'unknown exception'
                            )
                        )
                        then call.error_message
                end,
                -- A client that did not say how it ended believes one of its own layers that did, or else its server.
                ':cancelled', case
                    when claimant.status = 'success' and claimant.metadata ? 'outcome_derived'
                        and call.status = 'cancelled'
                        and (call.observed_by = 'server' or coalesce(call.metadata ? 'outcome_derived', false))
                        then jsonb_build_object('message', call.error_message, 'code', call.error_code)
                end,
                ':succeeded', case
                    when claimant.metadata ? 'outcome_derived' and call.observed_by = 'client' and call.status = 'success'
                        and not coalesce(call.metadata ? 'outcome_derived', false)
                        then true
                end,
                -- A number is the protocol's own code, and says more than the name of a class.
                ':number', case
                    when call.error_code ~ '^-?[0-9]+$'
                        and not coalesce(claimant.error_code ~ '^-?[0-9]+$', false)
                        and call.status = case
                            when claimant.status = 'success' or claimant.metadata ? 'outcome_derived' then 'error'
                            else claimant.status
                        end
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
            coalesce(ended.status, call.status) as status,
            case
                when coalesce(ended.status, call.status) = 'error'
                    and coalesce(said.error_message, '') in ('', 'unknown exception')
                    then coalesce(touched.given ->> ':cause', said.error_message)
                else said.error_message
            end as error_message,
            coalesce(
                touched.given ->> ':number',
                case when ended.status is null then call.error_code else ended.how ->> 'code' end
            ) as error_code,
            call.source_id as old_source_id, call.source_type as old_source_type,
            coalesce(touched.given #>> '{:source,id}', call.source_id) as source_id,
            coalesce(touched.given #>> '{:source,type}', call.source_type) as source_type,
            call.target_id as old_target_id, call.target_type as old_target_type,
            coalesce(answered.by ->> 'id', call.target_id) as target_id,
            coalesce(answered.by ->> 'type', call.target_type) as target_type,
            case
                when answered.by is null then known.metadata
                when (answered.by ->> 'is_guessed')::boolean
                    then coalesce(known.metadata, '{}') || '{"target_guessed": true}'
                else known.metadata - 'target_guessed'
            end as metadata
        from touched
        cross join lateral (
            select row.*
            from communication_telemetry as row
            where row.timestamp = touched.timestamp and row.id = touched.id
            offset 0
        ) as call
        cross join lateral (select coalesce(touched.given -> ':named', touched.given -> ':target') as by) as answered
        cross join lateral (
            select
                case
                    when touched.given ? ':failure' then 'error'
                    when touched.given ? ':succeeded' then 'success'
                    when touched.given ? ':cancelled' then 'cancelled'
                end as status,
                case
                    when touched.given ? ':failure' then touched.given -> ':failure'
                    when not touched.given ? ':succeeded' then touched.given -> ':cancelled'
                end as how
        ) as ended
        cross join lateral (
            select
                case when ended.status is null then call.error_message else ended.how ->> 'message' end as error_message
        ) as said
        cross join lateral (
            select case when ended.status in ('error', 'success') then call.metadata - 'outcome_derived' else call.metadata end
        ) as known (metadata)
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

comment on function apply_claims(jsonb) is
'Takes layers out of the counts, and gives the row that claims them what it does not know: the error one of them saw, or why '
'it failed, its target, its empty columns, and that its server saw it cancelled where it did not say how it ended; as '
'settle() of the package merges the spans of a batch. p_claims as claims_to_settle() returns it. Returns {"changed": n, '
'"corrections": […]} with what to add to the activity of the entities.';

create or replace function settle_recorded_by_hand(p_since timestamptz, p_until timestamptz) returns jsonb
language plpgsql
set search_path = public, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set jit = off
as $$
declare
    v_pass jsonb;
    v_claims jsonb;
    v_changed integer := 0;
    v_corrections jsonb := '[]';
begin
    -- Claims already made are guessed from the rows, so each new one may free a record; the last pass finds none.
    loop
        select jsonb_agg(jsonb_build_object(
            'timestamp', pair.call_timestamp, 'id', pair.call_id,
            'claimant_timestamp', pair.record_timestamp, 'claimant_id', pair.record_id
        ))
        into v_claims
        from pair_recorded_calls(p_since, p_until) as pair
        cross join lateral (
            select row.status, row.error_message, row.observed_by
            from communication_telemetry as row
            where row.timestamp = pair.call_timestamp and row.id = pair.call_id
            offset 0
        ) as call
        cross join lateral (
            select row.status, row.error_message
            from communication_telemetry as row
            where row.timestamp = pair.record_timestamp and row.id = pair.record_id
            offset 0
        ) as record
        where pair.is_new
            -- The call may have learned the cause after the record took its error.
            or (
                record.status = 'error' and record.error_message = 'unknown exception'
                and call.observed_by = 'client' and call.status = 'error'
                and coalesce(call.error_message, '') not in ('', 'unknown exception')
            );
        exit when v_claims is null;
        v_pass := apply_claims(v_claims);
        exit when (v_pass ->> 'changed')::integer = 0;
        v_changed := v_changed + (v_pass ->> 'changed')::integer;
        v_corrections := v_corrections || (v_pass -> 'corrections');
    end loop;
    return jsonb_build_object('changed', v_changed, 'corrections', v_corrections);
end;
$$;

comment on function settle_recorded_by_hand(timestamptz, timestamptz) is
'Takes out of the counts what records by hand of that time claim, and gives them what they do not know. Returns '
'{"changed": n, "corrections": […]} with what to add to the activity of the entities; settle_calls() does that.';
