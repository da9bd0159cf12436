-- What settling takes out of the counts has nearly always just come, and so is the last call of its pair: looking that up
-- must not mean reading the pair's whole hour and day.
create or replace function repair_telemetry_extremes(p_gone telemetry_pair_hours[]) returns void
language plpgsql
security definer
set search_path = public, pg_temp
set plan_cache_mode = force_custom_plan
set enable_seqscan = off
set jit = off
as $$
begin
    update telemetry_pair_hours as rollup
    set
        shortest_ms = case when held.is_extreme then still.shortest_ms else rollup.shortest_ms end,
        longest_ms = case when held.is_extreme then still.longest_ms else rollup.longest_ms end,
        last_at = case when held.is_last then latest.at else rollup.last_at end
    from (
        select known.hour, known.pair_id,
            coalesce(gone.shortest_ms <= known.shortest_ms or gone.longest_ms >= known.longest_ms, false) as is_extreme,
            coalesce(gone.last_at >= known.last_at, false) as is_last
        from unnest(p_gone) as gone
        inner join telemetry_pair_hours as known on gone.hour = known.hour and gone.pair_id = known.pair_id
    ) as held
    inner join telemetry_pairs as pair on held.pair_id = pair.pair_id
    cross join lateral (
        select min(call.duration_ms) as shortest_ms, max(call.duration_ms) as longest_ms
        from communication_telemetry as call
        where held.is_extreme and call.counted
            and call.timestamp >= held.hour and call.timestamp < held.hour + interval '1 hour'
            and call.source_id = pair.source_id and call.source_type = pair.source_type
            and call.target_id = pair.target_id and call.target_type = pair.target_type
            and call.protocol = pair.protocol
    ) as still
    left join lateral (
        select call.timestamp as at
        from communication_telemetry as call
        where held.is_last and call.counted
            and call.timestamp >= held.hour and call.timestamp < held.hour + interval '1 hour'
            and call.source_id = pair.source_id and call.source_type = pair.source_type
            and call.target_id = pair.target_id and call.target_type = pair.target_type
            and call.protocol = pair.protocol
        order by call.timestamp desc
        limit 1
    ) as latest on true
    where rollup.hour = held.hour and rollup.pair_id = held.pair_id and (held.is_extreme or held.is_last);

    -- The hours of a day that is not long over are all there, and are right by now.
    with gone as (
        select
            (each.hour at time zone 'UTC')::date as day, each.pair_id,
            (min(each.hour) at time zone 'UTC')::date::timestamp at time zone 'UTC' as begins,
            min(each.shortest_ms) as shortest_ms, max(each.longest_ms) as longest_ms, max(each.last_at) as last_at
        from unnest(p_gone) as each
        group by 1, 2
    )

    update telemetry_pair_days as rollup
    set shortest_ms = still.shortest_ms, longest_ms = still.longest_ms, last_at = still.last_at
    from gone
    inner join telemetry_pairs as pair on gone.pair_id = pair.pair_id
    cross join lateral (
        select min(part.shortest_ms) as shortest_ms, max(part.longest_ms) as longest_ms, max(part.last_at) as last_at
        from (
            select known.shortest_ms, known.longest_ms, known.last_at
            from telemetry_pair_hours as known
            where gone.begins >= now() - interval '1 day' and known.pair_id = gone.pair_id
                and known.hour >= gone.begins and known.hour < gone.begins + interval '1 day'
            union all
            select min(call.duration_ms), max(call.duration_ms), max(call.timestamp)
            from communication_telemetry as call
            where gone.begins < now() - interval '1 day' and call.counted
                and call.timestamp >= gone.begins and call.timestamp < gone.begins + interval '1 day'
                and call.source_id = pair.source_id and call.source_type = pair.source_type
                and call.target_id = pair.target_id and call.target_type = pair.target_type
                and call.protocol = pair.protocol
        ) as part
    ) as still
    where rollup.day = gone.day and rollup.pair_id = gone.pair_id
        and (
            gone.shortest_ms <= rollup.shortest_ms or gone.longest_ms >= rollup.longest_ms
            or gone.last_at >= rollup.last_at
        );

    -- Who is active is asked about the last minutes only: a day back is far enough to look.
    with gone as (
        select pair.protocol, side.is_source, side.entity_id, max(each.last_at) as last_at
        from unnest(p_gone) as each
        inner join telemetry_pairs as pair on each.pair_id = pair.pair_id
        cross join lateral (values (true, pair.source_id), (false, pair.target_id)) as side (is_source, entity_id)
        group by pair.protocol, side.is_source, side.entity_id
    )

    update telemetry_ends as rollup
    set last_at = coalesce(
        case
            when gone.is_source then (
                select max(call.timestamp)
                from communication_telemetry as call
                where call.counted and call.protocol = gone.protocol and call.source_id = gone.entity_id
                    and call.timestamp >= now() - interval '1 day'
            )
            else (
                select max(call.timestamp)
                from communication_telemetry as call
                where call.counted and call.protocol = gone.protocol and call.target_id = gone.entity_id
                    and call.timestamp >= now() - interval '1 day'
            )
        end,
        '-infinity'
    )
    from gone
    where rollup.protocol = gone.protocol and rollup.is_source = gone.is_source and rollup.entity_id = gone.entity_id
        and gone.last_at >= rollup.last_at;

    delete from telemetry_pair_hours as rollup
    using unnest(p_gone) as gone
    where rollup.hour = gone.hour and rollup.pair_id = gone.pair_id and rollup.calls <= 0;

    delete from telemetry_pair_days as rollup
    using unnest(p_gone) as gone
    where rollup.day = (gone.hour at time zone 'UTC')::date and rollup.pair_id = gone.pair_id and rollup.calls <= 0;
end;
$$;
