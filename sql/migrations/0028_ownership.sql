-- Nobody takes over another's entity by claiming its id with less right. The right comes from the role of the caller,
-- never from what the caller says of itself: owner and service_role, then authenticated, then anon, then a mere sighting.
alter table unified_registry add column claimed_as text not null default 'owner';
alter table unified_registry add column claim_subject text;

comment on column unified_registry.claimed_as is
'With which right it was registered: owner, authenticated, anon, or telemetry when only spans told of it.';
comment on column unified_registry.claim_subject is
'Who of those authenticated: the sub of the JWT, or role:name of a database role; null for the other rights.';

-- With which right older entries were made is not known: they stay open, as they were, until somebody claims them again.
update unified_registry as known
set claimed_as = case when known.registered_by = 'telemetry' then 'telemetry' else 'anon' end
where known.claimed_as = 'owner';

alter table unified_registry add constraint unified_registry_claim_known
check (claimed_as in ('owner', 'authenticated', 'anon', 'telemetry')) not valid;

comment on column registration_audit.action is
'registered, exactly once for each entity; updated; refused, at most once an hour for each right; or deregistered.';

create function claim_rank(p_claim text) returns integer
language sql
immutable
set search_path = public, pg_temp
return case p_claim when 'owner' then 3 when 'authenticated' then 2 when 'anon' then 1 else 0 end;

comment on function claim_rank(text) is 'How much right a claim gives; more wins.';

create function caller_claim(out p_claim text, out p_subject text)
language plpgsql
stable
set search_path = public, pg_temp
as $$
declare
    -- What SET ROLE set, which SECURITY DEFINER leaves in place and no function call can change.
    v_role constant name := coalesce(nullif(current_setting('role'), 'none'), session_user);
    v_owner constant oid := (
        select relation.relowner
        from pg_catalog.pg_class as relation
        where relation.oid = 'public.unified_registry'::regclass
    );
    v_jwt constant jsonb := nullif(current_setting('request.jwt.claims', true), '');
    v_by_role text;
    v_by_jwt text;
begin
    v_by_role := case
        when pg_catalog.pg_has_role(v_role, v_owner, 'usage') then 'owner'
        when exists (
            select from pg_catalog.pg_roles as role
            where role.rolname = 'service_role' and pg_catalog.pg_has_role(v_role, role.oid, 'usage')
        ) then 'owner'
        when v_role = 'anon' then 'anon'
        else 'authenticated'
    end;
    v_by_jwt := case coalesce(v_jwt ->> 'role', v_role)
        when v_role then v_by_role
        when 'service_role' then 'owner'
        when 'anon' then 'anon'
        else 'authenticated'
    end;
    -- Any session may set the claims of a JWT, so they take right away and never give any.
    p_claim := case when claim_rank(v_by_jwt) < claim_rank(v_by_role) then v_by_jwt else v_by_role end;
    if p_claim = 'authenticated' then
        -- A database role by itself has no JWT that anybody checked; who came through SET ROLE, as over HTTPS, has.
        p_subject := case when v_role <> session_user or v_by_role = 'owner' then v_jwt ->> 'sub' end;
        p_subject := coalesce(p_subject, 'role:' || v_role);
    end if;
end;
$$;

comment on function caller_claim() is
'With which right the caller acts: owner, authenticated or anon, and who of those authenticated. From SET ROLE and, where '
'it gives less, request.jwt.claims; a database role of its own counts as authenticated.';

create function claim_allows(p_claim text, p_subject text, p_known_claim text, p_known_subject text) returns boolean
language sql
immutable
set search_path = public, pg_temp
return case
    when p_claim = 'authenticated' and p_known_claim = 'authenticated' then p_subject is not distinct from p_known_subject
    else claim_rank(p_claim) >= claim_rank(p_known_claim)
end;

comment on function claim_allows(text, text, text, text) is
'Whether a claim may change what another one registered: more right, or the same right and the same person.';

create function note_refused_claim(p_entity_id text, p_entity_type text, p_by text, p_claim text, p_subject text, p_what text)
returns void
language sql
set search_path = public, pg_temp
as $$
    insert into registration_audit (entity_id, entity_type, action, action_by, success, error_message, details)
    select
        p_entity_id, p_entity_type, 'refused', left(p_by, 255), false, 'registered with more right, or by somebody else',
        jsonb_strip_nulls(jsonb_build_object('claimed_as', p_claim, 'subject', left(p_subject, 255), 'what', p_what))
    where not exists (
        select from registration_audit as line
        where line.entity_id = p_entity_id
            and line.entity_type = p_entity_type
            and line.action_at > now() - interval '1 hour'
            and line.action = 'refused'
            and line.details ->> 'claimed_as' = p_claim
    )
$$;

comment on function note_refused_claim(text, text, text, text, text, text) is
'Writes to the audit that a claim was refused; at most one line an hour for each entity and right, so that nobody fills it.';

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
    if not claim_allows(v_claim, v_subject, v_known.claimed_as, v_known.claim_subject) then
        -- A sighting is no attempt at anything.
        if v_claim <> 'telemetry' then
            perform note_refused_claim(p_entity_id, p_entity_type, v_by, v_claim, v_subject, 'register_entity');
        end if;
        return v_known.id;
    end if;

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
        last_updated = now()
    where known.id = v_known.id;
    insert into registration_audit (entity_id, entity_type, action, action_by, details)
    values (p_entity_id, p_entity_type, 'updated', v_by, v_given);
    return v_known.id;
end;
$$;

comment on function register_entity(
    text, text, text, text, jsonb, text[], text, text, text, text, text, text, text[], text, text
) is 'Registers an entity or re-describes a known one; arguments left out keep what is known, and one that was registered '
'with more right, or by another authenticated user, stays as it is. Returns unified_registry.id.';

create or replace function update_entity_state(
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
    v_by constant text := left(coalesce(p_updated_by, 'system'), 255);
    v_claim text;
    v_subject text;
    v_state text;
    v_health text;
begin
    if length(p_new_state) > 255 then
        raise exception 'a state has at most 255 characters, not %', length(p_new_state)
            using errcode = 'program_limit_exceeded';
    end if;
    select known.* into v_known
    from unified_registry as known
    where known.entity_id = p_entity_id and known.entity_type = p_entity_type
    for update;
    if not found then
        return false;
    end if;
    select caller.p_claim, caller.p_subject into v_claim, v_subject from caller_claim() as caller;
    if not claim_allows(v_claim, v_subject, v_known.claimed_as, v_known.claim_subject) then
        perform note_refused_claim(p_entity_id, p_entity_type, v_by, v_claim, v_subject, 'update_entity_state');
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
            v_by, left(p_reason, 2000)
        );
    end if;
    return true;
end;
$$;

comment on function update_entity_state(text, text, text, text, text, text) is
'Sets state, and health when given; false for an unknown entity, and for one that was registered with more right. '
'Writes a transition only when something changed.';
