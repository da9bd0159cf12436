-- communication_patterns and top_communication_pairs over rollups. Their windows begin at the UTC day and the hour that
-- hold their first moments.
-- create or replace: columns, their comments, grants and what others built on the view stay.
create or replace view communication_patterns with (security_invoker = true) as
with rolled as (
    select
        kept.pair_id,
        sum(kept.calls)::bigint as calls,
        sum(kept.errors)::bigint as errors,
        sum(kept.timed)::bigint as timed,
        least(sum(kept.duration_ns), 9e18)::bigint as duration_ns,
        min(kept.shortest_ms) as shortest_ms,
        max(kept.longest_ms) as longest_ms,
        count(*) as days,
        max(kept.last_at) as last_at
    from telemetry_pair_days as kept
    where kept.day >= ((now() - interval '7 days') at time zone 'UTC')::date
    group by kept.pair_id
),

fresh_days as (
    select
        source_id,
        source_type,
        target_id,
        target_type,
        protocol,
        (minute at time zone 'UTC')::date as day,
        sum(calls) as calls,
        sum(errors) as errors,
        sum(timed) as timed,
        sum(duration_ns) as duration_ns,
        min(shortest_ms) as shortest_ms,
        max(longest_ms) as longest_ms,
        max(last_at) as last_at
    from telemetry_rollup_pending
    where minute >= (((now() - interval '7 days') at time zone 'UTC')::date)::timestamp at time zone 'UTC'
    group by source_id, source_type, target_id, target_type, protocol, (minute at time zone 'UTC')::date
),

-- What is pending of a pair, and how many days that adds to those the rollup has. A new pair has no number yet.
fresh as (
    select
        day.source_id,
        day.source_type,
        day.target_id,
        day.target_type,
        day.protocol,
        pair.pair_id,
        sum(day.calls)::bigint as calls,
        sum(day.errors)::bigint as errors,
        sum(day.timed)::bigint as timed,
        least(sum(day.duration_ns), 9e18)::bigint as duration_ns,
        min(day.shortest_ms) as shortest_ms,
        max(day.longest_ms) as longest_ms,
        count(*) filter (where kept.day is null) as days,
        max(day.last_at) as last_at
    from fresh_days as day
    left join telemetry_pairs as pair
        on
            day.source_id = pair.source_id and day.target_id = pair.target_id and day.protocol = pair.protocol
            and day.source_type = pair.source_type and day.target_type = pair.target_type
    left join telemetry_pair_days as kept on pair.pair_id = kept.pair_id and day.day = kept.day
    group by day.source_id, day.source_type, day.target_id, day.target_type, day.protocol, pair.pair_id
),

merged as (
    select
        coalesce(rolled.pair_id, fresh.pair_id) as pair_id,
        fresh.source_id,
        fresh.source_type,
        fresh.target_id,
        fresh.target_type,
        fresh.protocol,
        coalesce(rolled.calls, 0) + coalesce(fresh.calls, 0) as calls,
        coalesce(rolled.errors, 0) + coalesce(fresh.errors, 0) as errors,
        coalesce(rolled.timed, 0) + coalesce(fresh.timed, 0) as timed,
        coalesce(rolled.duration_ns, 0)::double precision + coalesce(fresh.duration_ns, 0) as duration_ns,
        least(rolled.shortest_ms, fresh.shortest_ms) as shortest_ms,
        greatest(rolled.longest_ms, fresh.longest_ms) as longest_ms,
        coalesce(rolled.days, 0) + coalesce(fresh.days, 0) as days,
        greatest(rolled.last_at, fresh.last_at) as last_at
    from rolled
    full join fresh on rolled.pair_id = fresh.pair_id
)

select
    coalesce(pair.source_id, merged.source_id) as source_id,
    coalesce(pair.source_type, merged.source_type) as source_type,
    coalesce(pair.target_id, merged.target_id) as target_id,
    coalesce(pair.target_type, merged.target_type) as target_type,
    coalesce(pair.protocol, merged.protocol) as protocol,
    merged.calls as total_calls,
    merged.duration_ns / 1e6::double precision / nullif(merged.timed, 0) as avg_duration_ms,
    merged.shortest_ms as min_duration_ms,
    merged.longest_ms as max_duration_ms,
    merged.errors as error_count,
    merged.days as active_days,
    merged.last_at as last_communication
from merged
left join telemetry_pairs as pair on merged.pair_id = pair.pair_id
where merged.calls > 0;

create or replace view top_communication_pairs with (security_invoker = true) as
with rolled as (
    select
        kept.pair_id,
        sum(kept.calls)::bigint as calls,
        sum(kept.timed)::bigint as timed,
        least(sum(kept.duration_ns), 9e18)::bigint as duration_ns,
        least(sum(kept.tokens), 9e18)::bigint as tokens,
        sum(kept.cost) as cost
    from telemetry_pair_hours as kept
    where kept.hour >= date_trunc('hour', now() - interval '24 hours', 'UTC')
    group by kept.pair_id
),

part as (
    select
        pair.source_id,
        pair.target_id,
        pair.protocol,
        rolled.calls,
        rolled.timed,
        rolled.duration_ns,
        rolled.tokens,
        rolled.cost
    from rolled
    inner join telemetry_pairs as pair on rolled.pair_id = pair.pair_id
    union all
    select
        source_id,
        target_id,
        protocol,
        calls,
        timed,
        least(duration_ns, 9e18)::bigint as duration_ns,
        least(tokens, 9e18)::bigint as tokens,
        cost
    from telemetry_rollup_pending
    where minute >= date_trunc('hour', now() - interval '24 hours', 'UTC')
),

-- Added up for those that are shown only.
busiest as (
    select
        part.source_id,
        part.target_id,
        part.protocol,
        sum(part.calls)::bigint as calls
    from part
    group by part.source_id, part.target_id, part.protocol
    having sum(part.calls) > 0
    order by calls desc, part.source_id asc, part.target_id asc, part.protocol asc
    limit 20
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
inner join busiest
    on part.source_id = busiest.source_id and part.target_id = busiest.target_id and part.protocol = busiest.protocol
group by part.source_id, part.target_id, part.protocol
order by call_count desc, source asc, target asc, part.protocol asc
limit 20;

comment on view communication_patterns is
'Who called whom in the last 7 days, from the whole UTC day in which they began.';
comment on view top_communication_pairs is
'The 20 busiest pairs of the last 24 hours, from the whole hour in which they began.';
