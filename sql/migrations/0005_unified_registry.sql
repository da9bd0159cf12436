-- Who exists: teams, MCP servers and clients, n8n workflows, services; their state, and how it came about.
create table unified_registry (
    id uuid not null default gen_random_uuid(),
    entity_id text not null,
    entity_type text not null,
    entity_name text not null,
    display_name text,
    registered_by text not null default 'manual',
    registration_source text,
    current_state text not null default 'registered',
    state_updated_at timestamptz not null default now(),
    health_status text not null default 'unknown',
    last_health_check timestamptz,
    endpoint_url text,
    namespace text,
    deployment_type text,
    capabilities text[] not null default '{}',
    tags text[] not null default '{}',
    metadata jsonb not null default '{}',
    version text,
    last_updated timestamptz not null default now(),
    parent_entity_id text,
    department text,
    last_activity timestamptz,
    activity_count bigint not null default 0,
    error_count bigint not null default 0,
    health_since timestamptz not null default now(),
    registered_at timestamptz not null default now(),
    constraint unified_registry_pkey primary key (id),
    constraint unified_registry_entity_key unique (entity_id, entity_type),
    constraint unified_registry_id_usable check (entity_id <> '' and length(entity_id) <= 255),
    constraint unified_registry_type_known
    check (entity_type in ('team', 'mcp_server', 'mcp_client', 'n8n_workflow', 'service')),
    constraint unified_registry_health_known
    check (health_status in ('healthy', 'degraded', 'unhealthy', 'unknown')),
    constraint unified_registry_state_usable check (current_state <> '')
);

alter table unified_registry enable row level security;

comment on table unified_registry is 'Every team, MCP server, MCP client, n8n workflow and service, with its state.';
comment on column unified_registry.id is 'Key of the row; register_entity() returns it.';
comment on column unified_registry.entity_id is 'Name used in telemetry; unique within its type.';
comment on column unified_registry.entity_type is 'team, mcp_server, mcp_client, n8n_workflow or service.';
comment on column unified_registry.entity_name is 'Name for people.';
comment on column unified_registry.display_name is 'Longer name for pages.';
comment on column unified_registry.registered_by is
'Who registered it; telemetry when only spans told of it. Any other registration is stronger than telemetry.';
comment on column unified_registry.registration_source is 'How it was registered: factory, webhook, span and so on.';
comment on column unified_registry.current_state is 'registered, active, inactive, archived, deleted or a state of yours.';
comment on column unified_registry.state_updated_at is 'When current_state last changed.';
comment on column unified_registry.health_status is 'healthy, degraded, unhealthy or unknown.';
comment on column unified_registry.last_health_check is 'When health was last reported.';
comment on column unified_registry.endpoint_url is 'Where it is reached.';
comment on column unified_registry.namespace is 'Kubernetes or service namespace.';
comment on column unified_registry.deployment_type is 'How it is deployed, such as k8s.';
comment on column unified_registry.capabilities is 'What it can do.';
comment on column unified_registry.tags is 'Labels.';
comment on column unified_registry.metadata is 'Everything else.';
comment on column unified_registry.version is 'Version of the deployed software.';
comment on column unified_registry.last_updated is 'When the description or state last changed; activity does not move it.';
comment on column unified_registry.parent_entity_id is 'entity_id of the entity it belongs to.';
comment on column unified_registry.department is 'Department it belongs to.';
comment on column unified_registry.last_activity is 'End of the last counted call it took part in.';
comment on column unified_registry.activity_count is 'Counted calls it took part in.';
comment on column unified_registry.error_count is 'Those that ended in error or timeout.';
comment on column unified_registry.health_since is 'When health_status last changed.';
comment on column unified_registry.registered_at is 'When it was first registered.';
comment on index unified_registry_pkey is 'Key of the row.';
comment on index unified_registry_entity_key is 'One row for each entity; what makes registration race-free.';

create table registry_state_transitions (
    id bigint generated always as identity,
    entity_id text not null,
    entity_type text not null,
    from_state text not null,
    to_state text not null,
    from_health text not null,
    health_status text not null,
    transitioned_by text not null,
    transition_reason text,
    transitioned_at timestamptz not null default now(),
    constraint registry_state_transitions_pkey primary key (id)
);

alter table registry_state_transitions enable row level security;

create index registry_state_transitions_entity on registry_state_transitions (entity_id, entity_type, transitioned_at);

comment on table registry_state_transitions is 'One line for each change of state or health; outlives the entity.';
comment on column registry_state_transitions.id is 'Order of the changes.';
comment on column registry_state_transitions.entity_id is 'Entity that changed.';
comment on column registry_state_transitions.entity_type is 'Its type.';
comment on column registry_state_transitions.from_state is 'State before.';
comment on column registry_state_transitions.to_state is 'State after.';
comment on column registry_state_transitions.from_health is 'Health before.';
comment on column registry_state_transitions.health_status is 'Health after.';
comment on column registry_state_transitions.transitioned_by is 'Who reported the change.';
comment on column registry_state_transitions.transition_reason is 'Why, when given.';
comment on column registry_state_transitions.transitioned_at is 'When.';
comment on index registry_state_transitions_pkey is 'Order of the changes.';
comment on index registry_state_transitions_entity is 'History of one entity.';

create table registration_audit (
    id bigint generated always as identity,
    entity_id text not null,
    entity_type text not null,
    action text not null,
    action_by text not null,
    details jsonb not null default '{}',
    action_at timestamptz not null default now(),
    constraint registration_audit_pkey primary key (id),
    constraint registration_audit_action_known check (action in ('registered', 'updated'))
);

alter table registration_audit enable row level security;

create index registration_audit_entity on registration_audit (entity_id, entity_type, action_at);

comment on table registration_audit is 'Who registered or re-described which entity; outlives the entity.';
comment on column registration_audit.id is 'Order of the lines.';
comment on column registration_audit.entity_id is 'Entity concerned.';
comment on column registration_audit.entity_type is 'Its type.';
comment on column registration_audit.action is 'registered, exactly once for each entity, or updated.';
comment on column registration_audit.action_by is 'Who did it.';
comment on column registration_audit.details is 'What was given.';
comment on column registration_audit.action_at is 'When.';
comment on index registration_audit_pkey is 'Order of the lines.';
comment on index registration_audit_entity is 'History of one entity.';
