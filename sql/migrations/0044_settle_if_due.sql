-- Settling, part three: which calls records by hand claim, and when all of it is done. What it replaces nobody is granted.
-- squawk-ignore ban-drop-function
drop function settle_recorded_by_hand(timestamptz);
-- squawk-ignore ban-drop-function
drop function pair_recorded_calls(timestamptz);

create function pair_recorded_calls(p_since timestamptz, p_until timestamptz) returns table (
    call_timestamp timestamptz,
    call_id uuid,
    record_timestamp timestamptz,
    record_id uuid,
    is_new boolean
)
language plpgsql
stable
set search_path = public, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set jit = off
as $$
declare
    -- A record by hand measures with another clock than the span: a millisecond covers the difference.
    v_clocks constant interval := interval '1 millisecond';
    v_event record;
    v_group bigint := 0;
    v_timestamps timestamptz[];
    v_ids uuid[];
    v_counted boolean[];
    v_free boolean[];
    v_knows integer[];
    v_first integer;
    v_best integer;
begin
    -- One sweep by end within each group of what is alike, so that every record finds all calls that ended in it. It takes
    -- the one begun first: what is left began later, and fits into more records.
    for v_event in
        with recorded as materialized (
            select row.timestamp, row.id, row.duration_ms, row.service_name, row.service_instance_id,
                row.protocol, row.operation, called.key,
                num_nonnulls(row.tool_category) + 2 * num_nonnulls(row.task_description) + 4 * num_nonnulls(row.message_type)
                + 8 * num_nonnulls(row.payload_size_bytes) + 16 * num_nonnulls(row.tokens_used)
                + 32 * num_nonnulls(row.estimated_cost) + 64 * num_nonnulls(row.capabilities_required)
                + 128 * (row.status <> 'success')::integer + 256 * (row.target_id <> 'unknown')::integer as knows
            from communication_telemetry as row
            cross join lateral (
                select case row.protocol
                    when 'a2a' then row.target_id
                    when 'mcp' then coalesce(row.tool_name, row.metadata ->> 'prompt', row.metadata ->> 'resource_uri', '')
                    else coalesce(row.workflow_node, row.workflow_id, '')
                end as key
            ) as called
            where row.timestamp between p_since and p_until and row.observed_by = 'manual' and row.counted
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
                num_nonnulls(row.tool_category) + 2 * num_nonnulls(row.task_description) + 4 * num_nonnulls(row.message_type)
                + 8 * num_nonnulls(row.payload_size_bytes) + 16 * num_nonnulls(row.tokens_used)
                + 32 * num_nonnulls(row.estimated_cost) + 64 * num_nonnulls(row.capabilities_required)
                + 128 * (row.status = 'error')::integer
                + 256 * (row.protocol = 'mcp' and row.target_id <> 'unknown')::integer as knows,
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
            where row.timestamp between p_since and p_until and row.observed_by in ('client', 'server')
                and row.trace_id is not null and row.duration_ms is not null
        ),

        events as (
            select
                alike.number, alike.longest, true as is_record, false as counted, recorded.timestamp, recorded.id,
                recorded.knows,
                recorded.timestamp + recorded.duration_ms * interval '1 millisecond' + v_clocks as at
            from recorded
            inner join alike
                on recorded.protocol = alike.protocol
                and recorded.operation = alike.operation
                and recorded.key = alike.key
                and recorded.service_name is not distinct from alike.service_name
                and recorded.service_instance_id is not distinct from alike.service_instance_id
            -- Most that is recorded by hand is not traced as well.
            where alike.number in (select traced.number from traced)
            union all
            select
                traced.number, traced.longest, false, traced.counted, traced.timestamp, traced.id, traced.knows, traced.ended
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
            v_knows := '{}';
            v_first := 1;
        end if;
        if not v_event.is_record then
            v_timestamps := v_timestamps || v_event.timestamp;
            v_ids := v_ids || v_event.id;
            v_counted := v_counted || v_event.counted;
            v_free := v_free || true;
            v_knows := v_knows || v_event.knows;
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
            is_new := v_counted[v_best] or v_knows[v_best] & ~v_event.knows <> 0;
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

comment on function pair_recorded_calls(timestamptz, timestamptz) is
'Traced calls of that time that a record by hand claims: same protocol, operation, key and process, and the record''s time '
'holds the call''s, give or take 1 ms; one record claims one call. As settle() of the package pairs them. is_new where the '
'call counts still or knows what the record does not.';

create function settle_calls(p_since timestamptz, p_begun timestamptz[]) returns jsonb
language plpgsql
set search_path = public, pg_temp
set enable_seqscan = off
as $$
declare
    v_traced jsonb := '{"changed": 0, "corrections": []}';
    v_recorded jsonb := v_traced;
    v_claims jsonb;
    v_from timestamptz := p_since - interval '1 hour';
    v_to timestamptz := 'infinity';
    v_longest interval;
    v_has_records boolean := true;
    v_has_nameless boolean;
begin
    if p_begun is not null then
        select min(begun.at), max(begun.at) into v_from, v_to from unnest(p_begun) as begun (at);
        select
            coalesce(max(least(call.duration_ms, 9e5)), 0) * interval '1 millisecond',
            bool_or(call.observed_by = 'manual'),
            bool_or(call.correlation_id is null)
        into v_longest, v_has_records, v_has_nameless
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
    return jsonb_build_object(
        'changed', (v_traced ->> 'changed')::integer + (v_recorded ->> 'changed')::integer,
        'corrections', (v_traced -> 'corrections') || (v_recorded -> 'corrections')
    );
end;
$$;

comment on function settle_calls(timestamptz, timestamptz[]) is
'Settles calls begun since p_since or, with p_begun, the traces of those begun at these times. Returns {"changed": n, '
'"corrections": […]}; the corrections are for correct_entity_activity(), last in a transaction: writers lock rows of the '
'registry last as well.';

create or replace function settle_communications(p_since timestamptz default now() - interval '15 minutes') returns integer
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
    v_done jsonb;
begin
    -- The lock of the migration runner: the two would wait for each other's tables. And two passes at once would update the
    -- same rows in different order.
    perform pg_advisory_xact_lock_shared(28548158752780652);
    perform pg_advisory_xact_lock(hashtextextended('elf-automations settle', 0));
    v_done := settle_calls(v_since, null);
    perform correct_entity_activity(v_done -> 'corrections');
    return (v_done ->> 'changed')::integer;
end;
$$;

comment on function settle_communications(timestamptz) is
'Settles calls whose sides arrived apart: the outermost client row counts, takes the error its server saw and fills its '
'empty columns; where the application recorded the call by hand as well, that record counts. Looks at all calls begun '
'since p_since, corrects the activity of their entities, changes nothing the second time; returns how many rows changed.';

create function settle_communications_if_due(p_wait boolean default false) returns boolean
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_ends constant timestamptz := clock_timestamp() + interval '2 seconds';
    v_most constant integer := 20000;
    v_begun timestamptz[];
    v_corrections jsonb := '[]';
    v_done jsonb;
begin
    if not exists (select from telemetry_unsettled) then
        return true;
    end if;
    if p_wait then
        perform pg_advisory_xact_lock_shared(28548158752780652);
        perform pg_advisory_xact_lock(hashtextextended('elf-automations settle', 0));
    elsif not exists (select from telemetry_unsettled where arrived_at < now() - interval '5 seconds')
        or not pg_try_advisory_xact_lock_shared(28548158752780652)
        or not pg_try_advisory_xact_lock(hashtextextended('elf-automations settle', 0))
    then
        return false;
    end if;
    loop
        with due as (
            select ctid as place, sum(calls) over (order by arrived_at, ctid) - calls as before
            from telemetry_unsettled
        ),

        taken as (
            delete from telemetry_unsettled
            where ctid = any(array(select due.place from due where due.before < v_most))
            returning begun
        )

        select array_agg(distinct part.at) into v_begun
        from taken
        cross join lateral unnest(taken.begun) as part (at);
        exit when v_begun is null;
        -- What one large statement wrote takes several passes, a restored dump for one.
        if cardinality(v_begun) > v_most then
            insert into telemetry_unsettled (calls, begun)
            select count(*), array_agg(later.at)
            from unnest(v_begun[v_most + 1:]) with ordinality as later (at, place)
            group by (later.place - 1) / v_most;
            v_begun := v_begun[:v_most];
        end if;
        v_done := settle_calls(null, v_begun);
        v_corrections := v_corrections || (v_done -> 'corrections');
        exit when clock_timestamp() > v_ends;
    end loop;
    perform correct_entity_activity(v_corrections);
    return not exists (select from telemetry_unsettled where arrived_at <= now());
end;
$$;

comment on function settle_communications_if_due(boolean) is
'settle_communications() for what is noted in telemetry_unsettled: the traces of calls that came since the last pass, '
'whoever wrote them. True when nothing is left of what was there when it was called. Gives way to another session that is '
'at it, and to calls of the last 5 seconds; with p_wait => true it does not. After 2 seconds it leaves the rest for later.';

-- What came is found by its trace; that two rows of a trace lie under different correlation ids, only by reading all.
create or replace function maintain_telemetry() returns jsonb
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_before constant timestamptz := (select last_run from telemetry_upkeep where task = 'maintain_telemetry');
    v_done jsonb;
    v_fired integer;
    v_resolved integer;
    v_forgotten integer;
begin
    -- The lock of the migration runner: the two would wait for each other's tables.
    perform pg_advisory_xact_lock_shared(28548158752780652);
    v_done := jsonb_build_object(
        'rows_settled',
        settle_communications(greatest(least(v_before, now()) - interval '15 minutes', now() - interval '1 day'))
    );
    perform settle_communications_if_due(p_wait => true);
    perform maintain_telemetry_rollups();
    select count(*) filter (where changed.resolved_at is null), count(changed.resolved_at)
    into v_fired, v_resolved
    from evaluate_alerts() as changed;
    delete from alert_history where resolved_at < now() - telemetry_setting('alert_history_days') * interval '1 day';
    get diagnostics v_forgotten = row_count;
    v_done := v_done || jsonb_build_object(
        'alerts_fired', v_fired, 'alerts_resolved', v_resolved, 'alerts_forgotten', v_forgotten
    );
    begin
        v_done := v_done || jsonb_build_object(
            'partitions_created', ensure_telemetry_partitions(telemetry_setting('partition_days_ahead')::integer),
            'partitions_dropped', drop_old_telemetry_partitions()
        );
    exception when lock_not_available then
        -- Somebody reads them all, a dump perhaps. There are some days ahead, and the rest must not wait for it.
        v_done := v_done || jsonb_build_object(
            'partitions_created', 0, 'partitions_dropped', 0, 'partitions_postponed', true
        );
    end;
    insert into telemetry_upkeep (task, last_run) values ('maintain_telemetry', now())
    on conflict (task) do update set last_run = excluded.last_run, last_error = null;
    return v_done;
end;
$$;

do $$
declare
    v_clients constant text[] := array(
        select quote_ident(role.rolname)
        from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    );
    v_internal constant text[] := array[
        'apply_claims(jsonb)', 'calls_to_settle(timestamptz, timestamptz[])', 'claims_to_settle(timestamptz, timestamptz[])',
        'note_unsettled()', 'pair_recorded_calls(timestamptz, timestamptz)', 'settle_calls(timestamptz, timestamptz[])',
        'settle_recorded_by_hand(timestamptz, timestamptz)'
    ];
    v_role text;
    v_function text;
begin
    foreach v_role in array v_clients || 'public'::text loop
        execute format('revoke all on table telemetry_unsettled from %s', v_role);
        foreach v_function in array v_internal || 'settle_communications_if_due(boolean)'::text loop
            execute format('revoke all on function %s from %s', v_function, v_role);
        end loop;
        continue when v_role = 'public';
        execute format('grant execute on function settle_communications_if_due(boolean) to %s', v_role);
        continue when v_role = 'anon';
        execute format('grant select on table telemetry_unsettled to %s', v_role);
    end loop;
    execute format(
        'create policy elf_read on telemetry_unsettled for select to %s using (true)',
        case when 'authenticated' = any(v_clients) then 'authenticated' else 'public' end
    );
    comment on policy elf_read on telemetry_unsettled is 'Who is granted the table reads all of it.';
    if 'service_role' = any(v_clients) then
        create policy elf_service on telemetry_unsettled to service_role using (true) with check (true);
        comment on policy elf_service on telemetry_unsettled is 'The server side does what its grants allow.';
    end if;
end;
$$;
