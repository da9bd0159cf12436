-- alert_measurements() reads of the rollups what lies in the window of a rule: a lateral join goes by the index, once for each
-- rule, where the join of all minutes with all rules read a month of them. The whole minutes of a window are those later than
-- a minute before it.
create or replace function alert_measurements() returns table (
    rule text,
    alert text,
    severity text,
    protocol text,
    entity_type text,
    entity_id text,
    value double precision,
    threshold double precision,
    resolve_threshold double precision,
    for_duration interval,
    since timestamptz,
    message text
)
language sql
stable
set search_path = public, pg_temp
as $$
    with protocol_rules as (
        select distinct on (rule.alert, known.protocol)
            rule.name, rule.alert, known.protocol, rule.window_length, rule.enabled
        from alert_rules as rule
        cross join (values ('mcp'), ('a2a'), ('n8n')) as known (protocol)
        where rule.alert in ('error_rate', 'latency') and rule.entity_type is null
            and coalesce(rule.protocol = known.protocol, true)
        order by rule.alert, known.protocol, rule.protocol nulls last
    ),

    protocol_calls as (
        select
            rule.name, rule.alert, rule.protocol,
            100.0 * sum(part.errors) / nullif(sum(part.calls), 0) as error_rate,
            sum(part.duration_ns) / nullif(sum(part.timed), 0) / 1000000 as avg_duration_ms
        from protocol_rules as rule
        cross join lateral (
            select kept.calls, kept.errors, kept.timed, kept.duration_ns
            from telemetry_minutes as kept
            where kept.minute > now() - rule.window_length - interval '1 minute' and kept.protocol = rule.protocol
            union all
            select pending.calls, pending.errors, pending.timed, pending.duration_ns
            from telemetry_rollup_pending as pending
            where pending.minute > now() - rule.window_length - interval '1 minute'
                and pending.protocol = rule.protocol
        ) as part
        where rule.enabled
        group by rule.name, rule.alert, rule.protocol
    ),

    entity_calls as (
        select
            rule.name, rule.alert, rule.protocol, rule.entity_type, part.entity_id,
            part.error_rate, part.avg_duration_ms, part.first_error, part.first_call
        from alert_rules as rule
        cross join lateral (
            select
                ends.entity_id,
                100.0 * count(*) filter (where call.status in ('error', 'timeout')) / count(*) as error_rate,
                avg(call.duration_ms) as avg_duration_ms,
                min(call.timestamp) filter (where call.status in ('error', 'timeout')) as first_error,
                min(call.timestamp) as first_call
            from communication_telemetry as call
            cross join lateral (
                select call.source_id, registry_entity_type(call.source_type)
                union
                select call.target_id, registry_entity_type(call.target_type)
            ) as ends (entity_id, entity_type)
            where call.counted and call.timestamp > now() - rule.window_length
                and coalesce(call.protocol = rule.protocol, true)
                and ends.entity_type = rule.entity_type and coalesce(ends.entity_id = rule.entity_id, true)
            group by ends.entity_id
        ) as part
        where rule.alert in ('error_rate', 'latency') and rule.entity_type is not null and rule.enabled
            and not (rule.entity_id is null and exists (
                select from alert_rules as closer
                where closer.alert = rule.alert and closer.protocol is not distinct from rule.protocol
                    and closer.entity_type = rule.entity_type and closer.entity_id = part.entity_id
            ))
    ),

    entities as (
        select
            entity.entity_id, entity.entity_type, condition.alert, condition.since,
            extract(epoch from now() - condition.since)::double precision / 60 as minutes
        from unified_registry as entity
        cross join lateral (
            select 'inactive', coalesce(entity.last_activity, entity.registered_at)
            union all
            select 'unhealthy', entity.health_since where entity.health_status = 'unhealthy'
        ) as condition (alert, since)
        where entity.current_state not in ('inactive', 'stopped', 'archived', 'deleted')
    ),

    measured as (
        select
            calls.name, calls.protocol, null::text as entity_type, null::text as entity_id,
            case calls.alert when 'error_rate' then calls.error_rate else calls.avg_duration_ms end as value,
            null::timestamptz as since, calls.protocol as subject
        from protocol_calls as calls
        union all
        select
            calls.name, calls.protocol, calls.entity_type, calls.entity_id,
            case calls.alert when 'error_rate' then calls.error_rate else calls.avg_duration_ms end,
            case calls.alert when 'error_rate' then calls.first_error else calls.first_call end,
            concat_ws(' ', calls.entity_type, calls.entity_id, 'over ' || calls.protocol)
        from entity_calls as calls
        union all
        select
            rule.name, null, entities.entity_type, entities.entity_id, entities.minutes, entities.since,
            concat_ws(' ', entities.entity_type, entities.entity_id)
        from entities
        cross join lateral (
            select candidate.name, candidate.enabled
            from alert_rules as candidate
            where candidate.alert = entities.alert
                and coalesce(candidate.entity_type = entities.entity_type, true)
                and coalesce(candidate.entity_id = entities.entity_id, true)
            order by candidate.entity_id nulls last, candidate.entity_type nulls last
            limit 1
        ) as rule
        where rule.enabled
    )

    select
        rule.name,
        rule.alert,
        rule.severity,
        measured.protocol,
        measured.entity_type,
        measured.entity_id,
        measured.value,
        rule.threshold,
        rule.resolve_threshold,
        rule.for_duration,
        -- Looked up for the few values above a threshold only, and in an index: the first such call of the window.
        coalesce(
            measured.since,
            case rule.alert
                when 'error_rate' then (
                    select min(call.timestamp)
                    from communication_telemetry as call
                    where call.counted and call.status in ('error', 'timeout') and call.protocol = measured.protocol
                        and call.timestamp >= date_trunc('minute', now() - rule.window_length, 'UTC')
                )
                when 'latency' then (
                    select min(call.timestamp)
                    from communication_telemetry as call
                    where call.counted and call.protocol = measured.protocol
                        and call.timestamp >= date_trunc('minute', now() - rule.window_length, 'UTC')
                )
            end,
            now()
        ),
        case rule.alert
            when 'error_rate' then format(
                '%s: %s %% of calls failed in the last %s minutes (threshold %s %%)', measured.subject,
                round(measured.value::numeric, 1), extract(epoch from rule.window_length)::double precision / 60,
                rule.threshold
            )
            when 'latency' then format(
                '%s: calls took %s ms on average in the last %s minutes (threshold %s ms)', measured.subject,
                round(measured.value::numeric), extract(epoch from rule.window_length)::double precision / 60,
                rule.threshold
            )
            when 'inactive' then format(
                '%s: no activity for %s minutes (threshold %s minutes)', measured.subject,
                floor(measured.value), rule.threshold
            )
            else format(
                '%s: unhealthy for %s minutes (threshold %s minutes)', measured.subject,
                floor(measured.value), rule.threshold
            )
        end
    from measured
    inner join alert_rules as rule on measured.name = rule.name
    where measured.value > rule.resolve_threshold
$$;

comment on function alert_measurements() is
'Every value above the resolve_threshold of its rule now; evaluate_alerts() and active_alerts() decide what it means.';
