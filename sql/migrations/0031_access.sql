-- Who may read, write and call what; last, so that it sees all there is. Grants are made and taken only where they differ.
-- anon (a publishable key) writes through functions and reads nothing; authenticated reads; service_role may do both.
do $$
declare
    v_clients constant text[] := array(
        select role.rolname::text
        from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    );
    -- Where nobody is authenticated (plain Postgres), grants alone decide, as everywhere there.
    v_readers constant text := case when 'authenticated' = any(v_clients) then 'authenticated' else 'public' end;
    v_write constant text[] := array[
        'deregister_entity', 'ingest_communication_telemetry', 'ingest_communications', 'record_a2a_telemetry',
        'record_entity_activity', 'record_entity_heartbeat', 'record_mcp_telemetry', 'record_observed_entities', 'record_telemetry',
        'register_entity', 'settle_communications', 'update_entity_state'
    ];
    v_read constant text[] := array[
        'active_alerts', 'alert_measurements', 'check_registration_gaps', 'registry_entity_type', 'telemetry_setting'
    ];
    v_maintain constant text[] := array[
        'ensure_telemetry_partitions', 'evaluate_alerts', 'fold_telemetry_rollups', 'maintain_telemetry',
        'maintain_telemetry_if_due', 'maintain_telemetry_rollups', 'rebuild_telemetry_rollups', 'refresh_telemetry_metrics'
    ];
    v_internal constant text[] := array[
        'caller_claim', 'claim_allows', 'claim_rank', 'close_table_to_public', 'correct_entity_activity',
        'drop_old_telemetry_partitions', 'note_refused_claim', 'parse_observed_entities', 'refuse_oversized_entity',
        'repair_telemetry_extremes', 'roll_up_added', 'roll_up_changed', 'roll_up_removed', 'roll_up_truncated',
        'schedule_telemetry_maintenance', 'store_call', 'store_communications', 'telemetry_partition_name', 'telemetry_says'
    ];
    v_readable constant text[] := array[
        'alert_history', 'alert_rules', 'communication_metrics_realtime', 'communication_patterns',
        'communication_telemetry', 'entity_hierarchy', 'registration_audit', 'registry_state_transitions',
        'system_entity_state', 'system_health_overview', 'telemetry_ends', 'telemetry_minute_latency', 'telemetry_minutes',
        'telemetry_pair_days', 'telemetry_pair_hours', 'telemetry_pair_minutes', 'telemetry_pairs',
        'telemetry_rollup_pending', 'telemetry_settings', 'telemetry_upkeep', 'top_communication_pairs', 'unified_registry'
    ];
    v_writable constant text[] := array[
        'alert_rules', 'communication_telemetry', 'telemetry_settings', 'unified_registry'
    ];
    v_closed constant text[] := array['elf_schema_migrations'];
    v_sequences constant text[] := array['alert_change_numbers'];
    v_ours oid[];
    v_each record;
begin
    -- With their partitions, and the sequences that belong to their columns.
    v_ours := array(
        select relation.oid
        from pg_catalog.pg_class as relation
        where relation.relnamespace = 'public'::regnamespace
            and relation.relname = any(v_readable || v_closed)
            and relation.relkind in ('r', 'p', 'v')
    );
    v_ours := v_ours || array(
        select part.relid::oid
        from unnest(v_ours) as whole (oid)
        cross join lateral pg_catalog.pg_partition_tree(whole.oid) as part
        where part.relid::oid <> whole.oid
    ) || array(
        select distinct needed.objid
        from pg_catalog.pg_depend as needed
        inner join pg_catalog.pg_class as sequence on needed.objid = sequence.oid and sequence.relkind = 'S'
        where needed.classid = 'pg_catalog.pg_class'::regclass
            and needed.refclassid = 'pg_catalog.pg_class'::regclass
            and needed.refobjid = any(v_ours)
    ) || array(
        select sequence.oid
        from pg_catalog.pg_class as sequence
        where sequence.relnamespace = 'public'::regnamespace
            and sequence.relname = any(v_sequences)
            and sequence.relkind = 'S'
    );

    for v_each in
        select
            relation.oid::regclass as object,
            case relation.relkind when 'S' then 'sequence' else 'table' end as kind,
            case entry.grantee when 0 then 'public' else quote_ident(pg_catalog.pg_get_userbyid(entry.grantee)) end as grantee,
            string_agg(entry.privilege_type, ', ') as privileges
        from pg_catalog.pg_class as relation
        cross join lateral pg_catalog.aclexplode(relation.relacl) as entry
        cross join lateral (
            select case entry.grantee when 0 then 'public' else pg_catalog.pg_get_userbyid(entry.grantee)::text end as name
        ) as grantee
        where relation.oid = any(v_ours)
            and grantee.name = any(v_clients || 'public'::text)
            and not (
                grantee.name in ('authenticated', 'service_role')
                and entry.privilege_type = 'SELECT'
                and relation.relname = any(v_readable)
            )
            and not (
                grantee.name = 'service_role'
                and entry.privilege_type in ('INSERT', 'UPDATE', 'DELETE')
                and relation.relname = any(v_writable)
            )
        group by relation.oid, relation.relkind, entry.grantee
    loop
        execute format('revoke %s on %s %s from %s', v_each.privileges, v_each.kind, v_each.object, v_each.grantee);
    end loop;

    for v_each in
        select relation.oid::regclass as object, role.name as grantee, wanted.privilege
        from pg_catalog.pg_class as relation
        cross join unnest(v_clients) as role (name)
        cross join unnest(array['select', 'insert', 'update', 'delete']) as wanted (privilege)
        where relation.oid = any(v_ours)
            and role.name in ('authenticated', 'service_role')
            and relation.relname = any(v_readable)
            and (
                wanted.privilege = 'select'
                or (role.name = 'service_role' and relation.relname = any(v_writable))
            )
            and not pg_catalog.has_table_privilege(role.name, relation.oid, wanted.privilege)
    loop
        execute format('grant %s on table %s to %I', v_each.privilege, v_each.object, v_each.grantee);
    end loop;

    for v_each in
        select
            procedure.oid::regprocedure as object,
            role.name as grantee,
            case when role.name = 'public' then null else quote_ident(role.name) end as quoted,
            case
                when role.name = 'public' or procedure.proname = any(v_internal) then false
                when procedure.proname = any(v_write) then true
                when procedure.proname = any(v_read) then role.name in ('authenticated', 'service_role')
                else role.name = 'service_role'
            end as wanted,
            exists (
                select from pg_catalog.aclexplode(
                    coalesce(procedure.proacl, pg_catalog.acldefault('f', procedure.proowner))
                ) as entry
                where entry.privilege_type = 'EXECUTE'
                    and case entry.grantee when 0 then 'public' else pg_catalog.pg_get_userbyid(entry.grantee)::text end
                    = role.name
            ) as granted
        from pg_catalog.pg_proc as procedure
        cross join unnest(v_clients || 'public'::text) as role (name)
        where procedure.pronamespace = 'public'::regnamespace
            and procedure.proname = any(v_write || v_read || v_maintain || v_internal)
        order by procedure.oid
    loop
        if v_each.granted and not v_each.wanted then
            execute format('revoke execute on function %s from %s', v_each.object, coalesce(v_each.quoted, 'public'));
        elsif v_each.wanted and not v_each.granted then
            execute format('grant execute on function %s to %s', v_each.object, v_each.quoted);
        end if;
    end loop;

    for v_each in
        select role.name as grantee
        from unnest(v_clients) as role (name)
        where not pg_catalog.has_schema_privilege(role.name, 'public', 'usage')
    loop
        execute format('grant usage on schema public to %I', v_each.grantee);
    end loop;

    -- A partition is read through its table, whose policies hold for it; by itself it is closed.
    for v_each in
        select relation.oid::regclass as object, relation.relname as name, relation.relispartition as is_part
        from pg_catalog.pg_class as relation
        where relation.oid = any(v_ours) and relation.relkind in ('r', 'p')
        order by relation.oid
    loop
        execute format('alter table %s enable row level security', v_each.object);
        continue when v_each.is_part or not v_each.name = any(v_readable);
        execute format('create policy elf_read on %s for select to %s using (true)', v_each.object, v_readers);
        execute format('comment on policy elf_read on %s is %L', v_each.object, 'Who is granted the table reads all of it.');
        continue when not 'service_role' = any(v_clients);
        -- On Supabase it bypasses policies; elsewhere a role of this name may not.
        execute format('create policy elf_service on %s to service_role using (true) with check (true)', v_each.object);
        execute format('comment on policy elf_service on %s is %L', v_each.object, 'The server side does what its grants allow.');
    end loop;
end;
$$;
