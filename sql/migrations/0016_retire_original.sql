-- Lets the original tables go, once nothing is lost by it: what others built on them (views, materialized views, foreign
-- keys) moves to the new tables first. What cannot move stays as it is, with the original table, and is named in a warning.
do $$
declare
    v_original constant text[] := array[
        'communication_telemetry', 'unified_registry', 'registry_state_transitions', 'registration_audit',
        'communication_metrics_realtime', 'communication_patterns', 'system_health_overview', 'top_communication_pairs',
        'system_entity_state', 'entity_hierarchy'
    ];
    v_renamed constant text := '\yoriginal_(' || array_to_string(v_original, '|') || ')\y';
    v_aside oid[];
    v_views oid[];
    v_remake text[] := '{}';
    v_statement text;
    v_each record;
    v_reason text;
    v_missing bigint;
begin
    v_aside := array(
        select to_regclass('public.original_' || original.name)::oid
        from unnest(v_original) as original (name)
        where to_regclass('public.original_' || original.name) is not null
    );
    if v_aside = '{}' then
        return;
    end if;

    -- Nothing may be added to the originals from here on, as through a view.
    for v_each in
        select original.oid::regclass as name
        from pg_catalog.pg_class as original
        where original.oid = any(v_aside) and original.relkind in ('r', 'p')
    loop
        execute format('lock table %s in access exclusive mode', v_each.name);
    end loop;

    -- Others' views, each after those it reads.
    v_views := array(
        with recursive readers as (
            select unnest(v_aside) as oid, 0 as depth
            union
            select rule.ev_class, readers.depth + 1
            from readers
            inner join pg_catalog.pg_depend as link
                on link.refclassid = 'pg_catalog.pg_class'::regclass and link.refobjid = readers.oid
                and link.classid = 'pg_catalog.pg_rewrite'::regclass
            inner join pg_catalog.pg_rewrite as rule on link.objid = rule.oid and rule.ev_class <> readers.oid
        )

        select readers.oid
        from readers
        where readers.oid <> all(v_aside)
        group by readers.oid
        order by max(readers.depth), readers.oid
    );
    begin
        for v_each in
            select
                view.oid,
                format('%I.%I', schema.nspname, view.relname) as name,
                case view.relkind when 'm' then 'materialized view' else 'view' end as kind,
                view.relkind,
                pg_catalog.pg_get_userbyid(view.relowner) as owner,
                coalesce(' with (' || array_to_string(view.reloptions, ', ') || ')', '') as options,
                view.relacl,
                view.relispopulated,
                pg_catalog.pg_get_viewdef(view.oid) as definition
            from unnest(v_views) with ordinality as listed (oid, place)
            inner join pg_catalog.pg_class as view on listed.oid = view.oid
            inner join pg_catalog.pg_namespace as schema on view.relnamespace = schema.oid
            order by listed.place
        loop
            if exists (select from pg_catalog.pg_trigger as fired where fired.tgrelid = v_each.oid)
                or exists (select from pg_catalog.pg_attrdef as preset where preset.adrelid = v_each.oid)
                or exists (
                    select from pg_catalog.pg_attribute as part
                    where part.attrelid = v_each.oid and part.attacl is not null
                )
                or (select count(*) from pg_catalog.pg_rewrite as rule where rule.ev_class = v_each.oid) > 1
            then
                raise exception '% has triggers, rules, defaults or column privileges', v_each.name;
            end if;
            v_remake := v_remake || format(
                'create %s %s%s as %s%s', v_each.kind, v_each.name, v_each.options,
                rtrim(regexp_replace(v_each.definition, v_renamed, '\1', 'g'), ';'),
                case when v_each.relispopulated then '' else ' with no data' end
            ) || array(
                select pg_catalog.pg_get_indexdef(index.indexrelid)
                from pg_catalog.pg_index as index
                where index.indrelid = v_each.oid
            ) || array(
                select format(
                    'comment on %s is %L',
                    case said.objsubid
                        when 0 then format('%s %s', v_each.kind, v_each.name)
                        else format('column %s.%I', v_each.name, part.attname)
                    end,
                    said.description
                )
                from pg_catalog.pg_description as said
                left join pg_catalog.pg_attribute as part on part.attrelid = said.objoid and part.attnum = said.objsubid
                where said.objoid = v_each.oid and said.classoid = 'pg_catalog.pg_class'::regclass
            ) || array(
                select format(
                    'grant %s on %s to %s%s', entry.privilege_type, v_each.name,
                    case entry.grantee when 0 then 'public' else quote_ident(pg_catalog.pg_get_userbyid(entry.grantee)) end,
                    case when entry.is_grantable then ' with grant option' else '' end
                )
                from pg_catalog.aclexplode(v_each.relacl) as entry
            ) || array(
                select format('alter %s %s owner to %I', v_each.kind, v_each.name, v_each.owner)
                where v_each.owner <> current_user
            );
        end loop;
        for v_each in
            select format('drop %s %s', case view.relkind when 'm' then 'materialized view' else 'view' end, view.oid::regclass)
                as statement
            from unnest(v_views) with ordinality as listed (oid, place)
            inner join pg_catalog.pg_class as view on listed.oid = view.oid
            order by listed.place desc
        loop
            execute v_each.statement;
        end loop;
        foreach v_statement in array v_remake loop
            execute v_statement;
        end loop;
    exception
        when others then
            raise warning
                'views on the original tables cannot move to the new ones (%): they stay and read the original rows', sqlerrm;
    end;
    for v_each in
        select format('drop %s %s', case view.relkind when 'm' then 'materialized view' else 'view' end, view.oid::regclass)
            as statement
        from pg_catalog.pg_class as view
        where view.oid = any(v_aside) and view.relkind in ('v', 'm')
        order by view.oid desc
    loop
        begin
            execute v_each.statement;
        exception
            when dependent_objects_still_exist then null;  -- a view named above reads it
        end;
    end loop;

    for v_each in
        select original.oid, original.relname as name, substr(original.relname, length('original_') + 1) as heir
        from pg_catalog.pg_class as original
        where original.oid = any(v_aside) and original.relkind in ('r', 'p')
        order by original.oid
    loop
        -- Not carried over, because it may not suit the new table: to be made again by who wants it.
        for v_statement in
            select 'trigger: ' || pg_catalog.pg_get_triggerdef(fired.oid, true)
            from pg_catalog.pg_trigger as fired
            where fired.tgrelid = v_each.oid and not fired.tgisinternal
            union all
            select format('policy %I for %s to %s', policy.policyname, policy.cmd, array_to_string(policy.roles, ', '))
            from pg_catalog.pg_policies as policy
            where policy.schemaname = 'public' and policy.tablename = v_each.name
            union all
            select format('publication %I', published.pubname)
            from pg_catalog.pg_publication_rel as link
            inner join pg_catalog.pg_publication as published on link.prpubid = published.oid
            where link.prrelid = v_each.oid
            union all
            select format('grant to %I', role.rolname)
            from pg_catalog.pg_class as original
            cross join lateral pg_catalog.aclexplode(original.relacl) as entry
            inner join pg_catalog.pg_roles as role on entry.grantee = role.oid
            where original.oid = v_each.oid
                and role.oid <> original.relowner
                and role.rolname not in ('anon', 'authenticated', 'service_role')
            group by role.rolname
        loop
            raise warning 'not carried over to the new %: %', v_each.heir, regexp_replace(v_statement, v_renamed, '\1', 'g');
        end loop;
        execute format(
            'select count(*) from public.%I as old where not exists (select from public.%I as new where %s = old.id)',
            v_each.name, v_each.heir,
            case v_each.heir
                when 'registry_state_transitions' then '(new.metadata -> ''elf_original'' ->> ''id'')::uuid'
                when 'registration_audit' then '(new.details -> ''elf_original'' ->> ''id'')::uuid'
                else 'new.id'
            end
        ) into v_missing;
        if v_missing > 0 then
            raise warning
                'public.% stays: % of its rows are not in %, added or removed while setup ran', v_each.name, v_missing, v_each.heir;
            perform close_table_to_public(v_each.oid::regclass);
            continue;
        end if;
        begin
            v_remake := array(
                select format(
                    'alter table %s drop constraint %I, add constraint %I %s', link.conrelid::regclass, link.conname, link.conname,
                    regexp_replace(pg_catalog.pg_get_constraintdef(link.oid), v_renamed, '\1', 'g')
                )
                from pg_catalog.pg_constraint as link
                where link.confrelid = v_each.oid and link.conrelid <> all(v_aside) and link.conparentid = 0
            );
            foreach v_statement in array v_remake loop
                execute v_statement;
            end loop;
            execute format('drop table public.%I', v_each.name);
        exception
            when others then
                get stacked diagnostics v_reason = pg_exception_detail;
                raise warning
                    'public.% stays, and all of it is in % too: %', v_each.name, v_each.heir,
                    sqlerrm || coalesce(' (' || replace(nullif(v_reason, ''), chr(10), '; ') || ')', '');
                perform close_table_to_public(v_each.oid::regclass);
                execute format(
                    'comment on table public.%I is %L', v_each.name,
                    format('The original %s, kept because something depends on it; drop it when nothing does.', v_each.heir)
                );
        end;
    end loop;
end;
$$;
