-- What needs a person now. Thresholds are rows of telemetry_settings.
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
