-- How much one call of a client may write, so that a leaked publishable key cannot fill the database with one request;
-- and what a sighting may change of an entity, which is no more than its caller might by registering it.
insert into telemetry_settings (name, value, unit, description) values
('entity_max_bytes', 65536, 'bytes', 'register_entity() refuses a larger description; telemetry leaves out such metadata'),
('observed_max_entities', 10000, 'entities', 'record_observed_entities() refuses a larger batch');

-- Far above what the package itself sends (255, 500 and 4000 characters). Not validated: rows from before stay as they are.
alter table communication_telemetry add constraint communication_telemetry_texts_bounded check (
    octet_length(source_id) <= 1024
    and octet_length(source_type) <= 1024
    and octet_length(target_id) <= 1024
    and octet_length(target_type) <= 1024
    and octet_length(operation) <= 1024
    and octet_length(tool_name) <= 2048
    and octet_length(tool_category) <= 2048
    and octet_length(message_type) <= 2048
    and octet_length(workflow_id) <= 2048
    and octet_length(workflow_name) <= 2048
    and octet_length(workflow_node) <= 2048
    and octet_length(error_code) <= 2048
    and octet_length(correlation_id) <= 2048
    and octet_length(parent_correlation_id) <= 2048
    and octet_length(trace_id) <= 64
    and octet_length(span_id) <= 64
    and octet_length(parent_span_id) <= 64
    and octet_length(service_name) <= 2048
    and octet_length(service_instance_id) <= 2048
    and octet_length(task_description) <= 262144
    and octet_length(error_message) <= 262144
    and pg_column_size(capabilities_required) <= 262144
    and pg_column_size(metadata) <= 4194304
) not valid;

create function refuse_oversized_entity(p_entity_id text, p_bytes integer) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    if p_bytes > telemetry_setting('entity_max_bytes') then
        raise exception 'the description of % is too large: % bytes, at most %',
            left(p_entity_id, 100), p_bytes, telemetry_setting('entity_max_bytes')
            using
                errcode = 'program_limit_exceeded',
                hint = 'keep large things elsewhere, or raise entity_max_bytes in telemetry_settings';
    end if;
end;
$$;

comment on function refuse_oversized_entity(text, integer) is
'Refuses the description of an entity that is larger than the setting entity_max_bytes.';

create or replace function parse_observed_entities(p_entities jsonb) returns table (
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
        cross join (select telemetry_setting('entity_max_bytes') as bytes) as allowed
    ) as seen
    where seen.entity_id <> '' and registry_entity_type(seen.entity_type) = seen.entity_type
    window same_entity as (partition by seen.entity_type, seen.entity_id)
    order by seen.entity_type asc, seen.entity_id asc, coalesce(seen.observed, true) desc
$$;

create or replace function record_observed_entities(p_entities jsonb) returns integer
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_touched integer;
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

    -- Every step goes in the same order, so that two writers never wait for each other in a circle.
    with created as (
        insert into unified_registry (
            entity_id, entity_type, entity_name, registered_by, registration_source, current_state, claimed_as
        )
        select
            seen.entity_id, seen.entity_type, coalesce(seen.entity_name, seen.entity_id),
            'telemetry', 'span', 'active', 'telemetry'
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
            observation.observed and known.claimed_as = 'telemetry' as describes,
            -- A gap is filled by who might have filled it by registering: an endpoint is where calls are sent.
            observation.observed and claim_allows(v_claim, v_subject, known.claimed_as, known.claim_subject)
                as completes,
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
                when pg_column_size(known.metadata || seen.metadata) > v_most then known.metadata
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
