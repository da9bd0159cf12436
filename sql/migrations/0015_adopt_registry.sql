-- The entities of the original registry and their history, with their times; a value the new tables cannot hold stays in
-- metadata (details of an audit line) under elf_original. In databases without originals only the three columns are new.
alter table registry_state_transitions add column metadata jsonb not null default '{}';
alter table registration_audit add column success boolean not null default true;
alter table registration_audit add column error_message text;

comment on column registry_state_transitions.metadata is 'Everything else about the change.';
comment on column registration_audit.success is 'False when it was tried in vain.';
comment on column registration_audit.error_message is 'Why in vain.';

-- Entities.
do $$
declare
    v_known constant text[] := array(
        select attribute.attname::text
        from pg_catalog.pg_attribute as attribute
        where attribute.attrelid = 'public.unified_registry'::regclass and attribute.attnum > 0
    );
    v_held bigint;
    v_there bigint;
begin
    if to_regclass('public.original_unified_registry') is null then
        return;
    end if;
    lock table original_unified_registry in share row exclusive mode;
    lock table unified_registry in share row exclusive mode;

    -- Seen by a running exporter since 0005: the same entity, whose calls add to what was known.
    update original_unified_registry as old
    set
        activity_count = coalesce(old.activity_count, 0) + new.activity_count,
        error_count = coalesce(old.error_count, 0) + new.error_count,
        last_activity = greatest(old.last_activity, new.last_activity)
    from unified_registry as new
    where new.entity_id = old.entity_id and new.entity_type = old.entity_type;
    delete from unified_registry as new
    using original_unified_registry as old
    where new.entity_id = old.entity_id and new.entity_type = old.entity_type;

    insert into unified_registry (
        id, entity_id, entity_type, entity_name, display_name, registered_by, registration_source,
        current_state, state_updated_at, health_status, last_health_check, endpoint_url, namespace, deployment_type,
        capabilities, tags, metadata, version, last_updated, parent_entity_id, department,
        last_activity, activity_count, error_count, health_since, registered_at
    )
    select
        old.id, kept.entity_id, old.entity_type, old.entity_name, old.display_name, old.registered_by,
        old.registration_source, coalesce(nullif(old.current_state, ''), 'registered'),
        coalesce(old.state_updated_at, old.registered_at, now()), kept.health, old.last_health_check,
        old.endpoint_url, old.namespace, old.deployment_type, coalesce(old.capabilities, '{}'), coalesce(old.tags, '{}'),
        case when jsonb_typeof(old.metadata) = 'object' then old.metadata else '{}' end
        || case when kept.marks = '{}' then '{}' else jsonb_build_object('elf_original', kept.marks) end,
        old.version, coalesce(old.last_updated, old.state_updated_at, old.registered_at, now()),
        old.parent_entity_id, old.department, old.last_activity, coalesce(old.activity_count, 0), coalesce(old.error_count, 0),
        coalesce(old.state_updated_at, old.registered_at, now()),
        coalesce(old.registered_at, old.last_updated, now())
    from original_unified_registry as old
    cross join lateral (
        select
            coalesce(nullif(old.entity_id, ''), old.id::text) as entity_id,
            case
                when lower(trim(old.health_status)) in ('healthy', 'degraded', 'unhealthy', 'unknown')
                    then lower(trim(old.health_status))
                else 'unknown'
            end as health
    ) as mapped
    cross join lateral (
        select
            mapped.entity_id,
            mapped.health,
            case when old.entity_id = '' then '{"entity_id": ""}'::jsonb else '{}' end
            || case when old.current_state = '' then '{"current_state": ""}'::jsonb else '{}' end
            || case when old.health_status <> mapped.health then jsonb_build_object('health_status', old.health_status) else '{}' end
            || case when jsonb_typeof(old.metadata) <> 'object' then jsonb_build_object('metadata', old.metadata) else '{}' end
            || (to_jsonb(old) - v_known)
            as marks
    ) as kept;

    select count(*) into v_held from original_unified_registry;
    select count(*) into v_there
    from unified_registry as new
    inner join original_unified_registry as old on new.id = old.id;
    if v_held <> v_there then
        raise exception 'unified_registry has % of % original entities: nothing was changed', v_there, v_held;
    end if;
end;
$$;

-- Their history. The new lines are numbered in the order of their times; the original id stays under elf_original.
do $$
declare
    v_known constant text[] := array[
        'entity_id', 'entity_type', 'from_state', 'to_state', 'health_status', 'transition_reason', 'transitioned_by',
        'transitioned_at', 'metadata'
    ];
    v_held bigint;
    v_adopted bigint;
begin
    if to_regclass('public.original_registry_state_transitions') is null then
        return;
    end if;
    lock table original_registry_state_transitions in share row exclusive mode;

    insert into registry_state_transitions (
        entity_id, entity_type, from_state, to_state, from_health, health_status,
        transitioned_by, transition_reason, transitioned_at, metadata
    )
    select
        coalesce(old.entity_id, ''), coalesce(old.entity_type, ''),
        coalesce(old.from_state, lag(old.to_state) over history, 'unknown'), old.to_state,
        coalesce(lag(mapped.health) over history, 'unknown'), mapped.health,
        old.transitioned_by, old.transition_reason, coalesce(old.transitioned_at, now()),
        case when jsonb_typeof(old.metadata) = 'object' then old.metadata else '{}' end
        || jsonb_build_object(
            'elf_original',
            to_jsonb(old) - v_known
            || case when old.from_state is null then '{"from_state": null}'::jsonb else '{}' end
            || case when old.transitioned_at is null then '{"transitioned_at": null}'::jsonb else '{}' end
            || case when old.health_status <> mapped.health then jsonb_build_object('health_status', old.health_status) else '{}' end
            || case when jsonb_typeof(old.metadata) <> 'object' then jsonb_build_object('metadata', old.metadata) else '{}' end
        )
    from original_registry_state_transitions as old
    cross join lateral (
        select case
            when lower(trim(old.health_status)) in ('healthy', 'degraded', 'unhealthy', 'unknown')
                then lower(trim(old.health_status))
            else 'unknown'
        end as health
    ) as mapped
    window history as (partition by old.entity_id, old.entity_type order by old.transitioned_at, old.id)
    order by old.transitioned_at, old.id;
    get diagnostics v_adopted = row_count;

    select count(*) into v_held from original_registry_state_transitions;
    if v_held <> v_adopted then
        raise exception 'registry_state_transitions got % of % original lines: nothing was changed', v_adopted, v_held;
    end if;
end;
$$;

-- Audit lines know 'registered' and 'updated' at this point; another word is an update whose word stays in details.
do $$
declare
    v_known constant text[] := array[
        'entity_id', 'entity_type', 'action', 'action_by', 'action_at', 'details', 'success', 'error_message'
    ];
    v_held bigint;
    v_adopted bigint;
begin
    if to_regclass('public.original_registration_audit') is null then
        return;
    end if;
    lock table original_registration_audit in share row exclusive mode;

    insert into registration_audit (
        entity_id, entity_type, action, action_by, details, action_at, success, error_message
    )
    select
        coalesce(old.entity_id, ''), coalesce(old.entity_type, ''), mapped.action, old.action_by,
        case when jsonb_typeof(old.details) = 'object' then old.details else '{}' end
        || jsonb_build_object(
            'elf_original',
            to_jsonb(old) - v_known
            || case when old.action <> mapped.action then jsonb_build_object('action', old.action) else '{}' end
            || case when old.action_at is null then '{"action_at": null}'::jsonb else '{}' end
            || case when old.success is null then '{"success": null}'::jsonb else '{}' end
            || case when jsonb_typeof(old.details) <> 'object' then jsonb_build_object('details', old.details) else '{}' end
        ),
        coalesce(old.action_at, now()), coalesce(old.success, true), old.error_message
    from original_registration_audit as old
    cross join lateral (
        select case
            when lower(old.action) in ('register', 'registered') then 'registered'
            else 'updated'
        end as action
    ) as mapped
    order by old.action_at, old.id;
    get diagnostics v_adopted = row_count;

    select count(*) into v_held from original_registration_audit;
    if v_held <> v_adopted then
        raise exception 'registration_audit got % of % original lines: nothing was changed', v_adopted, v_held;
    end if;
end;
$$;
