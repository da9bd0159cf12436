-- Nobody gets anything by default; the Supabase roles, where they exist, get what they need and no more.
-- Until there are row policies, only service_role and the owner read rows.
do $$
declare
    v_role name;
    v_function regprocedure;
    v_table regclass;
    v_ours constant text[] := array[
        'active_alerts', 'check_registration_gaps', 'close_table_to_public', 'correct_entity_activity',
        'drop_old_telemetry_partitions', 'ensure_telemetry_partitions', 'ingest_communication_telemetry', 'maintain_telemetry',
        'parse_observed_entities', 'record_a2a_telemetry', 'record_entity_activity', 'record_mcp_telemetry',
        'record_observed_entities', 'record_telemetry', 'refresh_telemetry_metrics', 'register_entity',
        'registry_entity_type', 'settle_communications', 'store_call', 'store_communications',
        'telemetry_partition_name', 'telemetry_says', 'telemetry_setting', 'update_entity_state'
    ];
    v_write constant text[] := array[
        'ingest_communication_telemetry', 'record_a2a_telemetry', 'record_entity_activity', 'record_mcp_telemetry',
        'record_observed_entities', 'record_telemetry', 'register_entity', 'settle_communications', 'update_entity_state'
    ];
    v_read constant text[] := array[
        'active_alerts', 'check_registration_gaps', 'registry_entity_type', 'telemetry_setting'
    ];
    v_maintain constant text[] := array[
        'ensure_telemetry_partitions', 'maintain_telemetry', 'refresh_telemetry_metrics'
    ];
    v_tables constant text[] := array[
        'communication_telemetry', 'communication_telemetry_default', 'elf_schema_migrations', 'registration_audit',
        'registry_state_transitions', 'telemetry_settings', 'unified_registry',
        'communication_metrics_realtime', 'communication_patterns', 'entity_hierarchy', 'system_entity_state',
        'system_health_overview', 'top_communication_pairs'
    ];
begin
    for v_table in select format('public.%I', listed.name)::regclass from unnest(v_tables) as listed (name) loop
        execute format('revoke all on %s from public', v_table);
    end loop;
    for v_function in
        select procedure.oid::regprocedure
        from pg_catalog.pg_proc as procedure
        where procedure.pronamespace = 'public'::regnamespace and procedure.proname = any(v_ours)
    loop
        execute format('revoke execute on function %s from public', v_function);
    end loop;

    for v_role in
        select role.rolname from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    loop
        execute format('grant usage on schema public to %I', v_role);
        -- Supabase grants everything to these roles when a table or function is made.
        for v_table in select format('public.%I', listed.name)::regclass from unnest(v_tables) as listed (name) loop
            execute format('revoke all on %s from %I', v_table, v_role);
            if v_role in ('authenticated', 'service_role') and v_table::text <> 'elf_schema_migrations' then
                execute format('grant select on %s to %I', v_table, v_role);
            end if;
        end loop;
        for v_function in
            select procedure.oid::regprocedure
            from pg_catalog.pg_proc as procedure
            where procedure.pronamespace = 'public'::regnamespace and procedure.proname = any(v_ours)
        loop
            execute format('revoke execute on function %s from %I', v_function, v_role);
            continue when not exists (
                select from pg_catalog.pg_proc as procedure
                where procedure.oid = v_function
                    and (
                        procedure.proname = any(v_write)
                        or (v_role in ('authenticated', 'service_role') and procedure.proname = any(v_read))
                        or (v_role = 'service_role' and procedure.proname = any(v_maintain))
                    )
            );
            execute format('grant execute on function %s to %I', v_function, v_role);
        end loop;
    end loop;
    if exists (select from pg_catalog.pg_roles as role where role.rolname = 'service_role') then
        grant insert, update, delete on communication_telemetry, unified_registry to service_role;
        grant insert, update on telemetry_settings to service_role;
    end if;
end;
$$;
