-- What an entity says of itself by its resource is not overwritten by what others see of it, such as its Agent Card.
alter table unified_registry add column declared text[] not null default '{}';

comment on column unified_registry.declared is
'Names of the columns that the entity told of itself through telemetry; what others see of it fills only the rest.';

-- It answers with one more column; nobody is granted it.
-- squawk-ignore ban-drop-function
drop function parse_observed_entities(jsonb);

create function parse_observed_entities(p_entities jsonb) returns table (
    entity_id text,
    entity_type text,
    entity_name text,
    endpoint_url text,
    namespace text,
    deployment_type text,
    version text,
    parent_entity_id text,
    capabilities text[],
    metadata jsonb,
    observed boolean,
    declared text[],
    calls bigint,
    errors bigint,
    last_activity timestamptz
)
language sql
stable
set search_path = public, pg_temp
as $$
    select distinct on (seen.entity_type, seen.entity_id)
        seen.entity_id,
        seen.entity_type,
        left(seen.entity_name, 500) as entity_name,
        seen.endpoint_url,
        seen.namespace,
        seen.deployment_type,
        seen.version,
        seen.parent_entity_id,
        seen.capabilities,
        seen.metadata,
        coalesce(seen.observed, true) as observed,
        seen.declared,
        (sum(greatest(seen.calls, 0)) over same_entity)::bigint as calls,
        (sum(greatest(seen.errors, 0)) over same_entity)::bigint as errors,
        -- A clock ahead of ours must not make an entity look alive tomorrow.
        max(case when seen.last_activity < now() then seen.last_activity when seen.last_activity >= now() then now() end)
            over same_entity as last_activity
    from (
        -- The rows of a call bound their ids alike, so both keep the same name.
        select
            left(given.entity_id, 255) as entity_id,
            given.entity_type,
            given.entity_name,
            left(given.endpoint_url, 2000) as endpoint_url,
            left(given.namespace, 255) as namespace,
            left(given.deployment_type, 255) as deployment_type,
            left(given.version, 255) as version,
            left(given.parent_entity_id, 255) as parent_entity_id,
            case
                when given.capabilities is not null then array(
                    select left(listed.capability, 255)
                    from unnest(given.capabilities) with ordinality as listed (capability, place)
                    order by listed.place
                    limit 100
                )
            end as capabilities,
            case when pg_column_size(given.metadata) <= allowed.bytes then given.metadata end as metadata,
            given.observed,
            array(
                select distinct listed.name
                from unnest(given.declared) as listed (name)
                where listed.name in (
                        'capabilities', 'deployment_type', 'endpoint_url', 'entity_name', 'namespace', 'parent_entity_id',
                        'version'
                    )
                order by listed.name
            ) as declared,
            given.calls,
            given.errors,
            given.last_activity
        from jsonb_to_recordset(p_entities) as given (
            entity_id text,
            entity_type text,
            entity_name text,
            endpoint_url text,
            namespace text,
            deployment_type text,
            version text,
            parent_entity_id text,
            capabilities text[],
            metadata jsonb,
            observed boolean,
            declared text[],
            calls bigint,
            errors bigint,
            last_activity timestamptz
        )
        cross join (select telemetry_setting('entity_max_bytes') as bytes) as allowed
    ) as seen
    where seen.entity_id <> '' and registry_entity_type(seen.entity_type) = seen.entity_type
    window same_entity as (partition by seen.entity_type, seen.entity_id)
    order by
        seen.entity_type asc, seen.entity_id asc, coalesce(seen.observed, true) desc, cardinality(seen.declared) desc
$$;

comment on function parse_observed_entities(jsonb) is
'One line for each usable entity of a batch, sorted by type and id; counts of the same entity are added up.';

do $$
declare
    v_role text;
begin
    foreach v_role in array array(
        select quote_ident(role.rolname)
        from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    ) || 'public'::text loop
        execute format('revoke all on function parse_observed_entities(jsonb) from %s', v_role);
    end loop;
end;
$$;

create or replace function record_observed_entities(p_entities jsonb) returns integer
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_touched integer;
    v_observed jsonb;
    v_most constant double precision := telemetry_setting('entity_max_bytes');
    v_claim text;
    v_subject text;
begin
    if jsonb_array_length(p_entities) > telemetry_setting('observed_max_entities')
        or pg_column_size(p_entities) > telemetry_setting('ingest_max_bytes') then
        raise exception 'a batch of % entities and % bytes is too large',
            jsonb_array_length(p_entities), pg_column_size(p_entities)
            using
                errcode = 'program_limit_exceeded',
                hint = 'send it in parts, or raise observed_max_entities and ingest_max_bytes in telemetry_settings';
    end if;
    select caller.p_claim, caller.p_subject into v_claim, v_subject from caller_claim() as caller;

    -- Most of a batch only adds activity to who is known: that needs none of what describes an entity.
    select coalesce(jsonb_agg(element.value), '[]') into v_observed
    from jsonb_array_elements(p_entities) as element (value)
    where coalesce((element.value ->> 'observed')::boolean, true);

    -- Every step goes in the same order, so that two writers never wait for each other in a circle.
    with created as (
        insert into unified_registry (
            entity_id, entity_type, entity_name, registered_by, registration_source, current_state, claimed_as
        )
        select
            seen.entity_id, seen.entity_type, coalesce(seen.entity_name, seen.entity_id),
            'telemetry', 'span', 'active', 'telemetry'
        from parse_observed_entities(v_observed) as seen
        where not exists (
                select from unified_registry as known
                where known.entity_id = seen.entity_id and known.entity_type = seen.entity_type
            )
        order by seen.entity_type, seen.entity_id
        on conflict (entity_id, entity_type) do nothing
        returning entity_id, entity_type
    )

    insert into registration_audit (entity_id, entity_type, action, action_by)
    select created.entity_id, created.entity_type, 'registered', 'telemetry'
    from created;

    perform
    from unified_registry as known
    inner join (
        select distinct left(given.entity_id, 255) as entity_id, given.entity_type
        from jsonb_to_recordset(p_entities) as given (entity_id text, entity_type text)
    ) as seen using (entity_id, entity_type)
    order by entity_type, entity_id
    for update of known;

    update unified_registry as known
    set
        activity_count = known.activity_count + seen.calls,
        error_count = known.error_count + seen.errors,
        last_activity = greatest(known.last_activity, seen.last_activity)
    from (
        select
            left(given.entity_id, 255) as entity_id,
            given.entity_type,
            coalesce(sum(greatest(given.calls, 0)), 0)::bigint as calls,
            coalesce(sum(greatest(given.errors, 0)), 0)::bigint as errors,
            -- A clock ahead of ours must not make an entity look alive tomorrow.
            max(
                case when given.last_activity < now() then given.last_activity when given.last_activity >= now() then now() end
            ) as last_activity
        from jsonb_to_recordset(p_entities) as given (
            entity_id text, entity_type text, calls bigint, errors bigint, last_activity timestamptz
        )
        group by 1, 2
    ) as seen
    where known.entity_id = seen.entity_id and known.entity_type = seen.entity_type;
    get diagnostics v_touched = row_count;
    if v_observed = '[]' then
        return v_touched;
    end if;

    with seen as (
        select
            known.id,
            known.claimed_as = 'telemetry' as describes,
            -- Its own word, which only its own later word changes.
            array(
                select own.name from unnest(known.declared) as own (name) where own.name <> all(observation.declared)
            ) as kept,
            -- A gap is filled by who might have filled it by registering: an endpoint is where calls are sent.
            claim_allows(v_claim, v_subject, known.claimed_as, known.claim_subject) as completes,
            observation.declared,
            observation.entity_name,
            observation.endpoint_url,
            observation.namespace,
            observation.deployment_type,
            observation.version,
            observation.parent_entity_id,
            coalesce(observation.capabilities, '{}') as capabilities,
            coalesce(observation.metadata, '{}') as metadata
        from parse_observed_entities(v_observed) as observation
        inner join unified_registry as known using (entity_id, entity_type)
    ),

    merged as (
        select
            known.id,
            case
                when seen.describes and 'entity_name' <> all(seen.kept) then coalesce(seen.entity_name, known.entity_name)
                else known.entity_name
            end as entity_name,
            telemetry_says(
                seen.describes and 'endpoint_url' <> all(seen.kept), seen.completes, known.endpoint_url, seen.endpoint_url
            ) as endpoint_url,
            telemetry_says(
                seen.describes and 'namespace' <> all(seen.kept), seen.completes, known.namespace, seen.namespace
            ) as namespace,
            telemetry_says(
                seen.describes and 'deployment_type' <> all(seen.kept), seen.completes, known.deployment_type, seen.deployment_type
            ) as deployment_type,
            telemetry_says(
                seen.describes and 'version' <> all(seen.kept), seen.completes, known.version, seen.version
            ) as version,
            telemetry_says(
                seen.describes and 'parent_entity_id' <> all(seen.kept), seen.completes, known.parent_entity_id, seen.parent_entity_id
            ) as parent_entity_id,
            case
                when seen.capabilities = '{}' or not seen.completes then known.capabilities
                when seen.describes and 'capabilities' <> all(seen.kept) then seen.capabilities
                when known.capabilities = '{}' then seen.capabilities
                else known.capabilities
            end as capabilities,
            case
                when pg_column_size(known.metadata || seen.metadata) > v_most then known.metadata
                when seen.describes then known.metadata || seen.metadata
                when seen.completes then seen.metadata || known.metadata
                else known.metadata
            end as metadata,
            case when seen.describes then seen.kept || seen.declared else known.declared end as declared
        from unified_registry as known
        inner join seen on known.id = seen.id
    )

    update unified_registry as known
    set
        entity_name = merged.entity_name,
        endpoint_url = merged.endpoint_url,
        namespace = merged.namespace,
        deployment_type = merged.deployment_type,
        version = merged.version,
        parent_entity_id = merged.parent_entity_id,
        capabilities = merged.capabilities,
        metadata = merged.metadata,
        declared = merged.declared,
        last_updated = case
            when (
                known.entity_name, known.endpoint_url, known.namespace, known.deployment_type, known.version,
                known.parent_entity_id, known.capabilities, known.metadata
            ) is distinct from (
                merged.entity_name, merged.endpoint_url, merged.namespace, merged.deployment_type, merged.version,
                merged.parent_entity_id, merged.capabilities, merged.metadata
            ) then now()
            else known.last_updated
        end
    from merged
    where known.id = merged.id;
    return v_touched;
end;
$$;

comment on function record_observed_entities(jsonb) is
'Adds what one batch of spans tells: activity of known entities, entities observed for the first time. '
'An array of objects: entity_id, entity_type, entity_name, endpoint_url, namespace, deployment_type, version, '
'parent_entity_id, capabilities, metadata, observed, declared, calls, errors, last_activity; declared names those '
'that the entity says of itself. Returns how many entities it touched.';
