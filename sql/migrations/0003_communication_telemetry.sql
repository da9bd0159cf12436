-- One row for each observed call over MCP, A2A or n8n; the counted rows are the calls themselves.
create table communication_telemetry (
    id uuid not null default gen_random_uuid(),
    timestamp timestamptz not null default now(),
    protocol text not null,
    source_id text not null,
    source_type text not null,
    target_id text not null,
    target_type text not null,
    operation text not null,
    duration_ms double precision,
    status text not null,
    tool_name text,
    tool_category text,
    task_description text,
    capabilities_required text[],
    message_type text,
    workflow_id text,
    workflow_name text,
    workflow_node text,
    payload_size_bytes bigint,
    tokens_used bigint,
    estimated_cost numeric(12, 6),
    error_message text,
    error_code text,
    correlation_id text,
    parent_correlation_id text,
    metadata jsonb not null default '{}',
    trace_id text,
    span_id text,
    parent_span_id text,
    observed_by text not null default 'manual',
    counted boolean not null default true,
    service_name text,
    service_instance_id text,
    created_at timestamptz not null default now(),
    constraint communication_telemetry_pkey primary key (timestamp, id),
    constraint communication_telemetry_protocol_known check (protocol in ('mcp', 'a2a', 'n8n')),
    constraint communication_telemetry_status_known check (status in ('success', 'error', 'timeout', 'cancelled')),
    constraint communication_telemetry_observer_known
    check (observed_by in ('client', 'server', 'internal', 'manual')),
    constraint communication_telemetry_duration_usable
    check (duration_ms >= 0 and duration_ms < 'infinity'::double precision),
    constraint communication_telemetry_amounts_usable
    check (payload_size_bytes >= 0 and tokens_used >= 0 and estimated_cost >= 0)
) partition by range (timestamp);

alter table communication_telemetry enable row level security;

comment on table communication_telemetry is
'One row for each observed call over MCP, A2A or n8n, partitioned by UTC day. Sum over rows with counted = true.';
comment on column communication_telemetry.id is
'Second half of the trace id followed by the span id, so that a second delivery is no second row.';
comment on column communication_telemetry.timestamp is 'When the call began, in microseconds.';
comment on column communication_telemetry.protocol is 'mcp, a2a or n8n.';
comment on column communication_telemetry.source_id is 'Who called.';
comment on column communication_telemetry.source_type is 'team, workflow, service or mcp_client.';
comment on column communication_telemetry.target_id is 'Who was called.';
comment on column communication_telemetry.target_type is 'mcp, team, external, workflow or service.';
comment on column communication_telemetry.operation is
'What was asked: tool_call, send_task, workflow_execution, workflow_step and so on.';
comment on column communication_telemetry.duration_ms is 'Duration in milliseconds; null when unknown.';
comment on column communication_telemetry.status is 'success, error, timeout or cancelled.';
comment on column communication_telemetry.tool_name is 'MCP tool.';
comment on column communication_telemetry.tool_category is 'Category of the MCP tool as the caller names it.';
comment on column communication_telemetry.task_description is 'A2A task text passed explicitly; redacted and bounded.';
comment on column communication_telemetry.capabilities_required is 'Capabilities the A2A task asks for.';
comment on column communication_telemetry.message_type is 'task_request, task_response or status_update.';
comment on column communication_telemetry.workflow_id is 'n8n workflow id; text, n8n ids are no UUIDs.';
comment on column communication_telemetry.workflow_name is 'n8n workflow name.';
comment on column communication_telemetry.workflow_node is 'n8n node.';
comment on column communication_telemetry.payload_size_bytes is 'Size of the payload in bytes.';
comment on column communication_telemetry.tokens_used is 'Model tokens the call used.';
comment on column communication_telemetry.estimated_cost is 'Estimated cost in US dollars.';
comment on column communication_telemetry.error_message is 'What went wrong; redacted and bounded.';
comment on column communication_telemetry.error_code is 'Error type or code.';
comment on column communication_telemetry.correlation_id is 'Given by the caller, else the trace id.';
comment on column communication_telemetry.parent_correlation_id is 'Given by the caller, else the parent span id.';
comment on column communication_telemetry.metadata is 'Everything else worth keeping; bounded.';
comment on column communication_telemetry.trace_id is 'Trace id, 32 hex digits; null for rows written in SQL.';
comment on column communication_telemetry.span_id is 'Span id, 16 hex digits.';
comment on column communication_telemetry.parent_span_id is 'Span id of the parent, 16 hex digits.';
comment on column communication_telemetry.observed_by is 'Who saw the call: client, server, internal or manual.';
comment on column communication_telemetry.counted is
'True on exactly one row of a call; the other views of the same call are kept for drill-down.';
comment on column communication_telemetry.service_name is 'service.name of the process that emitted the span.';
comment on column communication_telemetry.service_instance_id is 'service.instance.id of that process.';
comment on column communication_telemetry.created_at is 'When the row arrived.';
comment on index communication_telemetry_pkey is 'Time ranges, and the key that makes a second delivery a no-op.';

create index communication_telemetry_source on communication_telemetry (source_id, timestamp);
comment on index communication_telemetry_source is 'Last calls of one caller.';

create index communication_telemetry_target on communication_telemetry (target_id, timestamp);
comment on index communication_telemetry_target is 'Last calls to one target.';

create index communication_telemetry_failed on communication_telemetry (timestamp) where status <> 'success';
comment on index communication_telemetry_failed is 'Last failures; small because most calls succeed.';

create index communication_telemetry_correlation on communication_telemetry using hash (correlation_id);
comment on index communication_telemetry_correlation is 'All rows of one correlation id.';

create table communication_telemetry_default partition of communication_telemetry default;
alter table communication_telemetry_default enable row level security;
comment on table communication_telemetry_default is
'Rows of days without a partition: late, far ahead, or maintain_telemetry() does not run. It moves them when it does.';
