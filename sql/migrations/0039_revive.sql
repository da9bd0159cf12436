-- Who registers an entity that was deregistered brings it back: registered again, with a transition and a line of audit.
-- squawk-ignore ban-drop-constraint
alter table registration_audit drop constraint registration_audit_action_known;
alter table registration_audit add constraint registration_audit_action_known
check (action in ('registered', 'updated', 'refused', 'deregistered', 'revived')) not valid;

comment on table registration_audit is
'Who registered, re-described, deregistered or revived which entity; outlives the entity.';
comment on column registration_audit.action is
'registered, exactly once for each entity; updated; refused, at most once an hour for each right; deregistered; or '
'revived, when a deregistered one was registered again.';

create or replace function register_entity(
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
    v_known unified_registry%rowtype;
    v_revived boolean;
    v_by constant text := coalesce(nullif(p_registered_by, ''), 'manual');
    v_claim text;
    v_subject text;
    v_metadata jsonb := coalesce(p_metadata, '{}');
    v_given constant jsonb := jsonb_strip_nulls(jsonb_build_object(
        'entity_name', p_entity_name, 'capabilities', p_capabilities, 'endpoint_url', p_endpoint_url,
        'parent_entity_id', p_parent_entity_id, 'display_name', p_display_name,
        'registration_source', p_registration_source, 'namespace', p_namespace,
        'deployment_type', p_deployment_type, 'tags', p_tags, 'version', p_version, 'department', p_department
    ));
begin
    perform refuse_oversized_entity(p_entity_id, octet_length(v_by) + pg_column_size(v_given) + pg_column_size(v_metadata));
    select caller.p_claim, caller.p_subject into v_claim, v_subject from caller_claim() as caller;
    if v_by = 'telemetry' then
        v_claim := 'telemetry';
        v_subject := null;
    end if;

    loop
        insert into unified_registry (
            entity_id, entity_type, entity_name, registered_by, metadata, capabilities, endpoint_url,
            parent_entity_id, display_name, registration_source, namespace, deployment_type, tags, version, department,
            claimed_as, claim_subject
        ) values (
            p_entity_id, p_entity_type, coalesce(nullif(p_entity_name, ''), p_entity_id), v_by,
            v_metadata, coalesce(p_capabilities, '{}'), p_endpoint_url,
            p_parent_entity_id, p_display_name, p_registration_source, p_namespace, p_deployment_type,
            coalesce(p_tags, '{}'), p_version, p_department, v_claim, v_subject
        )
        on conflict (entity_id, entity_type) do nothing
        returning id into v_id;

        if v_id is not null then
            insert into registration_audit (entity_id, entity_type, action, action_by, details)
            values (p_entity_id, p_entity_type, 'registered', v_by, v_given);
            return v_id;
        end if;

        select known.* into v_known
        from unified_registry as known
        where known.entity_id = p_entity_id and known.entity_type = p_entity_type
        for update;
        -- Deleted from the table between the two: it is new again.
        exit when found;
    end loop;
    if not claim_allows(v_claim, v_subject, v_known.claimed_as, v_known.claim_subject) then
        -- A sighting is no attempt at anything.
        if v_claim <> 'telemetry' then
            perform note_refused_claim(p_entity_id, p_entity_type, v_by, v_claim, v_subject, 'register_entity');
        end if;
        return v_known.id;
    end if;

    -- A sighting is no registration: what was deregistered stays so, however late its spans are.
    v_revived := v_known.current_state = 'deleted' and v_claim <> 'telemetry';
    v_metadata := v_known.metadata || v_metadata;
    perform refuse_oversized_entity(p_entity_id, pg_column_size(v_metadata));
    update unified_registry as known
    set
        entity_name = coalesce(nullif(p_entity_name, ''), known.entity_name),
        registered_by = v_by,
        metadata = v_metadata,
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
        claimed_as = v_claim,
        claim_subject = v_subject,
        current_state = case when v_revived then 'registered' else known.current_state end,
        state_updated_at = case when v_revived then now() else known.state_updated_at end,
        -- What was known of its health before says nothing of it now.
        health_status = case when v_revived then 'unknown' else known.health_status end,
        health_since = case when v_revived and known.health_status <> 'unknown' then now() else known.health_since end,
        last_updated = now()
    where known.id = v_known.id;
    if v_revived then
        insert into registry_state_transitions (
            entity_id, entity_type, from_state, to_state, from_health, health_status, transitioned_by, transition_reason
        ) values (
            p_entity_id, p_entity_type, v_known.current_state, 'registered', v_known.health_status, 'unknown',
            left(v_by, 255), 'registered again'
        );
    end if;
    insert into registration_audit (entity_id, entity_type, action, action_by, details)
    values (p_entity_id, p_entity_type, case when v_revived then 'revived' else 'updated' end, v_by, v_given);
    return v_known.id;
end;
$$;

comment on function register_entity(
    text, text, text, text, jsonb, text[], text, text, text, text, text, text, text[], text, text
) is 'Registers an entity, re-describes a known one or revives one that was deregistered; arguments left out keep what is '
'known, and one that was registered with more right, or by another authenticated user, stays as it is. Returns '
'unified_registry.id.';
