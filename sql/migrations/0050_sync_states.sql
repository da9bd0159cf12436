-- How far what is polled has been read: one row a source, written by elf-telemetry n8n sync after each page it stored.
create table telemetry_sync (
    source text not null,
    state jsonb not null,
    revision bigint not null default 1,
    updated_at timestamptz not null default now(),
    constraint telemetry_sync_pkey primary key (source),
    constraint telemetry_sync_source_usable check (length(source) between 1 and 500),
    constraint telemetry_sync_state_object check (jsonb_typeof(state) = 'object')
);

alter table telemetry_sync enable row level security;

comment on table telemetry_sync is
'How far sources that are polled have been read; delete a row, and its source is read anew, which stores nothing twice.';
comment on column telemetry_sync.source is 'What is polled: n8n: and the name of the instance.';
comment on column telemetry_sync.state is 'Where the reader goes on; its own words, it may change with the package.';
comment on column telemetry_sync.revision is 'Counts the writes, so that of two readers of one source the second finds out.';
comment on column telemetry_sync.updated_at is 'When the reader last came further.';
comment on index telemetry_sync_pkey is 'One state a source.';

do $$
declare
    v_clients constant text[] := array(
        select quote_ident(role.rolname)
        from pg_catalog.pg_roles as role
        where role.rolname in ('anon', 'authenticated', 'service_role')
    );
    v_role text;
begin
    foreach v_role in array v_clients || 'public'::text loop
        execute format('revoke all on table telemetry_sync from %s', v_role);
        continue when v_role in ('public', 'anon');
        execute format('grant select on table telemetry_sync to %s', v_role);
    end loop;
    execute format(
        'create policy elf_read on telemetry_sync for select to %s using (true)',
        case when 'authenticated' = any(v_clients) then 'authenticated' else 'public' end
    );
    comment on policy elf_read on telemetry_sync is 'Who is granted the table reads all of it.';
    if 'service_role' = any(v_clients) then
        grant insert, update, delete on table telemetry_sync to service_role;
        create policy elf_service on telemetry_sync to service_role using (true) with check (true);
        comment on policy elf_service on telemetry_sync is 'The server side does what its grants allow.';
    end if;
end;
$$;
