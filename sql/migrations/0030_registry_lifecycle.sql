-- An entity's life after its registration: heartbeats, deregistration; and an answer that says which rows of a batch were new.
-- squawk-ignore ban-drop-constraint
alter table registration_audit drop constraint registration_audit_action_known;
alter table registration_audit add constraint registration_audit_action_known
check (action in ('registered', 'updated', 'refused', 'deregistered')) not valid;

comment on table registration_audit is 'Who registered, re-described or deregistered which entity; outlives the entity.';

create function record_entity_heartbeat(
    p_entity_id text,
    p_entity_type text,
    p_health_status text default 'healthy',
    p_updated_by text default 'heartbeat',
    p_reason text default null
) returns boolean
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    -- A sign of life is no call and no change: last_activity and last_updated stay.
    update unified_registry as known
    set last_health_check = now()
    from caller_claim() as caller
    where known.entity_id = p_entity_id
        and known.entity_type = p_entity_type
        and known.current_state <> 'deleted'
        and known.health_status = coalesce(p_health_status, 'healthy')
        and claim_allows(caller.p_claim, caller.p_subject, known.claimed_as, known.claim_subject);
    if found then
        return true;
    end if;

    perform
    from unified_registry as known
    where known.entity_id = p_entity_id and known.entity_type = p_entity_type and known.current_state <> 'deleted';
    if not found then
        return false;
    end if;
    -- Another health, or no right to say so: that function knows both.
    return update_entity_state(
        p_entity_id, p_entity_type, null, coalesce(p_health_status, 'healthy'), p_updated_by, p_reason
    );
end;
$$;

comment on function record_entity_heartbeat(text, text, text, text, text) is
'Moves last_health_check, and health when it changed (then with a transition); false for an unknown or deleted '
'entity, and for one that was registered with more right.';

create function deregister_entity(
    p_entity_id text,
    p_entity_type text,
    p_deregistered_by text default 'system',
    p_reason text default null
) returns boolean
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_state text;
    v_by constant text := coalesce(nullif(p_deregistered_by, ''), 'system');
begin
    select known.current_state into v_state
    from unified_registry as known
    where known.entity_id = p_entity_id and known.entity_type = p_entity_type
    for update;
    if not found then
        return false;
    end if;
    if v_state = 'deleted' then
        return true;
    end if;

    -- Who may change the state may deregister, nobody else.
    if not update_entity_state(p_entity_id, p_entity_type, 'deleted', null, v_by, p_reason) then
        return false;
    end if;
    insert into registration_audit (entity_id, entity_type, action, action_by, details)
    values (
        p_entity_id, p_entity_type, 'deregistered', v_by,
        jsonb_strip_nulls(jsonb_build_object('state_before', v_state, 'reason', p_reason))
    );
    return true;
end;
$$;

comment on function deregister_entity(text, text, text, text) is
'Sets the state deleted, once with an audit line; the row and its history stay. False for an unknown entity, and for '
'one that was registered with more right.';

create function ingest_communications(p_batch jsonb) returns jsonb
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_count integer;
    v_stored integer := 0;
    v_id text;
    v_ids uuid[] := '{}';
    v_rejected jsonb := '[]';
    v_element record;
begin
    if p_batch is null or jsonb_typeof(p_batch) <> 'array' then
        raise exception 'p_batch must be a JSON array of rows' using errcode = 'invalid_parameter_value';
    end if;
    v_count := jsonb_array_length(p_batch);
    if v_count > telemetry_setting('ingest_max_rows') or pg_column_size(p_batch) > telemetry_setting('ingest_max_bytes') then
        raise exception 'a batch of % rows and % bytes is too large', v_count, pg_column_size(p_batch)
            using
                errcode = 'program_limit_exceeded',
                hint = 'send it in parts, or raise ingest_max_rows and ingest_max_bytes in telemetry_settings';
    end if;

    begin
        v_stored := store_communications(p_batch);
        if v_stored = v_count then
            return jsonb_build_object('stored', v_stored, 'duplicate', 0, 'rejected', v_rejected);
        elsif v_stored = 0 then
            return jsonb_build_object('stored', 0, 'duplicate', v_count, 'rejected', v_rejected, 'stored_ids', v_rejected);
        end if;
        -- Only a part was new: taken back, and again below, where each row says for itself whether it was.
        raise exception 'partly duplicate' using errcode = 'ELF01';
    exception
        when sqlstate 'ELF01' or data_exception or integrity_constraint_violation or program_limit_exceeded then
            v_stored := 0;
    end;

    -- One by one, so that only what is bad is refused.
    for v_element in
        select listed.value, listed.place - 1 as index
        from jsonb_array_elements(p_batch) with ordinality as listed (value, place)
    loop
        begin
            v_id := coalesce(
                v_element.value ->> 'id',
                right(v_element.value ->> 'trace_id', 16) || (v_element.value ->> 'span_id'),
                gen_random_uuid()::text
            );
            if store_communications(jsonb_build_array(v_element.value || jsonb_build_object('id', v_id))) = 1 then
                v_stored := v_stored + 1;
                v_ids := v_ids || v_id::uuid;
            end if;
        exception
            when data_exception or integrity_constraint_violation or program_limit_exceeded then
                v_rejected := v_rejected || jsonb_build_object('index', v_element.index, 'reason', left(sqlerrm, 300));
        end;
    end loop;
    return jsonb_build_object(
        'stored', v_stored,
        'duplicate', v_count - v_stored - jsonb_array_length(v_rejected),
        'rejected', v_rejected,
        'stored_ids', to_jsonb(v_ids)
    );
end;
$$;

comment on function ingest_communications(jsonb) is
'Stores one batch as ingest_communication_telemetry does, and answers besides with "stored_ids", the ids of the new rows, '
'when not all of the batch was new: what an exporter needs to count activity once.';

create or replace function ingest_communication_telemetry(p_batch jsonb) returns jsonb
language sql
security definer
set search_path = public, pg_temp
as $$
    select ingest_communications(p_batch) - 'stored_ids';
$$;

comment on function ingest_communication_telemetry(jsonb) is
'Stores one batch: an array of objects keyed by column name. A bad row is refused alone, a row already there is a '
'duplicate. Returns {"stored": n, "duplicate": n, "rejected": [{"index": i, "reason": "…"}]}.';
