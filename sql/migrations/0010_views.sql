-- What dashboards read. Only counted rows; an error is an error or a timeout; rates in percent; percentiles nearest rank.
create view system_health_overview with (security_invoker = true) as
select
    call.protocol,
    count(distinct call.source_id) as active_sources,
    count(distinct call.target_id) as active_targets,
    count(*) as total_requests_5min,
    avg(call.duration_ms) as avg_duration_ms,
    count(*) filter (where call.status in ('error', 'timeout')) as errors_5min,
    (100.0 * count(*) filter (where call.status in ('error', 'timeout')) / count(*))::double precision as error_rate,
    percentile_disc(0.50) within group (order by call.duration_ms) as p50,
    percentile_disc(0.95) within group (order by call.duration_ms) as p95,
    percentile_disc(0.99) within group (order by call.duration_ms) as p99
from communication_telemetry as call
where call.counted and call.timestamp > now() - interval '5 minutes'
group by call.protocol;

create view communication_patterns with (security_invoker = true) as
select
    call.source_id,
    call.source_type,
    call.target_id,
    call.target_type,
    call.protocol,
    count(*) as total_calls,
    avg(call.duration_ms) as avg_duration_ms,
    min(call.duration_ms) as min_duration_ms,
    max(call.duration_ms) as max_duration_ms,
    count(*) filter (where call.status in ('error', 'timeout')) as error_count,
    count(distinct date_trunc('day', call.timestamp, 'UTC')) as active_days,
    max(call.timestamp) as last_communication
from communication_telemetry as call
where call.counted and call.timestamp > now() - interval '7 days'
group by call.source_id, call.source_type, call.target_id, call.target_type, call.protocol;

create view top_communication_pairs with (security_invoker = true) as
select
    call.source_id as source,
    call.target_id as target,
    call.protocol,
    count(*) as call_count,
    avg(call.duration_ms) as avg_duration_ms,
    coalesce(sum(call.tokens_used), 0)::bigint as total_tokens,
    coalesce(sum(call.estimated_cost), 0) as total_cost
from communication_telemetry as call
where call.counted and call.timestamp > now() - interval '24 hours'
group by call.source_id, call.target_id, call.protocol
order by call_count desc, source asc, target asc, call.protocol asc
limit 20;

create view communication_metrics_realtime with (security_invoker = true) as
select
    date_trunc('minute', call.timestamp) as minute,
    call.protocol,
    call.source_id,
    call.source_type,
    call.target_id,
    call.target_type,
    count(*) as request_count,
    avg(call.duration_ms) as avg_duration_ms,
    percentile_disc(0.95) within group (order by call.duration_ms) as p95_duration_ms,
    count(*) filter (where call.status in ('error', 'timeout')) as error_count,
    (100.0 * count(*) filter (where call.status in ('error', 'timeout')) / count(*))::double precision as error_rate
from communication_telemetry as call
where call.counted and call.timestamp > now() - interval '1 hour'
group by
    date_trunc('minute', call.timestamp), call.protocol, call.source_id, call.source_type, call.target_id, call.target_type;

create view system_entity_state with (security_invoker = true) as
select
    entity.entity_type,
    entity.current_state,
    entity.health_status,
    count(*) as count,
    count(*) filter (where entity.last_activity > now() - interval '5 minutes') as active_last_5min,
    count(*) filter (where entity.health_status = 'healthy') as healthy_count,
    count(*) filter (where entity.health_status = 'unhealthy') as unhealthy_count
from unified_registry as entity
group by entity.entity_type, entity.current_state, entity.health_status;

-- Walks from each entity up to its root, so that every entity appears once, also one whose parent is missing or
-- that is its own ancestor. A parent is named by id alone: a team is preferred to another type of the same id.
create view entity_hierarchy with (security_invoker = true) as
with recursive named as (
    select distinct on (entity.entity_id)
        entity.entity_id,
        entity.parent_entity_id
    from unified_registry as entity
    order by entity.entity_id asc, (entity.entity_type = 'team') desc, entity.entity_type asc
),

walk as (
    select
        entity.id,
        entity.parent_entity_id as next_entity_id,
        array[entity.entity_id] as path
    from unified_registry as entity
    union all
    select
        walk.id,
        named.parent_entity_id as next_entity_id,
        named.entity_id || walk.path as path
    from walk
    inner join named on walk.next_entity_id = named.entity_id
    where named.entity_id <> all(walk.path)
),

longest as (
    select distinct on (walk.id)
        walk.id,
        walk.path
    from walk
    order by walk.id asc, cardinality(walk.path) desc
)

select
    entity.entity_id,
    entity.entity_name,
    entity.entity_type,
    entity.parent_entity_id,
    entity.department,
    entity.current_state,
    entity.health_status,
    cardinality(longest.path) - 1 as level,
    longest.path
from unified_registry as entity
inner join longest on entity.id = longest.id
order by longest.path, entity.entity_type;

comment on view system_health_overview is 'The last 5 minutes by protocol.';
comment on column system_health_overview.protocol is 'mcp, a2a or n8n.';
comment on column system_health_overview.active_sources is 'Different callers.';
comment on column system_health_overview.active_targets is 'Different targets.';
comment on column system_health_overview.total_requests_5min is 'Calls.';
comment on column system_health_overview.avg_duration_ms is 'Average duration in milliseconds.';
comment on column system_health_overview.errors_5min is 'Calls that ended in error or timeout.';
comment on column system_health_overview.error_rate is 'Their share in percent.';
comment on column system_health_overview.p50 is 'Median duration in milliseconds, nearest rank.';
comment on column system_health_overview.p95 is '95th percentile in milliseconds, nearest rank.';
comment on column system_health_overview.p99 is '99th percentile in milliseconds, nearest rank.';

comment on view communication_patterns is 'Who called whom in the last 7 days.';
comment on column communication_patterns.source_id is 'Caller.';
comment on column communication_patterns.source_type is 'Type of the caller.';
comment on column communication_patterns.target_id is 'Target.';
comment on column communication_patterns.target_type is 'Type of the target.';
comment on column communication_patterns.protocol is 'mcp, a2a or n8n.';
comment on column communication_patterns.total_calls is 'Calls.';
comment on column communication_patterns.avg_duration_ms is 'Average duration in milliseconds.';
comment on column communication_patterns.min_duration_ms is 'Shortest duration in milliseconds.';
comment on column communication_patterns.max_duration_ms is 'Longest duration in milliseconds.';
comment on column communication_patterns.error_count is 'Calls that ended in error or timeout.';
comment on column communication_patterns.active_days is 'UTC days with at least one call.';
comment on column communication_patterns.last_communication is 'Begin of the last call.';

comment on view top_communication_pairs is 'The 20 busiest pairs of the last 24 hours.';
comment on column top_communication_pairs.source is 'Caller.';
comment on column top_communication_pairs.target is 'Target.';
comment on column top_communication_pairs.protocol is 'mcp, a2a or n8n.';
comment on column top_communication_pairs.call_count is 'Calls.';
comment on column top_communication_pairs.avg_duration_ms is 'Average duration in milliseconds.';
comment on column top_communication_pairs.total_tokens is 'Model tokens used.';
comment on column top_communication_pairs.total_cost is 'Estimated cost in US dollars.';

comment on view communication_metrics_realtime is 'The last hour by minute and pair.';
comment on column communication_metrics_realtime.minute is 'Minute the calls began in.';
comment on column communication_metrics_realtime.protocol is 'mcp, a2a or n8n.';
comment on column communication_metrics_realtime.source_id is 'Caller.';
comment on column communication_metrics_realtime.source_type is 'Type of the caller.';
comment on column communication_metrics_realtime.target_id is 'Target.';
comment on column communication_metrics_realtime.target_type is 'Type of the target.';
comment on column communication_metrics_realtime.request_count is 'Calls.';
comment on column communication_metrics_realtime.avg_duration_ms is 'Average duration in milliseconds.';
comment on column communication_metrics_realtime.p95_duration_ms is '95th percentile in milliseconds, nearest rank.';
comment on column communication_metrics_realtime.error_count is 'Calls that ended in error or timeout.';
comment on column communication_metrics_realtime.error_rate is 'Their share in percent.';

comment on view system_entity_state is 'How many entities are in which state and health.';
comment on column system_entity_state.entity_type is 'Type of the entities.';
comment on column system_entity_state.current_state is 'Their state.';
comment on column system_entity_state.health_status is 'Their health.';
comment on column system_entity_state.count is 'How many.';
comment on column system_entity_state.active_last_5min is 'How many of them took part in a call in the last 5 minutes.';
comment on column system_entity_state.healthy_count is 'How many of them are healthy.';
comment on column system_entity_state.unhealthy_count is 'How many of them are unhealthy.';

comment on view entity_hierarchy is 'Every entity once, below its parent; ends on cycles.';
comment on column entity_hierarchy.entity_id is 'Entity.';
comment on column entity_hierarchy.entity_name is 'Its name.';
comment on column entity_hierarchy.entity_type is 'Its type.';
comment on column entity_hierarchy.parent_entity_id is 'Its parent, registered or not.';
comment on column entity_hierarchy.department is 'Its department.';
comment on column entity_hierarchy.current_state is 'Its state.';
comment on column entity_hierarchy.health_status is 'Its health.';
comment on column entity_hierarchy.level is 'Depth; 0 for a root.';
comment on column entity_hierarchy.path is 'Ids from the root down to the entity.';
