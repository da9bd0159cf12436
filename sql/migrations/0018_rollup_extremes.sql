-- Sums can be taken away from; the shortest, the longest and the last call have to be looked up again when they go.
create function repair_telemetry_extremes(p_gone telemetry_pair_hours[]) returns void
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    update telemetry_pair_hours as rollup
    set shortest_ms = still.shortest_ms, longest_ms = still.longest_ms, last_at = still.last_at
    from unnest(p_gone) as gone
    inner join telemetry_pairs as pair on gone.pair_id = pair.pair_id
    cross join lateral (
        select min(call.duration_ms) as shortest_ms, max(call.duration_ms) as longest_ms, max(call.timestamp) as last_at
        from communication_telemetry as call
        where call.counted
            and call.timestamp >= gone.hour and call.timestamp < gone.hour + interval '1 hour'
            and call.source_id = pair.source_id and call.source_type = pair.source_type
            and call.target_id = pair.target_id and call.target_type = pair.target_type
            and call.protocol = pair.protocol
    ) as still
    where rollup.hour = gone.hour and rollup.pair_id = gone.pair_id
        and (
            gone.shortest_ms <= rollup.shortest_ms or gone.longest_ms >= rollup.longest_ms
            or gone.last_at >= rollup.last_at
        );

    with gone as (
        select
            (each.hour at time zone 'UTC')::date as day, each.pair_id,
            min(each.shortest_ms) as shortest_ms, max(each.longest_ms) as longest_ms, max(each.last_at) as last_at
        from unnest(p_gone) as each
        group by 1, 2
    )

    update telemetry_pair_days as rollup
    set shortest_ms = still.shortest_ms, longest_ms = still.longest_ms, last_at = still.last_at
    from gone
    inner join telemetry_pairs as pair on gone.pair_id = pair.pair_id
    cross join lateral (
        select min(call.duration_ms) as shortest_ms, max(call.duration_ms) as longest_ms, max(call.timestamp) as last_at
        from communication_telemetry as call
        where call.counted
            and call.timestamp >= gone.day::timestamp at time zone 'UTC'
            and call.timestamp < (gone.day + 1)::timestamp at time zone 'UTC'
            and call.source_id = pair.source_id and call.source_type = pair.source_type
            and call.target_id = pair.target_id and call.target_type = pair.target_type
            and call.protocol = pair.protocol
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

comment on function repair_telemetry_extremes(telemetry_pair_hours[]) is
'Looks up the shortest, longest and last call again where one of them is gone (hours and pairs, with the extremes of what '
'is gone), and forgets pairs nothing is left of; called under the lock of fold_telemetry_rollups().';
