-- system_health_overview over rollups. The window begins at the minute that holds its first moment.
-- create or replace: columns, their comments, grants and what others built on the view stay.
create or replace view system_health_overview with (security_invoker = true) as
with totals as (
    select
        part.protocol,
        sum(part.calls)::bigint as calls,
        sum(part.errors)::bigint as errors,
        least(sum(part.duration_ns), 9e18)::bigint / 1e6::double precision / nullif(sum(part.timed), 0)::bigint as avg_duration_ms
    from (
        select
            protocol,
            calls,
            errors,
            timed,
            duration_ns
        from telemetry_minutes
        where minute >= date_trunc('minute', now() - interval '5 minutes', 'UTC')
        union all
        select
            protocol,
            calls,
            errors,
            timed,
            duration_ns
        from telemetry_rollup_pending
        where minute >= date_trunc('minute', now() - interval '5 minutes', 'UTC')
    ) as part
    group by part.protocol
    having sum(part.calls) > 0
),

-- The bound is worked out once, not for each row.
ends as (
    select
        protocol,
        is_source,
        entity_id
    from telemetry_ends
    where last_at >= (select date_trunc('minute', now() - interval '5 minutes', 'UTC'))
    union
    select
        pending.protocol,
        side.is_source,
        side.entity_id
    from telemetry_rollup_pending as pending
    cross join lateral (values (true, pending.source_id), (false, pending.target_id)) as side (is_source, entity_id)
    where pending.minute >= date_trunc('minute', now() - interval '5 minutes', 'UTC') and pending.sign > 0
),

active as (
    select
        ends.protocol,
        count(*) filter (where ends.is_source) as sources,
        count(*) filter (where not ends.is_source) as targets
    from ends
    group by ends.protocol
),

histogram as (
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
        where minute >= date_trunc('minute', now() - interval '5 minutes', 'UTC')
        union all
        select
            pending.protocol,
            floor(4 / ln(2.0::double precision) * ln(greatest(single.ms, 1e-6)))::smallint as bucket,
            pending.sign as calls,
            single.ms as shortest_ms,
            single.ms as longest_ms
        from telemetry_rollup_pending as pending
        cross join lateral unnest(pending.durations_ms) as single (ms)
        where pending.minute >= date_trunc('minute', now() - interval '5 minutes', 'UTC')
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
        sum(histogram.calls) over (partition by histogram.protocol order by histogram.bucket) as upto,
        sum(histogram.calls) over (partition by histogram.protocol) as total
    from histogram
),

percentiles as (
    select
        ranked.protocol,
        min(ranked.ms) filter (where ranked.upto >= ceil(0.50 * ranked.total)) as p50,
        min(ranked.ms) filter (where ranked.upto >= ceil(0.95 * ranked.total)) as p95,
        min(ranked.ms) filter (where ranked.upto >= ceil(0.99 * ranked.total)) as p99
    from ranked
    group by ranked.protocol
)

select
    totals.protocol,
    coalesce(active.sources, 0) as active_sources,
    coalesce(active.targets, 0) as active_targets,
    totals.calls as total_requests_5min,
    totals.avg_duration_ms,
    totals.errors as errors_5min,
    100 * totals.errors::double precision / totals.calls as error_rate,
    percentiles.p50,
    percentiles.p95,
    percentiles.p99
from totals
left join active on totals.protocol = active.protocol
left join percentiles on totals.protocol = percentiles.protocol;

comment on view system_health_overview is 'The last 5 minutes by protocol, from the whole minute in which they began.';
comment on column system_health_overview.p50 is
'Median duration in milliseconds, within 9 % of the nearest rank.';
comment on column system_health_overview.p95 is
'95th percentile in milliseconds, within 9 % of the nearest rank.';
comment on column system_health_overview.p99 is
'99th percentile in milliseconds, within 9 % of the nearest rank.';
