-- What 0001 set aside: every call of the original table goes into the new one, with its id and its times; a value the new
-- table cannot hold stays in metadata under elf_original. Does nothing in other databases.
do $$
declare
    v_known constant text[] := array(
        select attribute.attname::text
        from pg_catalog.pg_attribute as attribute
        where attribute.attrelid = 'public.communication_telemetry'::regclass and attribute.attnum > 0
    );
    v_extra constant boolean := exists (
        select from pg_catalog.pg_attribute as attribute
        where attribute.attrelid = to_regclass('public.original_communication_telemetry')
            and attribute.attnum > 0 and not attribute.attisdropped and attribute.attname <> all(v_known)
    );
    v_oldest constant timestamptz := (
        (now() at time zone 'UTC')::date - telemetry_setting('retention_days')::integer
    )::timestamp at time zone 'UTC';
    v_part record;
    v_held bigint;
    v_there bigint;
    v_adopted bigint;
begin
    if to_regclass('public.original_communication_telemetry') is null then
        return;
    end if;
    lock table original_communication_telemetry in share row exclusive mode;
    lock table communication_telemetry in share row exclusive mode;
    lock table communication_telemetry_default in access exclusive mode;

    -- Days that retention keeps get their partition. Older rows get one together that retention does not touch: what the
    -- original system kept is dropped by a person, not by the first upkeep. Partitions are filled before they are attached,
    -- because an index built at once is several times faster than one that grows.
    create table adopting_telemetry (like communication_telemetry including defaults including constraints)
    partition by range (timestamp);
    create table adopting_telemetry_rest partition of adopting_telemetry default;
    for v_part in
        select
            case when days.day is null then 'communication_telemetry_adopted' else telemetry_partition_name(days.day) end
                as name,
            coalesce(days.day::timestamp at time zone 'UTC', '-infinity') as since,
            coalesce((days.day + 1)::timestamp at time zone 'UTC', v_oldest) as until,
            coalesce(
                format('Communications of %s (UTC).', days.day),
                format('Communications from before %s, adopted from the original system. ', (v_oldest at time zone 'UTC')::date)
                || 'Retention leaves them; elf-telemetry archive --drop lets them go.'
            ) as description
        from (
            select distinct case when taken.at >= v_oldest then (taken.at at time zone 'UTC')::date end as day
            from original_communication_telemetry as old
            cross join lateral (
                select case
                    when isfinite(old.timestamp) then old.timestamp
                    when isfinite(old.created_at) then old.created_at
                    else now()
                end as at
            ) as taken
            where taken.at <= now()
        ) as days
    loop
        continue when to_regclass('public.' || v_part.name) is not null;
        execute format(
            'create table %I partition of adopting_telemetry for values from (%L) to (%L)',
            v_part.name, v_part.since, v_part.until
        );
        execute format(
            'with moved as ('
            '    delete from communication_telemetry_default where timestamp >= $1 and timestamp < $2 returning *'
            ') insert into %I select * from moved', v_part.name
        ) using v_part.since, v_part.until;
        perform close_table_to_public(format('public.%I', v_part.name)::regclass);
        execute format('comment on table %I is %L', v_part.name, v_part.description);
    end loop;

    insert into adopting_telemetry (
        id, timestamp, protocol, source_id, source_type, target_id, target_type, operation, duration_ms, status,
        tool_name, tool_category, task_description, capabilities_required, message_type,
        workflow_id, workflow_name, workflow_node, payload_size_bytes, tokens_used, estimated_cost,
        error_message, error_code, correlation_id, parent_correlation_id, metadata, observed_by, counted, created_at
    )
    select
        old.id, taken.at, old.protocol, old.source_id, old.source_type, old.target_id, old.target_type, old.operation,
        case when old.duration_ms >= 0 then old.duration_ms end, old.status,
        old.tool_name, old.tool_category, old.task_description, old.capabilities_required, old.message_type,
        old.workflow_id::text, old.workflow_name, old.workflow_node,
        case when old.payload_size_bytes >= 0 then old.payload_size_bytes end,
        case when old.tokens_used >= 0 then old.tokens_used end,
        case when old.estimated_cost >= 0 then old.estimated_cost end,
        old.error_message, old.error_code, old.correlation_id, old.parent_correlation_id,
        case when jsonb_typeof(old.metadata) = 'object' then old.metadata else '{}' end
        || case when kept.marks = '{}' then '{}' else jsonb_build_object('elf_original', kept.marks) end,
        'manual', true, case when isfinite(old.created_at) then old.created_at else taken.at end
    from original_communication_telemetry as old
    cross join lateral (
        select
            case
                when isfinite(old.timestamp) then old.timestamp
                when isfinite(old.created_at) then old.created_at
                else now()
            end as at
    ) as taken
    cross join lateral (
        select
            case when isfinite(old.timestamp) then '{}' else jsonb_build_object('timestamp', old.timestamp) end
            || case when isfinite(old.created_at) then '{}' else jsonb_build_object('created_at', old.created_at) end
            || case when old.duration_ms < 0 then jsonb_build_object('duration_ms', old.duration_ms) else '{}' end
            || case
                when old.payload_size_bytes < 0 then jsonb_build_object('payload_size_bytes', old.payload_size_bytes)
                else '{}'
            end
            || case when old.tokens_used < 0 then jsonb_build_object('tokens_used', old.tokens_used) else '{}' end
            || case when old.estimated_cost < 0 then jsonb_build_object('estimated_cost', old.estimated_cost) else '{}' end
            || case when jsonb_typeof(old.metadata) <> 'object' then jsonb_build_object('metadata', old.metadata) else '{}' end
            || case when v_extra then to_jsonb(old) - v_known else '{}' end
            as marks
    ) as kept;
    get diagnostics v_adopted = row_count;

    for v_part in
        select part.relname as name, pg_catalog.pg_get_expr(part.relpartbound, part.oid) as bound
        from pg_catalog.pg_inherits as link
        inner join pg_catalog.pg_class as part on link.inhrelid = part.oid
        where link.inhparent = 'public.adopting_telemetry'::regclass and part.relname <> 'adopting_telemetry_rest'
        order by part.relname
    loop
        execute format('alter table adopting_telemetry detach partition %I', v_part.name);
        execute format('alter table communication_telemetry attach partition %I %s', v_part.name, v_part.bound);
    end loop;
    insert into communication_telemetry select * from adopting_telemetry_rest;
    drop table adopting_telemetry;

    select count(*) into v_held from original_communication_telemetry;
    select count(*) into v_there
    from communication_telemetry as new
    inner join original_communication_telemetry as old on new.id = old.id;
    if v_held <> v_adopted or v_held <> v_there then
        raise exception 'communication_telemetry has % of % original rows: nothing was changed', v_there, v_held;
    end if;
    if to_regclass('public.communication_telemetry_adopted') is not null then
        raise warning
            '% calls are older than retention_days; they are kept in communication_telemetry_adopted until '
            'you let them go with elf-telemetry archive --older-than DAYS --to DIR --drop',
            (select count(*) from communication_telemetry as call where call.timestamp < v_oldest);
    end if;
end;
$$;
