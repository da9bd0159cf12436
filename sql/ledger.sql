-- The runner's own book of what was applied. Runs before every migration and changes nothing the second time.
create table if not exists elf_schema_migrations (
    name text primary key,
    sha256 text not null,
    applied_at timestamptz not null default now(),
    applied_by text not null default current_user
);

alter table elf_schema_migrations enable row level security;
revoke all on table elf_schema_migrations from public;

comment on table elf_schema_migrations is
'Migrations of elf-automations applied to this database; written by elf-telemetry setup and nobody else.';
comment on column elf_schema_migrations.name is 'File name of the migration without .sql.';
comment on column elf_schema_migrations.sha256 is 'SHA-256 of the file as applied; a file changed later is refused.';
comment on column elf_schema_migrations.applied_at is 'When the migration was applied.';
comment on column elf_schema_migrations.applied_by is 'Database role that applied it.';
comment on index elf_schema_migrations_pkey is 'One line for each migration.';
