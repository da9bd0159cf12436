-- Registering and changing state by hand. SECURITY DEFINER: clients may call these and touch no table.
create function register_entity(
    p_entity_id text,
    p_entity_type text,
    p_entity_name text,
    p_registered_by text,
    p_metadata jsonb default '{}',
    p_capabilities text[] default null,
    p_endpoint_url text default null,
    p_parent_entity_id text default null,
    p_display_name text default null,
    p_registration_source text default null,
    p_namespace text default null,
    p_deployment_type text default null,
    p_tags text[] default null,
    p_version text default null,
    p_department text default null
) returns uuid
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_id uuid;
    v_by constant text := coalesce(nullif(p_registered_by, ''), 'manual');
    v_given constant jsonb := jsonb_strip_nulls(jsonb_build_object(
        'entity_name', p_entity_name, 'capabilities', p_capabilities, 'endpoint_url', p_endpoint_url,
        'parent_entity_id', p_parent_entity_id, 'display_name', p_display_name,
        'registration_source', p_registration_source, 'namespace', p_namespace,
        'deployment_type', p_deployment_type, 'tags', p_tags, 'version', p_version, 'department', p_department
    ));
begin
    insert into unified_registry (
        entity_id, entity_type, entity_name, registered_by, metadata, capabilities, endpoint_url,
        parent_entity_id, display_name, registration_source, namespace, deployment_type, tags, version, department
    ) values (
        p_entity_id, p_entity_type, coalesce(nullif(p_entity_name, ''), p_entity_id), v_by,
        coalesce(p_metadata, '{}'), coalesce(p_capabilities, '{}'), p_endpoint_url,
        p_parent_entity_id, p_display_name, p_registration_source, p_namespace, p_deployment_type,
        coalesce(p_tags, '{}'), p_version, p_department
    )
    on conflict (entity_id, entity_type) do nothing
    returning id into v_id;

    if v_id is not null then
        insert into registration_audit (entity_id, entity_type, action, action_by, details)
        values (p_entity_id, p_entity_type, 'registered', v_by, v_given);
        return v_id;
    end if;

    -- Whoever is known by more than telemetry keeps its description against telemetry.
    update unified_registry as known
    set
        entity_name = coalesce(nullif(p_entity_name, ''), known.entity_name),
        registered_by = v_by,
        metadata = known.metadata || coalesce(p_metadata, '{}'),
        capabilities = coalesce(p_capabilities, known.capabilities),
        endpoint_url = coalesce(p_endpoint_url, known.endpoint_url),
        parent_entity_id = coalesce(p_parent_entity_id, known.parent_entity_id),
        display_name = coalesce(p_display_name, known.display_name),
        registration_source = coalesce(p_registration_source, known.registration_source),
        namespace = coalesce(p_namespace, known.namespace),
        deployment_type = coalesce(p_deployment_type, known.deployment_type),
        tags = coalesce(p_tags, known.tags),
        version = coalesce(p_version, known.version),
        department = coalesce(p_department, known.department),
        last_updated = now()
    where known.entity_id = p_entity_id
        and known.entity_type = p_entity_type
        and (v_by <> 'telemetry' or known.registered_by = 'telemetry')
    returning known.id into v_id;

    if v_id is not null then
        insert into registration_audit (entity_id, entity_type, action, action_by, details)
        values (p_entity_id, p_entity_type, 'updated', v_by, v_given);
        return v_id;
    end if;

    select known.id into v_id
    from unified_registry as known
    where known.entity_id = p_entity_id and known.entity_type = p_entity_type;
    return v_id;
end;
$$;

comment on function register_entity(
    text, text, text, text, jsonb, text[], text, text, text, text, text, text, text[], text, text
) is 'Registers an entity or re-describes a known one; arguments left out keep what is known. Returns unified_registry.id.';

create function update_entity_state(
    p_entity_id text,
    p_entity_type text,
    p_new_state text,
    p_health_status text default null,
    p_updated_by text default 'system',
    p_reason text default null
) returns boolean
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_known unified_registry%rowtype;
    v_state text;
    v_health text;
begin
    select known.* into v_known
    from unified_registry as known
    where known.entity_id = p_entity_id and known.entity_type = p_entity_type
    for update;
    if not found then
        return false;
    end if;

    v_state := coalesce(nullif(p_new_state, ''), v_known.current_state);
    v_health := coalesce(p_health_status, v_known.health_status);
    update unified_registry as known
    set
        current_state = v_state,
        state_updated_at = case when v_state = known.current_state then known.state_updated_at else now() end,
        health_status = v_health,
        health_since = case when v_health = known.health_status then known.health_since else now() end,
        last_health_check = case when p_health_status is null then known.last_health_check else now() end,
        last_updated = now()
    where known.id = v_known.id;

    if v_state <> v_known.current_state or v_health <> v_known.health_status then
        insert into registry_state_transitions (
            entity_id, entity_type, from_state, to_state, from_health, health_status, transitioned_by, transition_reason
        ) values (
            p_entity_id, p_entity_type, v_known.current_state, v_state, v_known.health_status, v_health,
            coalesce(p_updated_by, 'system'), p_reason
        );
    end if;
    return true;
end;
$$;

comment on function update_entity_state(text, text, text, text, text, text) is
'Sets state, and health when given; false for an unknown entity. Writes a transition only when something changed.';

create function record_entity_activity(p_entity_id text, p_entity_type text, p_is_error boolean default false)
returns boolean
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    update unified_registry as known
    set
        activity_count = known.activity_count + 1,
        error_count = known.error_count + case when p_is_error then 1 else 0 end,
        last_activity = greatest(known.last_activity, now())
    where known.entity_id = p_entity_id and known.entity_type = p_entity_type;
    return found;
end;
$$;

comment on function record_entity_activity(text, text, boolean) is
'Adds one call, failed or not, to an entity; false for an unknown one.';
