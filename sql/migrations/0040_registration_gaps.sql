-- What the registry misses, also where the factories' tables are closed to who asks; stopped entities miss nothing.
create function factory_entries_as_owner(p_table text) returns setof jsonb
language plpgsql
stable
security definer
set search_path = public, pg_temp
as $$
begin
    if p_table not in ('teams', 'mcps') then
        raise exception 'only teams and mcps list what should be registered, not %', left(p_table, 100)
            using errcode = 'invalid_parameter_value';
    end if;
    return query execute format(
        'select jsonb_build_object(''id'', entry.fields -> ''id'', ''name'', entry.fields -> ''name'') '
        'from (select to_jsonb(entry) as fields from public.%I as entry) as entry',
        p_table
    );
end;
$$;

comment on function factory_entries_as_owner(text) is
'Id and name, and no more, of what the tables teams or mcps list, read with the right of the schema''s owner. For '
'service_role, which registers entities of any name anyway, and for nobody else.';

create or replace function check_registration_gaps() returns table (gap_type text, entity_identifier text, details jsonb)
language plpgsql
stable
set search_path = public, pg_temp
-- What is pending is something the planner cannot know: no plan is kept.
set plan_cache_mode = force_custom_plan
as $$
declare
    v_from constant date := ((now() - telemetry_setting('registration_gap_days') * interval '1 day') at time zone 'UTC')::date;
    v_table text;
    v_source text;
    v_read boolean;
begin
    return query
    with part as (
        select
            pair.protocol, pair.source_id, pair.source_type, pair.target_id, pair.target_type, rolled.calls, rolled.last_at
        from (
            select kept.pair_id, sum(kept.calls) as calls, max(kept.last_at) as last_at
            from telemetry_pair_days as kept
            where kept.day >= v_from
            group by kept.pair_id
        ) as rolled
        inner join telemetry_pairs as pair on rolled.pair_id = pair.pair_id
        union all
        select
            pending.protocol, pending.source_id, pending.source_type, pending.target_id, pending.target_type,
            pending.calls, case when pending.sign > 0 then pending.last_at end
        from telemetry_rollup_pending as pending
        where pending.minute >= v_from::timestamp at time zone 'UTC'
    ),

    ends as (
        select
            side.entity_id, registry_entity_type(side.type) as entity_type, part.protocol,
            sum(part.calls) as calls, max(part.last_at) as last_at
        from part
        cross join lateral (
            values (part.source_id, part.source_type), (part.target_id, part.target_type)
        ) as side (entity_id, type)
        group by side.entity_id, side.type, part.protocol
        having sum(part.calls) > 0
    )

    select
        case ends.entity_type
            when 'team' then 'missing_team'
            when 'mcp_server' then 'missing_mcp'
            when 'n8n_workflow' then 'missing_workflow'
            when 'service' then 'missing_service'
        end,
        ends.entity_id,
        jsonb_build_object(
            'seen_in', 'communication_telemetry', 'protocols', jsonb_agg(distinct ends.protocol),
            'calls', sum(ends.calls), 'last_seen', max(ends.last_at)
        )
    from ends
    where ends.entity_type in ('team', 'mcp_server', 'n8n_workflow', 'service')
        and not exists (
            select from unified_registry as known
            where known.entity_id = ends.entity_id and known.entity_type = ends.entity_type
        )
    group by ends.entity_type, ends.entity_id
    order by 1, 2;

    -- Tables of the factories, where there are any; their columns differ between installations. Read with the right of
    -- the caller and by the policies for it, else with the right of the owner by whom that is granted to.
    foreach v_table in array array['mcps', 'teams'] loop
        continue when to_regclass('public.' || v_table) is null;
        v_read := false;
        foreach v_source in array array[
            format('select to_jsonb(entry) from public.%I as entry', v_table),
            format('select entry from factory_entries_as_owner(%L) as entry', v_table)
        ]
        loop
            begin
                return query execute format(
                    $query$
                    select %L, coalesce(listed.fields ->> 'name', listed.fields ->> 'id'), jsonb_build_object('seen_in', %L)
                    from (%s) as listed (fields)
                    where not exists (
                        select from unified_registry as known
                        where known.entity_type = %L
                            and (known.entity_id in (listed.fields ->> 'id', listed.fields ->> 'name')
                                or known.entity_name = listed.fields ->> 'name')
                    )
                    order by 2
                    $query$,
                    case v_table when 'teams' then 'missing_team' else 'missing_mcp' end,
                    v_table,
                    v_source,
                    case v_table when 'teams' then 'team' else 'mcp_server' end
                );
                v_read := true;
                exit;
            exception when insufficient_privilege then
                null;
            end;
        end loop;
        if not v_read then
            return query select
                'unreadable_table',
                v_table,
                jsonb_build_object(
                    'reason', format('%s may not read it', current_user),
                    'mend', format('ask as service_role, or grant select on %I', v_table)
                );
        end if;
    end loop;

    return query
    select
        'stale_registration',
        entity.entity_id,
        jsonb_build_object(
            'entity_type', entity.entity_type, 'last_heard', heard.at,
            'hours', round((extract(epoch from now() - heard.at) / 3600)::numeric, 1)
        )
    from unified_registry as entity
    cross join lateral (
        select greatest(entity.last_activity, entity.last_health_check, entity.last_updated) as at
    ) as heard
    where entity.current_state not in ('inactive', 'stopped', 'archived', 'deleted')
        and heard.at < now() - telemetry_setting('stale_registration_hours') * interval '1 hour'
    order by 2;

    return query
    select
        'missing_health_check',
        entity.entity_id,
        jsonb_build_object('entity_type', entity.entity_type, 'last_health_check', entity.last_health_check)
    from unified_registry as entity
    where entity.current_state not in ('inactive', 'stopped', 'archived', 'deleted')
        and coalesce(entity.last_health_check, entity.registered_at)
        < now() - telemetry_setting('missing_health_check_hours') * interval '1 hour'
    order by 2;
end;
$$;

comment on function check_registration_gaps() is
'What the registry misses: callers and targets never registered (from the whole UTC day registration_gap_days ago), entries '
'of the tables teams and mcps never registered (unreadable_table where the caller may not read them), registrations nothing '
'was heard of, health never checked.';

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
        execute format('revoke all on function factory_entries_as_owner(text) from %s', v_role);
    end loop;
    if to_regrole('service_role') is not null then
        execute 'grant execute on function factory_entries_as_owner(text) to service_role';
    end if;
end;
$$;
