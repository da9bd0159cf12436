-- A traced call that the application recorded by hand as well, when the two arrived apart: which record claims which call.
create function pair_recorded_calls(p_since timestamptz) returns table (
    call_timestamp timestamptz,
    call_id uuid,
    record_timestamp timestamptz,
    record_id uuid,
    is_new boolean
)
language plpgsql
stable
set search_path = public, pg_temp
as $$
declare
    -- A record by hand measures with another clock than the span: a millisecond covers the difference.
    v_clocks constant interval := interval '1 millisecond';
    v_from constant timestamptz := p_since - interval '1 hour';
    v_event record;
    v_group bigint := 0;
    v_timestamps timestamptz[];
    v_ids uuid[];
    v_counted boolean[];
    v_free boolean[];
    v_first integer;
    v_best integer;
begin
    -- One sweep by end within each group of what is alike, so that every record finds all calls that ended in it. It takes
    -- the one begun first: what is left began later, and fits into more records.
    for v_event in
        with recorded as materialized (
            select row.timestamp, row.id, row.duration_ms, row.service_name, row.service_instance_id,
                row.protocol, row.operation, called.key
            from communication_telemetry as row
            cross join lateral (
                select case row.protocol
                    when 'a2a' then row.target_id
                    when 'mcp' then coalesce(row.tool_name, row.metadata ->> 'prompt', row.metadata ->> 'resource_uri', '')
                    else coalesce(row.workflow_node, row.workflow_id, '')
                end as key
            ) as called
            where row.timestamp >= v_from and row.observed_by = 'manual' and row.counted
                and row.trace_id is not null and row.duration_ms is not null
        ),

        alike as materialized (
            select
                recorded.protocol, recorded.operation, recorded.key, recorded.service_name, recorded.service_instance_id,
                row_number() over () as number,
                max(recorded.duration_ms) * interval '1 millisecond' as longest,
                min(recorded.timestamp) - v_clocks as earliest,
                max(recorded.timestamp + recorded.duration_ms * interval '1 millisecond') + v_clocks as latest
            from recorded
            group by 1, 2, 3, 4, 5
        ),

        traced as materialized (
            select
                row.timestamp, row.id, row.counted, alike.number, alike.longest, span.ended,
                -- One that does not count was claimed: by a record, whose only call it is then, or by another layer of the
                -- call, which began before it and ended after it.
                not row.counted and coalesce(
                    max(span.ended) filter (where row.observed_by = 'client') over (
                        partition by alike.number, row.trace_id
                        order by row.timestamp asc, span.ended desc, row.id asc
                        rows between unbounded preceding and 1 preceding
                    ) >= span.ended,
                    false
                ) as is_layer
            from communication_telemetry as row
            inner join alike
                on row.protocol = alike.protocol
                and row.operation = alike.operation
                and row.service_name is not distinct from alike.service_name
                and row.service_instance_id is not distinct from alike.service_instance_id
                and row.timestamp between alike.earliest and alike.latest
                and case row.protocol
                    when 'a2a' then row.target_id
                    when 'mcp' then coalesce(row.tool_name, row.metadata ->> 'prompt', row.metadata ->> 'resource_uri', '')
                    else coalesce(row.workflow_node, row.workflow_id, '')
                end = alike.key
            cross join lateral (select row.timestamp + row.duration_ms * interval '1 millisecond' as ended) as span
            where row.timestamp >= v_from and row.observed_by in ('client', 'server')
                and row.trace_id is not null and row.duration_ms is not null
        ),

        events as (
            select
                alike.number, alike.longest, true as is_record, false as counted, recorded.timestamp, recorded.id,
                recorded.timestamp + recorded.duration_ms * interval '1 millisecond' + v_clocks as at
            from recorded
            inner join alike
                on recorded.protocol = alike.protocol
                and recorded.operation = alike.operation
                and recorded.key = alike.key
                and recorded.service_name is not distinct from alike.service_name
                and recorded.service_instance_id is not distinct from alike.service_instance_id
            union all
            select traced.number, traced.longest, false, traced.counted, traced.timestamp, traced.id, traced.ended
            from traced
            where not traced.is_layer
        )

        select events.*
        from events
        order by events.number, events.at, events.is_record, events.timestamp, events.id
    loop
        if v_event.number <> v_group then
            v_group := v_event.number;
            v_timestamps := '{}';
            v_ids := '{}';
            v_counted := '{}';
            v_free := '{}';
            v_first := 1;
        end if;
        if not v_event.is_record then
            v_timestamps := v_timestamps || v_event.timestamp;
            v_ids := v_ids || v_event.id;
            v_counted := v_counted || v_event.counted;
            v_free := v_free || true;
            continue;
        end if;
        v_best := null;
        for v_at in v_first .. cardinality(v_ids) loop
            continue when not v_free[v_at] or v_timestamps[v_at] < v_event.timestamp - v_clocks;
            -- What is claimed already keeps a record, so that nothing is new the second time.
            if v_best is null
                or (v_counted[v_best] and not v_counted[v_at])
                or (v_counted[v_best] = v_counted[v_at] and v_timestamps[v_at] < v_timestamps[v_best])
            then
                v_best := v_at;
            end if;
        end loop;
        if v_best is not null then
            v_free[v_best] := false;
            call_timestamp := v_timestamps[v_best];
            call_id := v_ids[v_best];
            record_timestamp := v_event.timestamp;
            record_id := v_event.id;
            is_new := v_counted[v_best];
            return next;
        end if;
        -- No later record is long enough to hold these.
        while v_first <= cardinality(v_ids)
            and (not v_free[v_first] or v_timestamps[v_first] < v_event.at - v_event.longest - 2 * v_clocks)
        loop
            v_first := v_first + 1;
        end loop;
    end loop;
end;
$$;

comment on function pair_recorded_calls(timestamptz) is
'Traced calls since p_since that a record by hand claims: same protocol, operation, key and process, and the record''s time '
'holds the call''s, give or take 1 ms; one record claims one call. As settle() of the package pairs them. is_new where the '
'call counts still.';

create function settle_recorded_by_hand(p_since timestamptz) returns jsonb
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_pass jsonb;
    v_changed integer := 0;
    v_corrections jsonb := '[]';
begin
    -- Claims already made are guessed from the rows, so each new one may free a record; the last pass finds none.
    loop
        with pairs as materialized (
            select * from pair_recorded_calls(p_since)
        ),

        verdicts as materialized (
            select
                call.timestamp, call.id, false as counted, call.status, call.error_message, call.error_code,
                call.source_id, call.source_type, call.target_id, call.target_type,
                -1 as calls, case when call.status in ('error', 'timeout') then -1 else 0 end as errors
            from pairs
            inner join communication_telemetry as call on pairs.call_timestamp = call.timestamp and pairs.call_id = call.id
            where pairs.is_new
            union all
            -- The record counts, and takes the error that the traced call saw, also one it learns of later.
            select
                record.timestamp, record.id, true, call.status, call.error_message, call.error_code,
                record.source_id, record.source_type, record.target_id, record.target_type, 0, 1
            from pairs
            inner join communication_telemetry as call on pairs.call_timestamp = call.timestamp and pairs.call_id = call.id
            inner join communication_telemetry as record
                on pairs.record_timestamp = record.timestamp and pairs.record_id = record.id
            where record.status = 'success' and call.status = 'error'
        ),

        settled as (
            update communication_telemetry as row
            set
                counted = verdicts.counted,
                status = verdicts.status,
                error_message = verdicts.error_message,
                error_code = verdicts.error_code
            from verdicts
            where row.timestamp = verdicts.timestamp and row.id = verdicts.id
            returning row.id
        )

        select jsonb_build_object(
            'changed', (select count(*) from settled),
            'corrections', coalesce(jsonb_agg(jsonb_build_object(
                'entity_id', ends.entity_id, 'entity_type', registry_entity_type(ends.row_type),
                'calls', verdicts.calls, 'errors', verdicts.errors
            )), '[]')
        )
        into v_pass
        from verdicts
        cross join lateral (
            select verdicts.source_id, verdicts.source_type
            union
            select verdicts.target_id, verdicts.target_type
        ) as ends (entity_id, row_type);
        exit when (v_pass ->> 'changed')::integer = 0;
        v_changed := v_changed + (v_pass ->> 'changed')::integer;
        v_corrections := v_corrections || (v_pass -> 'corrections');
    end loop;
    return jsonb_build_object('changed', v_changed, 'corrections', v_corrections);
end;
$$;

comment on function settle_recorded_by_hand(timestamptz) is
'Takes out of the counts what records by hand claim, and gives them its errors. Returns {"changed": n, "corrections": […]} '
'with what to add to the activity of the entities; settle_communications() does that.';

do $$
declare
    v_role text;
begin
    for v_role in
        select 'public'
        union all
        select quote_ident(role.rolname)
        from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    loop
        execute format('revoke all on function pair_recorded_calls(timestamptz) from %s', v_role);
        execute format('revoke all on function settle_recorded_by_hand(timestamptz) from %s', v_role);
    end loop;
end;
$$;
