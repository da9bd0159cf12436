-- Settling counts a traced call and its record by hand once, also when they arrived apart.
create or replace function settle_communications(p_since timestamptz default now() - interval '15 minutes') returns integer
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_role constant text := nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role';
    -- A client key may settle what is recent, not make us read everything.
    v_since constant timestamptz := case
        when v_role in ('anon', 'authenticated') then greatest(p_since, now() - interval '1 hour')
        else p_since
    end;
    v_changed integer;
    v_corrections jsonb;
    v_recorded jsonb;
begin
    -- Two passes at once would update the same rows in different order.
    perform pg_advisory_xact_lock(hashtextextended('elf-automations settle', 0));

    -- The walk up a trace follows parents as settle() of the package does: it ends at a server of the same protocol,
    -- because what is below that is another call, and the outermost client of the same call claims the row.
    with recursive seen as materialized (
        select
            call.timestamp, call.id, call.protocol, call.operation, coalesce(call.tool_name, '') as tool,
            call.trace_id, call.span_id, call.parent_span_id, call.observed_by, call.counted,
            call.status, call.error_message, call.error_code,
            call.source_id, call.source_type, call.target_id, call.target_type
        from communication_telemetry as call
        where call.timestamp >= v_since - interval '1 hour' and call.trace_id is not null and call.span_id is not null
    ),

    walk as (
        select
            row.timestamp, row.id, row.protocol, row.operation, row.tool, row.trace_id,
            row.parent_span_id as next_span_id, 0 as steps, null::timestamptz as claimant_timestamp, null::uuid as claimant_id
        from seen as row
        where row.timestamp >= v_since and row.observed_by in ('client', 'server')
            -- Of the others nothing is learned.
            and row.parent_span_id is not null and (row.counted or row.status = 'error')
        union all
        select
            walk.timestamp, walk.id, walk.protocol, walk.operation, walk.tool, walk.trace_id,
            above.parent_span_id, walk.steps + 1,
            case when claim.is_same then above.timestamp else walk.claimant_timestamp end,
            case when claim.is_same then above.id else walk.claimant_id end
        from walk
        inner join seen as above
            on walk.trace_id = above.trace_id and walk.next_span_id = above.span_id and walk.id <> above.id
        cross join lateral (
            select above.observed_by = 'client'
                and above.protocol = walk.protocol
                and above.operation = walk.operation
                and (above.tool = walk.tool or above.tool = '' or walk.tool = '') as is_same
        ) as claim
        where walk.steps < 64 and not (above.protocol = walk.protocol and above.observed_by = 'server')
    ),

    claims as (
        select distinct on (walk.timestamp, walk.id)
            walk.timestamp, walk.id, walk.claimant_timestamp, walk.claimant_id
        from walk
        order by walk.timestamp, walk.id, walk.steps desc
    ),

    witnesses as (
        select distinct on (claims.claimant_timestamp, claims.claimant_id)
            claims.claimant_timestamp as timestamp, claims.claimant_id as id,
            witness.status, witness.error_message, witness.error_code
        from claims
        inner join seen as witness on claims.timestamp = witness.timestamp and claims.id = witness.id
        where claims.claimant_id is not null and witness.status = 'error'
        order by claims.claimant_timestamp, claims.claimant_id, witness.timestamp, witness.id
    ),

    verdicts as (
        select
            row.timestamp, row.id, row.source_id, row.source_type, row.target_id, row.target_type,
            row.counted as was_counted, row.status as old_status,
            row.counted and claims.claimant_id is null as counted,
            row.status = 'success' and witnesses.status is not null as corrected,
            witnesses.status, witnesses.error_message, witnesses.error_code
        from seen as row
        left join claims on row.timestamp = claims.timestamp and row.id = claims.id
        left join witnesses on row.timestamp = witnesses.timestamp and row.id = witnesses.id
        where (row.counted and claims.claimant_id is not null)
            or (row.status = 'success' and witnesses.status is not null)
    ),

    settled as (
        update communication_telemetry as call
        set
            counted = verdicts.counted,
            status = case when verdicts.corrected then verdicts.status else call.status end,
            error_message = case when verdicts.corrected then verdicts.error_message else call.error_message end,
            error_code = case when verdicts.corrected then verdicts.error_code else call.error_code end
        from verdicts
        where call.timestamp = verdicts.timestamp and call.id = verdicts.id
        returning call.id
    ),

    -- What a row added to the registry while it counted is taken back, and the error it learned of is added.
    corrections as (
        select
            ends.entity_id,
            registry_entity_type(ends.row_type) as entity_type,
            case when verdicts.was_counted and not verdicts.counted then -1 else 0 end as calls,
            case
                when verdicts.was_counted and not verdicts.counted
                    then case when verdicts.old_status in ('error', 'timeout') then -1 else 0 end
                when verdicts.counted and verdicts.corrected then 1
                else 0
            end as errors
        from verdicts
        cross join lateral (
            select verdicts.source_id, verdicts.source_type
            union
            select verdicts.target_id, verdicts.target_type
        ) as ends (entity_id, row_type)
    )

    select
        (select count(*) from settled),
        (
            select jsonb_agg(jsonb_build_object(
                'entity_id', corrections.entity_id, 'entity_type', corrections.entity_type,
                'calls', corrections.calls, 'errors', corrections.errors
            ))
            from corrections
        )
    into v_changed, v_corrections;
    v_recorded := settle_recorded_by_hand(v_since);
    -- Once for both, because entities are locked in one order.
    perform correct_entity_activity(coalesce(v_corrections, '[]') || (v_recorded -> 'corrections'));
    return v_changed + (v_recorded ->> 'changed')::integer;
end;
$$;

comment on function settle_communications(timestamptz) is
'Settles calls whose sides arrived apart: the outermost client row counts and takes the error its server saw, and where '
'the application recorded the call by hand as well, that record counts. Looks at calls begun since p_since, corrects the '
'activity of their entities, changes nothing the second time; returns how many rows changed.';
