-- communication_metrics_realtime over rollups. The window begins at the minute that holds its first moment.
-- create or replace: columns, their comments, grants and what others built on the view stay.
create or replace view communication_metrics_realtime with (security_invoker = true) as
with pending as materialized (
    select *
    from telemetry_rollup_pending
    where minute >= date_trunc('minute', now() - interval '1 hour', 'UTC')
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
    kept.minute >= date_trunc('minute', now() - interval '1 hour', 'UTC')
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

comment on view communication_metrics_realtime is
'The last hour by minute and pair, from the whole minute in which it began. p95 lies within 9 % of the nearest rank.';
