-- Queries of the command line and the page. A block begins with its name; %(name)s is a parameter, a doubled %% a percent.

-- name: communication_matrix
-- Who called whom since an interval ago (the guide's communication matrix over counted rows), from rollups: from the whole
-- minute it began in, beyond 2 hours the whole hour, beyond 2 days the whole UTC day. Errors are error or timeout.
with part as (
    select
        pair.source_id,
        pair.target_id,
        pair.protocol,
        rolled.calls,
        rolled.errors,
        rolled.timed,
        rolled.duration_ns
    from (
        select
            kept.pair_id,
            sum(kept.calls) as calls,
            sum(kept.errors) as errors,
            sum(kept.timed) as timed,
            sum(kept.duration_ns) as duration_ns
        from (
            select
                pair_id,
                calls,
                errors,
                timed,
                duration_ns
            from telemetry_pair_minutes
            where
                %(since)s::interval <= interval '2 hours'
                and minute > now() - %(since)s::interval - interval '1 minute'
            union all
            select
                pair_id,
                calls,
                errors,
                timed,
                duration_ns
            from telemetry_pair_hours
            where
                %(since)s::interval > interval '2 hours' and %(since)s::interval <= interval '2 days'
                and hour > now() - %(since)s::interval - interval '1 hour'
            union all
            select
                pair_id,
                calls,
                errors,
                timed,
                duration_ns
            from telemetry_pair_days
            where
                %(since)s::interval > interval '2 days'
                and day >= ((now() - %(since)s::interval) at time zone 'UTC')::date
        ) as kept
        group by kept.pair_id
    ) as rolled
    inner join telemetry_pairs as pair on rolled.pair_id = pair.pair_id
    union all
    select
        source_id,
        target_id,
        protocol,
        calls,
        errors,
        timed,
        duration_ns
    from telemetry_rollup_pending
    where
        minute >= (
            select
                date_trunc(
                    case
                        when %(since)s::interval <= interval '2 hours' then 'minute'
                        when %(since)s::interval <= interval '2 days' then 'hour'
                        else 'day'
                    end,
                    now() - %(since)s::interval,
                    'UTC'
                )
        )
)

select
    source_id,
    target_id,
    protocol,
    sum(calls)::bigint as calls,
    (sum(duration_ns) / nullif(sum(timed), 0) / 1000000)::double precision as avg_ms,
    sum(errors)::bigint as errors
from part
group by source_id, target_id, protocol
having sum(calls) > 0
order by calls desc, source_id asc, target_id asc, protocol asc;

-- name: entity_health
-- The guide's entity health dashboard.
select
    entity_type,
    entity_name,
    current_state,
    health_status,
    last_activity,
    extract(epoch from (now() - last_activity))::double precision as seconds_since_activity
from unified_registry
where current_state <> 'deleted'
order by health_status asc, last_activity desc nulls last, entity_type asc, entity_name asc;

-- name: recent_communications
-- The last counted calls, newest first.
select
    timestamp,
    protocol,
    source_id,
    source_type,
    target_id,
    target_type,
    operation,
    tool_name,
    workflow_name,
    workflow_node,
    status,
    duration_ms,
    error_message,
    correlation_id,
    trace_id
from communication_telemetry
where counted
order by timestamp desc, id desc
limit %(limit)s;

-- name: registry_overview
-- Every entity that is not deleted.
select
    entity_type,
    entity_id,
    entity_name,
    current_state,
    health_status,
    registered_by,
    parent_entity_id,
    capabilities,
    endpoint_url,
    activity_count,
    error_count,
    last_activity
from unified_registry
where current_state <> 'deleted'
order by entity_type, entity_id;

-- name: system_health
-- The last five minutes by protocol.
select *
from system_health_overview
order by protocol;

-- name: entity_state
-- How many entities are in which state and health.
select *
from system_entity_state
order by entity_type, current_state, health_status;

-- name: counts_by_protocol_and_status
-- Counted calls of all time.
select
    protocol,
    status,
    count(*) as n
from communication_telemetry
where counted
group by protocol, status
order by protocol, status;

-- name: entity_count
-- Entities that are not deleted.
select count(*) as n
from unified_registry
where current_state <> 'deleted';

-- name: active_alerts
-- What is wrong now.
select *
from active_alerts();

-- name: registration_gaps
-- What the registry misses.
select *
from check_registration_gaps();

-- name: request_volume
-- Key metric 1: calls per minute by protocol, from the whole minute an interval ago began in.
select
    part.minute,
    part.protocol,
    sum(part.calls)::bigint as calls
from (
    select
        minute,
        protocol,
        calls
    from telemetry_minutes
    where minute > now() - %(since)s::interval - interval '1 minute'
    union all
    select
        minute,
        protocol,
        calls
    from telemetry_rollup_pending
    where minute > now() - %(since)s::interval - interval '1 minute'
) as part
group by part.minute, part.protocol
having sum(part.calls) > 0
order by part.minute, part.protocol;

-- name: error_rates
-- Key metric 2: share of failed calls by protocol in percent, from the whole minute an interval ago began in.
select
    part.protocol,
    sum(part.calls)::bigint as calls,
    sum(part.errors)::bigint as errors,
    (100.0 * sum(part.errors) / sum(part.calls))::double precision as error_rate
from (
    select
        protocol,
        calls,
        errors
    from telemetry_minutes
    where minute > now() - %(since)s::interval - interval '1 minute'
    union all
    select
        protocol,
        calls,
        errors
    from telemetry_rollup_pending
    where minute > now() - %(since)s::interval - interval '1 minute'
) as part
group by part.protocol
having sum(part.calls) > 0
order by part.protocol;

-- name: latency
-- Key metric 3: percentiles by protocol in ms, from the whole minute an interval ago began in; within 9 %% of the nearest
-- rank, null where no duration is known.
with histogram as (
    select
        part.protocol,
        part.bucket,
        sum(part.calls) as calls,
        min(part.shortest_ms) as shortest_ms,
        max(part.longest_ms) as longest_ms
    from (
        select
            protocol,
            bucket,
            calls,
            shortest_ms,
            longest_ms
        from telemetry_minute_latency
        where minute > now() - %(since)s::interval - interval '1 minute'
        union all
        -- The bucket as in telemetry_minute_latency.
        select
            pending.protocol,
            floor(4 / ln(2.0::double precision) * ln(greatest(single.ms, 1e-6)))::smallint as bucket,
            pending.sign as calls,
            single.ms as shortest_ms,
            single.ms as longest_ms
        from telemetry_rollup_pending as pending
        cross join lateral unnest(pending.durations_ms) as single (ms)
        where pending.minute > now() - %(since)s::interval - interval '1 minute'
        union all
        -- Calls without a duration: the protocol appears, without percentiles.
        select
            protocol,
            null as bucket,
            calls - timed as calls,
            null as shortest_ms,
            null as longest_ms
        from telemetry_minutes
        where minute > now() - %(since)s::interval - interval '1 minute'
        union all
        select
            protocol,
            null as bucket,
            calls - timed as calls,
            null as shortest_ms,
            null as longest_ms
        from telemetry_rollup_pending
        where minute > now() - %(since)s::interval - interval '1 minute'
    ) as part
    group by part.protocol, part.bucket
    having sum(part.calls) > 0
),

ranked as (
    select
        histogram.protocol,
        -- Of all values between two, the harmonic mean is never wrong by more than their distance allows.
        case
            when histogram.shortest_ms = histogram.longest_ms then histogram.shortest_ms
            else histogram.shortest_ms * (2 / (1 + histogram.shortest_ms / histogram.longest_ms))
        end as ms,
        sum(histogram.calls) filter (where histogram.bucket is not null)
            over (partition by histogram.protocol order by histogram.bucket) as upto,
        sum(histogram.calls) filter (where histogram.bucket is not null)
            over (partition by histogram.protocol) as total
    from histogram
)

select
    ranked.protocol,
    min(ranked.ms) filter (where ranked.upto >= ceil(0.50 * ranked.total)) as p50_ms,
    min(ranked.ms) filter (where ranked.upto >= ceil(0.95 * ranked.total)) as p95_ms,
    min(ranked.ms) filter (where ranked.upto >= ceil(0.99 * ranked.total)) as p99_ms
from ranked
group by ranked.protocol
order by ranked.protocol;

-- name: entity_health_share
-- Key metric 4: share of healthy entities in percent, null while there are none.
select
    count(*) as entities,
    count(*) filter (where health_status = 'healthy') as healthy,
    (100.0 * count(*) filter (where health_status = 'healthy') / nullif(count(*), 0))::double precision as healthy_percent
from unified_registry
where current_state <> 'deleted';

-- name: top_pairs
-- The busiest pairs with what they cost, from the whole hour an interval ago began in, or the whole UTC day when it is
-- longer than two days.
with part as (
    select
        pair.source_id,
        pair.target_id,
        pair.protocol,
        rolled.calls,
        rolled.errors,
        rolled.timed,
        rolled.duration_ns,
        rolled.tokens,
        rolled.cost
    from (
        select
            kept.pair_id,
            sum(kept.calls) as calls,
            sum(kept.errors) as errors,
            sum(kept.timed) as timed,
            sum(kept.duration_ns) as duration_ns,
            sum(kept.tokens) as tokens,
            sum(kept.cost) as cost
        from (
            select
                pair_id,
                calls,
                errors,
                timed,
                duration_ns,
                tokens,
                cost
            from telemetry_pair_hours
            where
                %(since)s::interval <= interval '2 days'
                and hour > now() - %(since)s::interval - interval '1 hour'
            union all
            select
                pair_id,
                calls,
                errors,
                timed,
                duration_ns,
                tokens,
                cost
            from telemetry_pair_days
            where
                %(since)s::interval > interval '2 days'
                and day >= ((now() - %(since)s::interval) at time zone 'UTC')::date
        ) as kept
        group by kept.pair_id
    ) as rolled
    inner join telemetry_pairs as pair on rolled.pair_id = pair.pair_id
    union all
    select
        source_id,
        target_id,
        protocol,
        calls,
        errors,
        timed,
        duration_ns,
        tokens,
        cost
    from telemetry_rollup_pending
    where
        minute >= (
            select
                date_trunc(
                    case when %(since)s::interval <= interval '2 days' then 'hour' else 'day' end,
                    now() - %(since)s::interval,
                    'UTC'
                )
        )
)

select
    source_id,
    target_id,
    protocol,
    sum(calls)::bigint as calls,
    sum(errors)::bigint as errors,
    (sum(duration_ns) / nullif(sum(timed), 0) / 1000000)::double precision as avg_ms,
    least(sum(tokens), 9223372036854775807)::bigint as tokens,
    sum(cost) as cost
from part
group by source_id, target_id, protocol
having sum(calls) > 0
order by calls desc, source_id asc, target_id asc, protocol asc
limit %(limit)s;

-- name: firing_alerts
-- Alerts that evaluate_alerts() has fired and not resolved, in the order they fired.
select
    fired_number as number,
    'fired' as change,
    fired_at as at,
    *
from alert_history
where fired_at is not null and resolved_at is null
order by fired_number;

-- name: alert_changes
-- Alerts that fired or resolved after a change that was seen last.
select
    fired_number as number,
    'fired' as change,
    fired_at as at,
    *
from alert_history
where fired_number > %(after)s
union all
select
    resolved_number as number,
    'resolved' as change,
    resolved_at as at,
    *
from alert_history
where resolved_number > %(after)s
order by number;

-- name: last_alert_change
-- The number of the last alert that fired or resolved, 0 before the first.
select coalesce(max(greatest(fired_number, resolved_number)), 0) as number
from alert_history;

-- name: evaluate_alerts
-- Fires and resolves; what changed is read with alert_changes.
select count(*) as changes
from evaluate_alerts();

-- name: maintain
-- All upkeep; what it did.
select maintain_telemetry() as done;
