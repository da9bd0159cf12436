-- An execution told again changes nothing, however many were told since; and what counted when it was told is remembered.
create or replace function record_workflow_execution(
    p_workflow_id text,
    p_execution_id text,
    p_status text,
    p_ended_at timestamptz default now(),
    p_count_activity boolean default true
) returns text
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_known unified_registry%rowtype;
    v_told jsonb;
    v_before jsonb;
    v_is_known boolean;
    v_counts boolean;
    v_health text;
    v_kept constant bigint := telemetry_setting('workflow_health_executions');
    v_ended_at constant timestamptz := least(coalesce(p_ended_at, now()), now());
    v_claim text;
    v_subject text;
begin
    if p_status is null or p_status not in ('success', 'error', 'timeout', 'cancelled') then
        raise exception 'an execution ends with success, error, timeout or cancelled, not %', coalesce(quote_literal(left(p_status, 50)), 'null')
            using errcode = 'invalid_parameter_value';
    end if;
    if p_execution_id is null or length(p_execution_id) not between 1 and 255 then
        raise exception 'p_execution_id must be a text of 1 to 255 characters' using errcode = 'invalid_parameter_value';
    end if;
    select known.* into v_known
    from unified_registry as known
    where known.entity_id = p_workflow_id and known.entity_type = 'n8n_workflow'
    for update;
    if not found then
        return null;
    end if;

    v_told := case
        when jsonb_typeof(v_known.metadata -> 'recent_executions') = 'array' then v_known.metadata -> 'recent_executions'
        else '[]'
    end;
    select told.value into v_before
    from jsonb_array_elements(v_told) as told (value)
    where told.value ->> 'id' = p_execution_id
    limit 1;
    -- Of those that ended before all that are remembered nobody can say more than that they are old news.
    v_is_known := v_before is not null or (
        jsonb_array_length(v_told) >= v_kept
        and v_ended_at < (select min(told.at) from jsonb_to_recordset(v_told) as told (at timestamptz))
    );
    -- Where executions are rows, each row brings its activity.
    v_counts := p_count_activity and not v_is_known and not exists (
        select from communication_telemetry as call
        where call.target_id = p_workflow_id
            and call.timestamp > now() - telemetry_setting('workflow_health_hours') * interval '1 hour'
            and call.protocol = 'n8n'
            and call.operation = 'workflow_execution'
            and call.counted
    );
    if v_counts then
        perform record_entity_activity(p_workflow_id, 'n8n_workflow', p_status in ('error', 'timeout'));
    end if;

    select caller.p_claim, caller.p_subject into v_claim, v_subject from caller_claim() as caller;
    if not claim_allows(v_claim, v_subject, v_known.claimed_as, v_known.claim_subject) then
        perform note_refused_claim(
            p_workflow_id, 'n8n_workflow', 'n8n', v_claim, v_subject, 'record_workflow_execution'
        );
        return v_known.health_status;
    end if;
    with told as (
        select jsonb_strip_nulls(jsonb_build_object(
            'id', p_execution_id, 'status', p_status, 'at', v_ended_at,
            -- The status it counted with, for the row that may come and count it again.
            'counted', case when v_counts then p_status else v_before ->> 'counted' end
        )) as value, 0 as place
        union all
        select older.value, older.place
        from jsonb_array_elements(v_told) with ordinality as older (value, place)
        where older.value ->> 'id' is distinct from p_execution_id
    ),

    newest as (
        select told.value, (told.value ->> 'at')::timestamptz as at, told.place
        from told
        order by at desc nulls last, told.place asc
        limit v_kept
    )

    select jsonb_agg(newest.value order by newest.at desc nulls last, newest.place asc) into v_told
    from newest;
    update unified_registry as known
    set metadata = known.metadata || jsonb_build_object('recent_executions', v_told)
    where known.id = v_known.id;

    v_health := workflow_health(p_workflow_id, v_told);
    if v_health is null or v_known.current_state = 'deleted' then
        return v_known.health_status;
    end if;
    perform record_entity_heartbeat(p_workflow_id, 'n8n_workflow', v_health, 'n8n', 'recent executions');
    return v_health;
end;
$$;

comment on function record_workflow_execution(text, text, text, timestamptz, boolean) is
'Notes how one execution of a workflow ended (metadata.recent_executions, the last to end first) and sets the health that '
'follows; telling one again changes nothing, and one that ended before all that are remembered counts as known. Counts its '
'activity unless p_count_activity is false or executions of the workflow are rows, which bring theirs; the row of one that '
'counted takes that back when it is settled. Returns the health, null for an unknown workflow.';
