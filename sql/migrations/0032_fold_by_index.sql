-- Folding at half the cost: no step of it depends on when the tables were last analyzed.
create or replace function fold_telemetry_rollups(p_wait boolean default true, p_limit bigint default null) returns bigint
language plpgsql
security definer
set search_path = public, pg_temp
-- The tables grow from nothing within a session: a plan kept from then would read them whole for each row.
set plan_cache_mode = force_custom_plan
-- Everything it reads it finds by an index, and knows better than statistics of tables that come and go.
set enable_seqscan = off
set jit = off
as $$
declare
    v_key constant bigint := hashtextextended('elf-automations rollups', 0);
    v_keep_from constant timestamptz := date_trunc('minute', now()) - interval '3 hours';
    v_folded bigint;
    v_gone telemetry_pair_hours[];
begin
    -- One at a time: nobody else writes the rollups, so whoever folds waits for no row.
    if p_wait then
        perform pg_advisory_xact_lock(v_key);
    elsif not pg_try_advisory_xact_lock(v_key) then
        return 0;
    end if;

    -- Not an anti-join: before somebody analyzes telemetry_pairs the planner takes it for empty, and reads it whole for
    -- each pending row. A scalar subquery is one probe of the index for each pair.
    with seen as materialized (
        select distinct
            pending.source_id, pending.target_id, pending.protocol, pending.source_type, pending.target_type
        from telemetry_rollup_pending as pending
        where pending.minute >= '-infinity'
    )

    insert into telemetry_pairs (source_id, target_id, protocol, source_type, target_type)
    select seen.source_id, seen.target_id, seen.protocol, seen.source_type, seen.target_type
    from seen
    where (
        select known.pair_id
        from telemetry_pairs as known
        where known.source_id = seen.source_id and known.target_id = seen.target_id
            and known.protocol = seen.protocol
            and known.source_type = seen.source_type and known.target_type = seen.target_type
    ) is null;

    -- No step joins another: how many rows are pending is something the planner cannot know. What came since the step
    -- above with a pair still unknown waits for the next time. A sum too large for its column stays at the limit:
    -- absurd values from one caller must not keep everything from being folded.
    with changes as materialized (
        delete from telemetry_rollup_pending as pending
        using telemetry_pairs as pair
        where pending.ctid = any(array(
                -- The condition only lets the index serve.
                select due.ctid from telemetry_rollup_pending as due where due.minute >= '-infinity' limit p_limit
            ))
            and pair.source_id = pending.source_id and pair.target_id = pending.target_id
            and pair.protocol = pending.protocol
            and pair.source_type = pending.source_type and pair.target_type = pending.target_type
        returning pair.pair_id, pending.*
    ),

    ends as (
        insert into telemetry_ends as rollup (protocol, is_source, entity_id, last_at)
        select changes.protocol, side.is_source, side.entity_id, max(changes.last_at)
        from changes
        cross join lateral (values (true, changes.source_id), (false, changes.target_id)) as side (is_source, entity_id)
        where changes.sign > 0
        group by changes.protocol, side.is_source, side.entity_id
        on conflict (protocol, is_source, entity_id) do update set last_at = excluded.last_at
        where rollup.last_at < excluded.last_at
    ),

    minutes as (
        insert into telemetry_minutes as rollup (
            minute, protocol, calls, errors, cancelled, timed, duration_ns, tokens, cost
        )
        select changes.minute, changes.protocol, sum(changes.calls), sum(changes.errors), sum(changes.cancelled),
            sum(changes.timed),
            greatest(least(sum(changes.duration_ns), 9e18), -9e18)::bigint,
            greatest(least(sum(changes.tokens), 9e18), -9e18)::bigint,
            sum(changes.cost)
        from changes
        group by changes.minute, changes.protocol
        on conflict (minute, protocol) do update set
            calls = rollup.calls + excluded.calls,
            errors = rollup.errors + excluded.errors,
            cancelled = rollup.cancelled + excluded.cancelled,
            timed = rollup.timed + excluded.timed,
            duration_ns = greatest(least(rollup.duration_ns::numeric + excluded.duration_ns, 9e18), -9e18)::bigint,
            tokens = greatest(least(rollup.tokens::numeric + excluded.tokens, 9e18), -9e18)::bigint,
            cost = rollup.cost + excluded.cost
    ),

    durations as materialized (
        select changes.minute, changes.pair_id, changes.protocol, changes.sign, single.ms,
            floor(4 / ln(2.0::double precision) * ln(greatest(single.ms, 1e-6)))::smallint as bucket
        from changes
        cross join lateral unnest(changes.durations_ms) as single (ms)
    ),

    latency as (
        insert into telemetry_minute_latency as rollup (minute, protocol, bucket, calls, shortest_ms, longest_ms)
        select durations.minute, durations.protocol, durations.bucket, sum(durations.sign),
            min(durations.ms), max(durations.ms)
        from durations
        group by durations.minute, durations.protocol, durations.bucket
        on conflict (minute, protocol, bucket) do update set
            calls = rollup.calls + excluded.calls,
            shortest_ms = least(rollup.shortest_ms, excluded.shortest_ms),
            longest_ms = greatest(rollup.longest_ms, excluded.longest_ms)
    ),

    recent as (
        select part.minute, part.pair_id, sum(part.calls) as calls, sum(part.errors) as errors, sum(part.timed) as timed,
            greatest(least(sum(part.duration_ns), 9e18), -9e18)::bigint as duration_ns,
            min(part.ms) filter (where part.sign > 0) as shortest_ms,
            max(part.ms) filter (where part.sign > 0) as longest_ms,
            array_agg(part.ms) filter (where part.sign > 0 and part.ms is not null) as came_ms,
            array_agg(part.ms) filter (where part.sign < 0 and part.ms is not null) as gone_ms
        from (
            select changes.minute, changes.pair_id, changes.sign, changes.calls, changes.errors, changes.timed,
                changes.duration_ns, null::double precision as ms
            from changes
            where changes.minute >= v_keep_from
            union all
            select durations.minute, durations.pair_id, durations.sign, 0, 0, 0, 0, durations.ms
            from durations
            where durations.minute >= v_keep_from
        ) as part
        group by part.minute, part.pair_id
    ),

    -- The 95th percentile of fewer than 20 is the longest: only for more, or when one is gone, a histogram is kept.
    sized as (
        select recent.*, rollup.durations_ms, rollup.buckets, rollup.bucket_calls,
            rollup.buckets is not null or recent.gone_ms is not null or recent.timed + coalesce(rollup.timed, 0) >= 20
                as is_dense
        from recent
        left join telemetry_pair_minutes as rollup using (minute, pair_id)
    ),

    spread as (
        select part.minute, part.pair_id, part.bucket, sum(part.calls)::bigint as calls
        from (
            select sized.minute, sized.pair_id, single.sign as calls,
                floor(4 / ln(2.0::double precision) * ln(greatest(single.ms, 1e-6)))::smallint as bucket
            from sized
            cross join lateral (
                select 1 as sign, came.ms from unnest(sized.came_ms || sized.durations_ms) as came (ms)
                union all
                select -1, gone.ms from unnest(sized.gone_ms) as gone (ms)
            ) as single
            where sized.is_dense
            union all
            select sized.minute, sized.pair_id, held.calls, held.bucket
            from sized
            cross join lateral unnest(sized.buckets, sized.bucket_calls) as held (bucket, calls)
            where sized.is_dense
        ) as part
        group by part.minute, part.pair_id, part.bucket
        having sum(part.calls) > 0
    ),

    ranked as (
        select spread.*,
            -- The harmonic mean of the two ends of a bucket is off by 8.7 % at most, less than any other value.
            case
                when spread.bucket > -80 then 1.0864272337 * power(2, spread.bucket / 4.0::double precision)
                else 0
            end as ms,
            sum(spread.calls) over (partition by spread.minute, spread.pair_id order by spread.bucket) as upto,
            sum(spread.calls) over (partition by spread.minute, spread.pair_id) as total
        from spread
    ),

    pair_minutes as (
        insert into telemetry_pair_minutes as rollup (
            minute, pair_id, calls, errors, timed, duration_ns, shortest_ms, longest_ms, p95_ms, durations_ms,
            buckets, bucket_calls
        )
        select part.minute, part.pair_id, sum(part.calls), sum(part.errors), sum(part.timed), sum(part.duration_ns),
            min(part.shortest_ms), max(part.longest_ms), min(part.p95_ms), max(part.durations_ms),
            case when bool_or(part.is_dense) then
                coalesce(array_agg(part.bucket order by part.bucket) filter (where part.bucket is not null), '{}')
            end,
            case when bool_or(part.is_dense) then
                coalesce(array_agg(part.bucket_calls order by part.bucket) filter (where part.bucket is not null), '{}')
            end
        from (
            select sized.minute, sized.pair_id, sized.calls, sized.errors, sized.timed, sized.duration_ns,
                sized.shortest_ms, sized.longest_ms, sized.is_dense,
                case when not sized.is_dense then sized.longest_ms end as p95_ms,
                case when not sized.is_dense then sized.came_ms end as durations_ms,
                null::smallint as bucket, null::bigint as bucket_calls
            from sized
            union all
            select ranked.minute, ranked.pair_id, 0, 0, 0, 0, null, null, true,
                case when ranked.upto >= ceil(0.95 * ranked.total) then ranked.ms end, null, ranked.bucket, ranked.calls
            from ranked
        ) as part
        group by part.minute, part.pair_id
        on conflict (minute, pair_id) do update set
            calls = rollup.calls + excluded.calls,
            errors = rollup.errors + excluded.errors,
            timed = rollup.timed + excluded.timed,
            duration_ns = greatest(least(rollup.duration_ns::numeric + excluded.duration_ns, 9e18), -9e18)::bigint,
            shortest_ms = least(rollup.shortest_ms, excluded.shortest_ms),
            longest_ms = greatest(rollup.longest_ms, excluded.longest_ms),
            p95_ms = case when excluded.buckets is null then greatest(rollup.p95_ms, excluded.p95_ms) else excluded.p95_ms end,
            durations_ms = case when excluded.buckets is null then rollup.durations_ms || excluded.durations_ms end,
            buckets = excluded.buckets,
            bucket_calls = excluded.bucket_calls
    ),

    hours as (
        select date_trunc('hour', changes.minute, 'UTC') as hour, changes.pair_id,
            sum(changes.calls) as calls, sum(changes.errors) as errors, sum(changes.cancelled) as cancelled,
            sum(changes.timed) as timed,
            greatest(least(sum(changes.duration_ns), 9e18), -9e18)::bigint as duration_ns,
            greatest(least(sum(changes.tokens), 9e18), -9e18)::bigint as tokens,
            sum(changes.cost) as cost,
            min(changes.shortest_ms) filter (where changes.sign > 0) as shortest_ms,
            max(changes.longest_ms) filter (where changes.sign > 0) as longest_ms,
            max(changes.last_at) filter (where changes.sign > 0) as last_at
        from changes
        group by 1, 2
    ),

    pair_hours as (
        insert into telemetry_pair_hours as rollup (
            hour, pair_id, calls, errors, cancelled, timed, duration_ns, tokens, cost, shortest_ms, longest_ms, last_at
        )
        select * from hours
        on conflict (hour, pair_id) do update set
            calls = rollup.calls + excluded.calls,
            errors = rollup.errors + excluded.errors,
            cancelled = rollup.cancelled + excluded.cancelled,
            timed = rollup.timed + excluded.timed,
            duration_ns = greatest(least(rollup.duration_ns::numeric + excluded.duration_ns, 9e18), -9e18)::bigint,
            tokens = greatest(least(rollup.tokens::numeric + excluded.tokens, 9e18), -9e18)::bigint,
            cost = rollup.cost + excluded.cost,
            shortest_ms = least(rollup.shortest_ms, excluded.shortest_ms),
            longest_ms = greatest(rollup.longest_ms, excluded.longest_ms),
            last_at = greatest(rollup.last_at, excluded.last_at)
    ),

    pair_days as (
        insert into telemetry_pair_days as rollup (
            day, pair_id, calls, errors, cancelled, timed, duration_ns, tokens, cost, shortest_ms, longest_ms, last_at
        )
        select (hours.hour at time zone 'UTC')::date, hours.pair_id,
            sum(hours.calls), sum(hours.errors), sum(hours.cancelled), sum(hours.timed),
            greatest(least(sum(hours.duration_ns), 9e18), -9e18)::bigint as duration_ns,
            greatest(least(sum(hours.tokens), 9e18), -9e18)::bigint as tokens,
            sum(hours.cost) as cost,
            min(hours.shortest_ms), max(hours.longest_ms), max(hours.last_at)
        from hours
        group by 1, 2
        on conflict (day, pair_id) do update set
            calls = rollup.calls + excluded.calls,
            errors = rollup.errors + excluded.errors,
            cancelled = rollup.cancelled + excluded.cancelled,
            timed = rollup.timed + excluded.timed,
            duration_ns = greatest(least(rollup.duration_ns::numeric + excluded.duration_ns, 9e18), -9e18)::bigint,
            tokens = greatest(least(rollup.tokens::numeric + excluded.tokens, 9e18), -9e18)::bigint,
            cost = rollup.cost + excluded.cost,
            shortest_ms = least(rollup.shortest_ms, excluded.shortest_ms),
            longest_ms = greatest(rollup.longest_ms, excluded.longest_ms),
            last_at = greatest(rollup.last_at, excluded.last_at)
    )

    select
        (select count(*) from changes),
        (
            select array_agg(row(
                gone.hour, gone.pair_id, 0, 0, 0, 0, 0, 0, 0, gone.shortest_ms, gone.longest_ms, gone.last_at
            )::telemetry_pair_hours)
            from (
                select date_trunc('hour', changes.minute, 'UTC') as hour, changes.pair_id,
                    min(changes.shortest_ms) as shortest_ms, max(changes.longest_ms) as longest_ms,
                    max(changes.last_at) as last_at
                from changes
                where changes.sign < 0
                group by 1, 2
            ) as gone
        )
    into v_folded, v_gone;
    if v_gone is not null then
        perform repair_telemetry_extremes(v_gone);
    end if;
    return v_folded;
end;
$$;
