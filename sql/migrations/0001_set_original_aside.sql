-- A database of the guide's original system: its tables and views step aside as original_…, its functions go, so that
-- the new ones overload nothing. No row is touched; 0014 adopts them. Does nothing in any other database.
do $$
declare
    v_shape record;
    v_aside record;
    v_function regprocedure;
    v_blocking text;
begin
    -- Applied late to a database that has this schema already.
    if exists (
        select from elf_schema_migrations as applied where applied.name = '0003_communication_telemetry'
    ) or exists (
        select from pg_catalog.pg_class as relation
        inner join pg_catalog.pg_attribute as ours on relation.oid = ours.attrelid and ours.attname = 'counted'
        where relation.oid = to_regclass('public.communication_telemetry') and relation.relkind = 'p'
    ) then
        return;
    end if;

    for v_shape in
        select
            original.name,
            to_regclass('public.' || original.name) as relation,
            string_agg(required.name, ', ') filter (where present.attname is null) as missing
        from (values
            (
                'communication_telemetry',
                'id timestamp protocol source_id source_type target_id target_type operation duration_ms status '
                'tool_name tool_category task_description capabilities_required message_type workflow_id workflow_name '
                'workflow_node payload_size_bytes error_message error_code correlation_id parent_correlation_id '
                'tokens_used estimated_cost metadata created_at'
            ),
            (
                'unified_registry',
                'id entity_id entity_type entity_name display_name registered_at registered_by registration_source '
                'current_state state_updated_at health_status last_health_check endpoint_url namespace deployment_type '
                'capabilities tags metadata version last_updated parent_entity_id department last_activity '
                'activity_count error_count'
            ),
            (
                'registry_state_transitions',
                'id entity_id entity_type from_state to_state health_status transition_reason transitioned_by '
                'transitioned_at metadata'
            ),
            (
                'registration_audit',
                'id entity_id entity_type action action_by action_at details success error_message'
            )
        ) as original (name, columns)
        cross join lateral string_to_table(original.columns, ' ') as required (name)
        left join pg_catalog.pg_attribute as present
            on present.attrelid = to_regclass('public.' || original.name)
            and present.attname = required.name
            and present.attnum > 0
            and not present.attisdropped
        where to_regclass('public.' || original.name) is not null
        group by original.name
    loop
        if v_shape.missing is not null then
            raise exception
                'public.% is there, but is not the original table (it has no %): rename it, then run setup again',
                v_shape.name, v_shape.missing;
        end if;
        if to_regclass('public.original_' || v_shape.name) is not null then
            raise exception
                'public.original_% is in the way of the original table: rename it, then run setup again', v_shape.name;
        end if;
        -- Names of indexes are shared by the whole schema, and the new tables want some of them.
        for v_aside in
            select index.relname as name, left('original_' || index.relname, 63) as other_name
            from pg_catalog.pg_index as link
            inner join pg_catalog.pg_class as index on link.indexrelid = index.oid
            where link.indrelid = v_shape.relation
        loop
            execute format('alter index public.%I rename to %I', v_aside.name, v_aside.other_name);
        end loop;
        execute format('alter table public.%I rename to %I', v_shape.name, 'original_' || v_shape.name);
    end loop;

    -- What stands on them follows: they find a table by its identity, not by its name.
    for v_aside in
        select view.relname as name, case view.relkind when 'm' then 'materialized view' else 'view' end as kind
        from pg_catalog.pg_class as view
        where view.relnamespace = 'public'::regnamespace
            and view.relkind in ('v', 'm')
            and view.relname in (
                'communication_metrics_realtime', 'communication_patterns', 'system_health_overview',
                'top_communication_pairs', 'system_entity_state', 'entity_hierarchy'
            )
    loop
        execute format('alter %s public.%I rename to %I', v_aside.kind, v_aside.name, 'original_' || v_aside.name);
    end loop;

    for v_function in
        select to_regprocedure('public.' || original.signature)
        from (values
            (
                'record_telemetry(varchar, varchar, varchar, varchar, varchar, varchar, varchar, integer, jsonb)'
            ),
            ('record_a2a_telemetry(varchar, varchar, text, varchar, integer, varchar)'),
            ('record_mcp_telemetry(varchar, varchar, varchar, varchar, integer, integer, varchar)'),
            ('refresh_telemetry_metrics()'),
            ('register_entity(varchar, varchar, varchar, varchar, jsonb, text[], varchar, varchar)'),
            ('update_entity_state(varchar, varchar, varchar, varchar, varchar, text)'),
            ('record_entity_activity(varchar, varchar, boolean)'),
            ('check_registration_gaps()')
        ) as original (signature)
        where to_regprocedure('public.' || original.signature) is not null
    loop
        begin
            execute format('drop function %s', v_function);
        exception
            when dependent_objects_still_exist then
                get stacked diagnostics v_blocking = pg_exception_detail;
                raise exception
                    'the original function % cannot be replaced (%): drop what depends on it, then run setup again',
                    v_function, replace(v_blocking, chr(10), '; ');
        end;
    end loop;
    select string_agg(other.oid::regprocedure::text, ', ' order by other.proname) into v_blocking
    from pg_catalog.pg_proc as other
    where other.pronamespace = 'public'::regnamespace
        and other.proname in (
            'record_telemetry', 'record_a2a_telemetry', 'record_mcp_telemetry', 'refresh_telemetry_metrics',
            'register_entity', 'update_entity_state', 'record_entity_activity', 'check_registration_gaps'
        );
    if v_blocking is not null then
        raise exception
            'functions of a name the new schema needs are in the way: %; drop or rename them, then run setup again',
            v_blocking;
    end if;
end;
$$;
