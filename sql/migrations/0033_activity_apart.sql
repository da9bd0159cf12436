-- The registry's share in every batch: activity is added in one plain update; what describes an entity is weighed only for
-- those few that the batch describes.
alter table unified_registry set (fillfactor = 70);

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
            -- A gap is filled by who might have filled it by registering: an endpoint is where calls are sent.
            claim_allows(v_claim, v_subject, known.claimed_as, known.claim_subject) as completes,
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
            end as metadata
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
