-- What the registry misses.
create function check_registration_gaps() returns table (gap_type text, entity_identifier text, details jsonb)
language plpgsql
stable
set search_path = public, pg_temp
as $$
declare
    v_listed record;
begin
    return query
    with ends as (
        select call.source_id as entity_id, registry_entity_type(call.source_type) as entity_type, call.protocol, call.timestamp
        from communication_telemetry as call
        where call.counted and call.timestamp > now() - telemetry_setting('registration_gap_days') * interval '1 day'
        union all
        select call.target_id, registry_entity_type(call.target_type), call.protocol, call.timestamp
        from communication_telemetry as call
        where call.counted and call.timestamp > now() - telemetry_setting('registration_gap_days') * interval '1 day'
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
            'calls', count(*), 'last_seen', max(ends.timestamp)
        )
    from ends
    where ends.entity_type in ('team', 'mcp_server', 'n8n_workflow', 'service')
        and not exists (
            select from unified_registry as known
            where known.entity_id = ends.entity_id and known.entity_type = ends.entity_type
        )
    group by ends.entity_type, ends.entity_id
    order by 1, 2;

    -- Tables of the factories, where there are any; their columns differ between installations.
    for v_listed in
        select listed.table_name, listed.gap_type, listed.entity_type
        from (values ('teams', 'missing_team', 'team'), ('mcps', 'missing_mcp', 'mcp_server'))
            as listed (table_name, gap_type, entity_type)
        where to_regclass(format('public.%I', listed.table_name)) is not null
    loop
        return query execute format(
            $query$
            select %L, coalesce(listed.fields ->> 'name', listed.fields ->> 'id'), jsonb_build_object('seen_in', %L)
            from (select to_jsonb(entry) as fields from public.%I as entry) as listed
            where not exists (
                select from unified_registry as known
                where known.entity_type = %L
                    and (known.entity_id in (listed.fields ->> 'id', listed.fields ->> 'name')
                        or known.entity_name = listed.fields ->> 'name')
            )
            order by 2
            $query$,
            v_listed.gap_type, v_listed.table_name, v_listed.table_name, v_listed.entity_type
        );
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
    where entity.current_state not in ('inactive', 'archived', 'deleted')
        and heard.at < now() - telemetry_setting('stale_registration_hours') * interval '1 hour'
    order by 2;

    return query
    select
        'missing_health_check',
        entity.entity_id,
        jsonb_build_object('entity_type', entity.entity_type, 'last_health_check', entity.last_health_check)
    from unified_registry as entity
    where entity.current_state not in ('inactive', 'archived', 'deleted')
        and coalesce(entity.last_health_check, entity.registered_at)
        < now() - telemetry_setting('missing_health_check_hours') * interval '1 hour'
    order by 2;
end;
$$;

comment on function check_registration_gaps() is
'What the registry misses: callers and targets never registered, registrations nothing was heard of, health never checked.';
