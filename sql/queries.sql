-- Queries of the command line and the page. A block begins with its name; %(name)s is a parameter, a doubled %% a percent.

-- name: communication_matrix
-- Who called whom since an interval ago (the guide's communication matrix over counted rows).
select
    source_id,
    target_id,
    protocol,
    count(*) as calls,
    avg(duration_ms) as avg_ms,
    count(*) filter (where status = 'error') as errors
from communication_telemetry
where counted and timestamp > now() - %(since)s::interval
group by source_id, target_id, protocol
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
-- Key metric 1: calls per minute by protocol, since an interval ago.
select
    date_trunc('minute', timestamp) as minute,
    protocol,
    count(*) as calls
from communication_telemetry
where counted and timestamp > now() - %(since)s::interval
group by minute, protocol
order by minute, protocol;

-- name: error_rates
-- Key metric 2: share of failed calls by protocol in percent, since an interval ago.
select
    protocol,
    count(*) as calls,
    count(*) filter (where status in ('error', 'timeout')) as errors,
    (100.0 * count(*) filter (where status in ('error', 'timeout')) / count(*))::double precision as error_rate
from communication_telemetry
where counted and timestamp > now() - %(since)s::interval
group by protocol
order by protocol;

-- name: latency
-- Key metric 3: nearest-rank percentiles by protocol in ms, since an interval ago.
select
    protocol,
    percentile_disc(0.50) within group (order by duration_ms) as p50_ms,
    percentile_disc(0.95) within group (order by duration_ms) as p95_ms,
    percentile_disc(0.99) within group (order by duration_ms) as p99_ms
from communication_telemetry
where counted and timestamp > now() - %(since)s::interval
group by protocol
order by protocol;

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
with span as materialized (
    select
        %(since)s::interval <= interval '2 days' as is_short,
        case
            when %(since)s::interval <= interval '2 days' then date_trunc('hour', now() - %(since)s::interval, 'UTC')
            else date_trunc('day', now() - %(since)s::interval, 'UTC')
        end as since
),

part as (
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
            pair_id,
            calls,
            errors,
            timed,
            duration_ns,
            tokens,
            cost
        from telemetry_pair_hours
        where (select span.is_short from span) and hour >= (select span.since from span)
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
        where not (select span.is_short from span) and day >= (select (span.since at time zone 'UTC')::date from span)
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
    where minute >= (select span.since from span)
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
