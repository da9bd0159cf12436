-- system_health_overview and communication_metrics_realtime, whose windows begin at the whole minute that holds their first
-- moment. A minute lies in the last 5 minutes so understood when it is later than 6 minutes ago: the same bound without
-- date_trunc, which a scan works out again for each row, at half of what the views took.
-- create or replace: columns, their comments, grants and what others built on the views stay.
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
        where minute > now() - interval '6 minutes'
        union all
        select
            protocol,
            calls,
            errors,
            timed,
            duration_ns
        from telemetry_rollup_pending
        where minute > now() - interval '6 minutes'
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
    where pending.minute > now() - interval '6 minutes' and pending.sign > 0
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
        where minute > now() - interval '6 minutes'
        union all
        select
            pending.protocol,
            floor(4 / ln(2.0::double precision) * ln(greatest(single.ms, 1e-6)))::smallint as bucket,
            pending.sign as calls,
            single.ms as shortest_ms,
            single.ms as longest_ms
        from telemetry_rollup_pending as pending
        cross join lateral unnest(pending.durations_ms) as single (ms)
        where pending.minute > now() - interval '6 minutes'
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

create or replace view communication_metrics_realtime with (security_invoker = true) as
with pending as materialized (
    select *
    from telemetry_rollup_pending
    where minute > now() - interval '61 minutes'
),

-- What is pending of a pair in a minute, with what the rollup has of it. A new pair has no number yet.
fresh as materialized (
    select
        part.*,
        pair.pair_id,
        part.calls + coalesce(kept.calls, 0) as all_calls,
        part.errors + coalesce(kept.errors, 0) as all_errors,
        part.timed + coalesce(kept.timed, 0) as all_timed,
        part.duration_ns + coalesce(kept.duration_ns, 0)::double precision as all_duration_ns,
        least(part.shortest_ms, kept.shortest_ms) as least_ms,
        greatest(part.longest_ms, kept.longest_ms) as most_ms,
        kept.durations_ms,
        kept.buckets,
        kept.bucket_calls
    from (
        select
            single.minute,
            single.protocol,
            single.source_id,
            single.source_type,
            single.target_id,
            single.target_type,
            sum(single.calls)::bigint as calls,
            sum(single.errors)::bigint as errors,
            sum(single.timed)::bigint as timed,
            sum(single.duration_ns)::double precision as duration_ns,
            min(single.ms) as shortest_ms,
            max(single.ms) as longest_ms,
            array_agg(single.ms) filter (where single.ms is not null) as came_ms
        from (
            select
                minute,
                protocol,
                source_id,
                source_type,
                target_id,
                target_type,
                calls,
                errors,
                timed,
                duration_ns,
                null::double precision as ms
            from pending
            union all
            select
                pending.minute,
                pending.protocol,
                pending.source_id,
                pending.source_type,
                pending.target_id,
                pending.target_type,
                0 as calls,
                0 as errors,
                0 as timed,
                0 as duration_ns,
                each.ms
            from pending
            cross join lateral unnest(pending.durations_ms) as each (ms)
        ) as single
        group by
            single.minute, single.protocol, single.source_id, single.source_type, single.target_id, single.target_type
    ) as part
    left join telemetry_pairs as pair
        on
            part.source_id = pair.source_id and part.target_id = pair.target_id and part.protocol = pair.protocol
            and part.source_type = pair.source_type and part.target_type = pair.target_type
    left join telemetry_pair_minutes as kept on part.minute = kept.minute and pair.pair_id = kept.pair_id
)

select
    kept.minute,
    pair.protocol,
    pair.source_id,
    pair.source_type,
    pair.target_id,
    pair.target_type,
    kept.calls as request_count,
    kept.duration_ns / 1e6::double precision / nullif(kept.timed, 0) as avg_duration_ms,
    case
        when kept.p95_ms is not null then least(greatest(kept.p95_ms, kept.shortest_ms), kept.longest_ms)
    end as p95_duration_ms,
    kept.errors as error_count,
    100 * kept.errors::double precision / kept.calls as error_rate
from telemetry_pair_minutes as kept
inner join telemetry_pairs as pair on kept.pair_id = pair.pair_id
where
    kept.minute > now() - interval '61 minutes'
    and kept.calls > 0
    -- not in: hashed whatever the planner thinks of the number of pending rows.
    and (kept.minute, kept.pair_id) not in (
        select
            fresh.minute,
            fresh.pair_id
        from fresh
        where fresh.pair_id is not null
    )
union all
select
    fresh.minute,
    fresh.protocol,
    fresh.source_id,
    fresh.source_type,
    fresh.target_id,
    fresh.target_type,
    fresh.all_calls as request_count,
    fresh.all_duration_ns / 1e6::double precision / nullif(fresh.all_timed, 0) as avg_duration_ms,
    case
        when fresh.all_timed = 0 then null
        -- The 95th percentile of fewer than 20 is the longest.
        when fresh.buckets is null and fresh.all_timed < 20 then fresh.most_ms
        else (
            select
                least(
                    greatest(min(ranked.ms) filter (where ranked.upto >= ceil(0.95 * ranked.total)), fresh.least_ms),
                    fresh.most_ms
                )
            from (
                select
                    case
                        when part.bucket > -80 then 1.0864272337 * power(2, part.bucket / 4.0::double precision)
                        else 0
                    end as ms,
                    sum(sum(part.calls)) over (order by part.bucket) as upto,
                    sum(sum(part.calls)) over () as total
                from (
                    select
                        floor(4 / ln(2.0::double precision) * ln(greatest(each.ms, 1e-6)))::smallint as bucket,
                        1 as calls
                    from unnest(fresh.came_ms || fresh.durations_ms) as each (ms)
                    union all
                    select
                        held.bucket,
                        held.calls
                    from unnest(fresh.buckets, fresh.bucket_calls) as held (bucket, calls)
                ) as part
                group by part.bucket
            ) as ranked
        )
    end as p95_duration_ms,
    fresh.all_errors as error_count,
    100 * fresh.all_errors::double precision / fresh.all_calls as error_rate
from fresh
where fresh.all_calls > 0;
