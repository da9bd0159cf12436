-- What counts as an alert, as rows that people edit, and what the rules measure now.
create table alert_rules (
    name text not null,
    alert text not null,
    protocol text,
    entity_type text,
    entity_id text,
    threshold double precision not null,
    resolve_threshold double precision not null,
    for_duration interval not null default interval '0',
    window_length interval not null default interval '5 minutes',
    severity text not null default 'warning',
    enabled boolean not null default true,
    updated_at timestamptz not null default now(),
    constraint alert_rules_pkey primary key (name),
    constraint alert_rules_scope_key unique nulls not distinct (alert, protocol, entity_type, entity_id),
    constraint alert_rules_name_usable check (name <> '' and length(name) <= 100),
    constraint alert_rules_alert_known check (alert in ('error_rate', 'latency', 'inactive', 'unhealthy')),
    constraint alert_rules_protocol_known check (protocol in ('mcp', 'a2a', 'n8n')),
    constraint alert_rules_type_known
    check (entity_type in ('team', 'mcp_server', 'mcp_client', 'n8n_workflow', 'service')),
    constraint alert_rules_severity_known check (severity in ('critical', 'warning', 'info')),
    constraint alert_rules_scope_usable check (
        (entity_id is null or entity_type is not null)
        and (protocol is null or alert in ('error_rate', 'latency'))
    ),
    constraint alert_rules_threshold_usable
    check (threshold >= 0 and threshold < 'infinity' and resolve_threshold between 0 and threshold),
    constraint alert_rules_time_usable check (
        for_duration between interval '0' and interval '7 days'
        and window_length between interval '1 minute' and interval '1 day'
    )
);

alter table alert_rules enable row level security;

comment on table alert_rules is
'What is an alert. For each protocol and entity the most specific rule of an alert counts: one that names the entity '
'before one that names its type, one that names the protocol before one that does not.';
comment on column alert_rules.name is 'Name of the rule, for people.';
comment on column alert_rules.alert is
'error_rate (percent of calls), latency (average, milliseconds), inactive (minutes without activity) or unhealthy (minutes).';
comment on column alert_rules.protocol is 'error_rate and latency: only calls of this protocol; null for each protocol.';
comment on column alert_rules.entity_type is
'Only entities of this type; null for all. error_rate and latency are then those of the calls an entity takes part in.';
comment on column alert_rules.entity_id is 'Only this entity of that type; null for all.';
comment on column alert_rules.threshold is 'A value above this is an alert; in percent, milliseconds or minutes.';
comment on column alert_rules.resolve_threshold is
'An alert that fires ends at this value, not above the threshold; the distance keeps it from flapping.';
comment on column alert_rules.for_duration is
'How long the value must stay above the threshold first. Above 0 it takes evaluate_alerts(), which remembers since when.';
comment on column alert_rules.window_length is
'error_rate and latency look back this far; those of a protocol from the whole minute in which it began.';
comment on column alert_rules.severity is 'critical, warning or info.';
comment on column alert_rules.enabled is 'False: no such alert for what this rule is the most specific rule of.';
comment on column alert_rules.updated_at is 'When the row was made; an operator may set it on a change.';
comment on index alert_rules_pkey is 'One rule for each name.';
comment on index alert_rules_scope_key is 'One rule for each alert and scope, so that there is one most specific.';

-- The thresholds people set so far move here; a threshold lives in one place.
insert into alert_rules (name, alert, threshold, resolve_threshold, window_length, severity)
select
    seed.name,
    seed.alert,
    coalesce(threshold.value, seed.threshold) as threshold,
    coalesce(threshold.value, seed.threshold) * seed.resolve_share as resolve_threshold,
    case
        when lookback.value is null then interval '5 minutes'
        else least(greatest(lookback.value, 1), 1440) * interval '1 minute'
    end as window_length,
    seed.severity
from (
    values
    ('Error rate of a protocol', 'error_rate', 'alert_error_rate_percent', 5, 0.8, 'critical'),
    ('Average latency of a protocol', 'latency', 'alert_latency_ms', 1000, 0.8, 'warning'),
    ('No activity of an entity', 'inactive', 'alert_inactive_minutes', 60, 1, 'warning'),
    ('Unhealthy entity', 'unhealthy', 'alert_unhealthy_minutes', 10, 1, 'critical')
) as seed (name, alert, setting, threshold, resolve_share, severity)
left join telemetry_settings as threshold on seed.setting = threshold.name
left join telemetry_settings as lookback on lookback.name = 'alert_window_minutes';

delete from telemetry_settings
where name in (
    'alert_window_minutes', 'alert_error_rate_percent', 'alert_latency_ms', 'alert_inactive_minutes',
    'alert_unhealthy_minutes'
);

insert into telemetry_settings (name, value, unit, description) values
('alert_history_days', 365, 'days', 'maintain_telemetry() forgets alerts resolved longer ago');

create function alert_measurements() returns table (
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
        inner join (
            select minute, protocol, calls, errors, timed, duration_ns from telemetry_minutes
            union all
            select minute, protocol, calls, errors, timed, duration_ns from telemetry_rollup_pending
        ) as part
            on rule.protocol = part.protocol and part.minute >= date_trunc('minute', now() - rule.window_length, 'UTC')
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
