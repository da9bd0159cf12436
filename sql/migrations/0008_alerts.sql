-- What needs a person: the alerts, and what the registry misses. Thresholds are rows of telemetry_settings.
create function active_alerts() returns table (
    alert text,
    severity text,
    protocol text,
    entity_id text,
    entity_type text,
    value double precision,
    threshold double precision,
    since timestamptz,
    message text
)
language sql
stable
set search_path = public, pg_temp
as $$
    with recent as (
        select
            call.protocol,
            100.0 * count(*) filter (where call.status in ('error', 'timeout')) / count(*) as error_rate,
            min(call.timestamp) filter (where call.status in ('error', 'timeout')) as first_error,
            avg(call.duration_ms) as avg_duration_ms,
            min(call.timestamp) as first_call
        from communication_telemetry as call
        where call.counted
            and call.timestamp > now() - telemetry_setting('alert_window_minutes') * interval '1 minute'
        group by call.protocol
    ),

    entities as (
        select
            entity.*,
            coalesce(entity.last_activity, entity.registered_at) as last_heard
        from unified_registry as entity
        where entity.current_state not in ('inactive', 'archived', 'deleted')
    )

    select
        'error_rate',
        'critical',
        recent.protocol,
        null::text,
        null::text,
        recent.error_rate::double precision,
        telemetry_setting('alert_error_rate_percent'),
        recent.first_error,
        format(
            '%s: %s %% of calls failed in the last %s minutes (threshold %s %%)', recent.protocol,
            round(recent.error_rate, 1), telemetry_setting('alert_window_minutes'),
            telemetry_setting('alert_error_rate_percent')
        )
    from recent
    where recent.error_rate > telemetry_setting('alert_error_rate_percent')
    union all
    select
        'latency',
        'warning',
        recent.protocol,
        null,
        null,
        recent.avg_duration_ms,
        telemetry_setting('alert_latency_ms'),
        recent.first_call,
        format(
            '%s: calls took %s ms on average in the last %s minutes (threshold %s ms)', recent.protocol,
            round(recent.avg_duration_ms::numeric), telemetry_setting('alert_window_minutes'),
            telemetry_setting('alert_latency_ms')
        )
    from recent
    where recent.avg_duration_ms > telemetry_setting('alert_latency_ms')
    union all
    select
        'inactive',
        'warning',
        null,
        entities.entity_id,
        entities.entity_type,
        extract(epoch from now() - entities.last_heard)::double precision / 60,
        telemetry_setting('alert_inactive_minutes'),
        entities.last_heard,
        format(
            '%s %s: no activity for %s minutes (threshold %s minutes)', entities.entity_type, entities.entity_id,
            floor(extract(epoch from now() - entities.last_heard) / 60), telemetry_setting('alert_inactive_minutes')
        )
    from entities
    where entities.last_heard < now() - telemetry_setting('alert_inactive_minutes') * interval '1 minute'
    union all
    select
        'unhealthy',
        'critical',
        null,
        entities.entity_id,
        entities.entity_type,
        extract(epoch from now() - entities.health_since)::double precision / 60,
        telemetry_setting('alert_unhealthy_minutes'),
        entities.health_since,
        format(
            '%s %s: unhealthy for %s minutes (threshold %s minutes)', entities.entity_type, entities.entity_id,
            floor(extract(epoch from now() - entities.health_since) / 60), telemetry_setting('alert_unhealthy_minutes')
        )
    from entities
    where entities.health_status = 'unhealthy'
        and entities.health_since < now() - telemetry_setting('alert_unhealthy_minutes') * interval '1 minute'
    order by 2, 1, 3, 5, 4
$$;

comment on function active_alerts() is
'What is wrong now: error_rate and latency of a protocol, inactive and unhealthy entities. value and threshold are in '
'percent, milliseconds, minutes and minutes; since is when the condition began.';

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
