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
