-- Settling: a server that no handler of its own answers for may know the call it passes on by another name. The prefix of a
-- mounted server stands within the URI of its resources, not before it as with tools.
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
