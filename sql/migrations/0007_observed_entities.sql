-- What the registry learns from telemetry: entities seen, their activity, and its correction.
create function registry_entity_type(p_row_type text) returns text
language sql
immutable
set search_path = public, pg_temp
return case p_row_type
    when 'mcp' then 'mcp_server'
    when 'workflow' then 'n8n_workflow'
    when 'team' then 'team'
    when 'service' then 'service'
    when 'mcp_client' then 'mcp_client'
    when 'mcp_server' then 'mcp_server'
    when 'n8n_workflow' then 'n8n_workflow'
end;

comment on function registry_entity_type(text) is
'Registry type of one end of a call (mcp is mcp_server, workflow is n8n_workflow); null for what is never registered.';

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
            given.endpoint_url,
            given.namespace,
            given.deployment_type,
            given.version,
            left(given.parent_entity_id, 255) as parent_entity_id,
            given.capabilities,
            given.metadata,
            given.observed,
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
            calls bigint,
            errors bigint,
            last_activity timestamptz
        )
    ) as seen
    where seen.entity_id <> '' and registry_entity_type(seen.entity_type) = seen.entity_type
    window same_entity as (partition by seen.entity_type, seen.entity_id)
    order by seen.entity_type asc, seen.entity_id asc, coalesce(seen.observed, true) desc
$$;

comment on function parse_observed_entities(jsonb) is
'One line for each usable entity of a batch, sorted by type and id; counts of the same entity are added up.';

create function record_observed_entities(p_entities jsonb) returns integer
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_touched integer;
begin
    -- Every step goes in the same order, so that two writers never wait for each other in a circle.
    with created as (
        insert into unified_registry (entity_id, entity_type, entity_name, registered_by, registration_source, current_state)
        select seen.entity_id, seen.entity_type, coalesce(seen.entity_name, seen.entity_id), 'telemetry', 'span', 'active'
        from parse_observed_entities(p_entities) as seen
        where seen.observed
            and not exists (
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
    inner join parse_observed_entities(p_entities) as seen using (entity_id, entity_type)
    order by entity_type, entity_id
    for update of known;

    with seen as (
        select
            known.id,
            observation.calls,
            observation.errors,
            observation.last_activity,
            observation.observed and known.registered_by = 'telemetry' as describes,
            observation.observed as completes,
            observation.entity_name,
            observation.endpoint_url,
            observation.namespace,
            observation.deployment_type,
            observation.version,
            observation.parent_entity_id,
            coalesce(observation.capabilities, '{}') as capabilities,
            coalesce(observation.metadata, '{}') as metadata
        from parse_observed_entities(p_entities) as observation
        inner join unified_registry as known using (entity_id, entity_type)
    ),

    merged as (
        select
            known.id,
            case when seen.describes then coalesce(seen.entity_name, known.entity_name) else known.entity_name end
                as entity_name,
            telemetry_says(seen.describes, seen.completes, known.endpoint_url, seen.endpoint_url) as endpoint_url,
            telemetry_says(seen.describes, seen.completes, known.namespace, seen.namespace) as namespace,
            telemetry_says(seen.describes, seen.completes, known.deployment_type, seen.deployment_type)
                as deployment_type,
            telemetry_says(seen.describes, seen.completes, known.version, seen.version) as version,
            telemetry_says(seen.describes, seen.completes, known.parent_entity_id, seen.parent_entity_id)
                as parent_entity_id,
            case
                when seen.capabilities = '{}' or not seen.completes then known.capabilities
                when seen.describes or known.capabilities = '{}' then seen.capabilities
                else known.capabilities
            end as capabilities,
            case
                when seen.describes then known.metadata || seen.metadata
                when seen.completes then seen.metadata || known.metadata
                else known.metadata
            end as metadata,
            known.activity_count + coalesce(seen.calls, 0) as activity_count,
            known.error_count + coalesce(seen.errors, 0) as error_count,
            greatest(known.last_activity, seen.last_activity) as last_activity
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
        activity_count = merged.activity_count,
        error_count = merged.error_count,
        last_activity = merged.last_activity,
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
    get diagnostics v_touched = row_count;
    return v_touched;
end;
$$;

create function telemetry_says(p_describes boolean, p_completes boolean, p_known text, p_seen text) returns text
language sql
immutable
set search_path = public, pg_temp
return case
    when p_describes then coalesce(p_seen, p_known)
    when p_completes then coalesce(p_known, p_seen)
    else p_known
end;

comment on function telemetry_says(boolean, boolean, text, text) is
'What a span may change: everything where telemetry registered (describes), gaps elsewhere (completes).';

comment on function record_observed_entities(jsonb) is
'Adds what one batch of spans tells: activity of known entities, entities observed for the first time. '
'An array of objects: entity_id, entity_type, entity_name, endpoint_url, namespace, deployment_type, version, '
'parent_entity_id, capabilities, metadata, observed, calls, errors, last_activity. Returns how many entities it touched.';

create function correct_entity_activity(p_corrections jsonb) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform
    from unified_registry as known
    where (known.entity_id, known.entity_type) in (
        select given.entity_id, given.entity_type
        from jsonb_to_recordset(p_corrections) as given (entity_id text, entity_type text)
    )
    order by known.entity_type, known.entity_id
    for update;

    update unified_registry as known
    set
        activity_count = greatest(known.activity_count + correction.calls, 0),
        error_count = greatest(known.error_count + correction.errors, 0)
    from (
        select given.entity_id, given.entity_type, sum(given.calls)::bigint as calls, sum(given.errors)::bigint as errors
        from jsonb_to_recordset(p_corrections) as given (entity_id text, entity_type text, calls bigint, errors bigint)
        group by given.entity_id, given.entity_type
    ) as correction
    where known.entity_id = correction.entity_id and known.entity_type = correction.entity_type;
end;
$$;

comment on function correct_entity_activity(jsonb) is
'Adds (possibly negative) calls and errors to known entities, in the order all writers lock them; never below zero.';
