-- top_communication_pairs adds up only what can be among the twenty. Hours of pairs grow with the traffic far longer than
-- days of pairs do, so the days say first who is out: a pair has at least the calls of the UTC day that begins within the
-- window, and at most those of the day before as well. Of that day before, the view then reads the hours in the window, or
-- the whole less the hours before it, whichever are fewer.
-- create or replace: columns, their comments, grants and what others built on the view stay.
create or replace view top_communication_pairs with (security_invoker = true) as
with fresh as materialized (
    select
        source_id,
        target_id,
        protocol,
        sum(calls) as calls,
        sum(timed) as timed,
        sum(duration_ns) as duration_ns,
        sum(tokens) as tokens,
        sum(cost) as cost
    from telemetry_rollup_pending
    -- Worked out once, not for each row.
    where minute >= (select date_trunc('hour', now() - interval '24 hours', 'UTC'))
    group by source_id, target_id, protocol
),

bounds as materialized (
    select
        part.source_id,
        part.target_id,
        part.protocol,
        sum(part.least_calls) as least_calls,
        sum(part.most_calls) as most_calls
    from (
        select
            pair.source_id,
            pair.target_id,
            pair.protocol,
            kept.least_calls,
            kept.most_calls
        from (
            select
                pair_id,
                sum(calls) filter (where day > ((now() - interval '24 hours') at time zone 'UTC')::date) as least_calls,
                sum(calls) as most_calls
            from telemetry_pair_days
            where day >= ((now() - interval '24 hours') at time zone 'UTC')::date
            group by pair_id
        ) as kept
        inner join telemetry_pairs as pair on kept.pair_id = pair.pair_id
        union all
        select
            source_id,
            target_id,
            protocol,
            calls as least_calls,
            calls as most_calls
        from fresh
    ) as part
    group by part.source_id, part.target_id, part.protocol
),

candidates as materialized (
    select
        source_id,
        target_id,
        protocol
    from bounds
    where
        most_calls >= coalesce(
            (
                select twentieth.least_calls
                from bounds as twentieth
                order by twentieth.least_calls desc nulls last
                limit 1 offset 19
            ),
            1
        )
),

cells as (
    select
        pair_id,
        calls,
        timed,
        duration_ns,
        tokens,
        cost
    from telemetry_pair_days
    where
        day >= (
            (
                now()
                - case when extract(hour from now() at time zone 'UTC') < 12 then interval '24 hours' else interval '0' end
            ) at time zone 'UTC'
        )::date
    union all
    select
        pair_id,
        -calls as calls,
        -timed as timed,
        -duration_ns as duration_ns,
        -tokens as tokens,
        -cost as cost
    from telemetry_pair_hours
    where
        extract(hour from now() at time zone 'UTC') < 12
        and hour >= date_trunc('day', now() - interval '24 hours', 'UTC')
        and hour < date_trunc('hour', now() - interval '24 hours', 'UTC')
    union all
    select
        pair_id,
        calls,
        timed,
        duration_ns,
        tokens,
        cost
    from telemetry_pair_hours
    where
        extract(hour from now() at time zone 'UTC') >= 12
        and hour >= date_trunc('hour', now() - interval '24 hours', 'UTC')
        and hour < date_trunc('day', now(), 'UTC')
),

part as (
    select
        pair.source_id,
        pair.target_id,
        pair.protocol,
        cells.calls,
        cells.timed,
        cells.duration_ns,
        cells.tokens,
        cells.cost
    from candidates
    inner join telemetry_pairs as pair
        on
            candidates.source_id = pair.source_id and candidates.target_id = pair.target_id
            and candidates.protocol = pair.protocol
    inner join cells on pair.pair_id = cells.pair_id
    union all
    select
        fresh.source_id,
        fresh.target_id,
        fresh.protocol,
        fresh.calls,
        fresh.timed,
        fresh.duration_ns,
        fresh.tokens,
        fresh.cost
    from fresh
    inner join candidates
        on
            fresh.source_id = candidates.source_id and fresh.target_id = candidates.target_id
            and fresh.protocol = candidates.protocol
)

select
    part.source_id as source,
    part.target_id as target,
    part.protocol,
    sum(part.calls)::bigint as call_count,
    least(sum(part.duration_ns), 9e18)::bigint / 1e6::double precision / nullif(sum(part.timed), 0)::bigint
        as avg_duration_ms,
    least(sum(part.tokens), 9223372036854775807)::bigint as total_tokens,
    sum(part.cost) as total_cost
from part
group by part.source_id, part.target_id, part.protocol
having sum(part.calls) > 0
order by call_count desc, source asc, target asc, part.protocol asc
limit 20;
