-- Rollups: what the dashboards read in place of the rows. Writers only append to telemetry_rollup_pending and so
-- never wait for each other; fold_telemetry_rollups(), one at a time, adds what is pending to the rest. A rollup and
-- what is pending for it are together exact at any moment, in every snapshot.
create table telemetry_rollup_pending (
    minute timestamptz not null,
    protocol text not null,
    source_id text not null,
    source_type text not null,
    target_id text not null,
    target_type text not null,
    -- squawk-ignore prefer-bigint-over-smallint
    sign smallint not null,
    calls bigint not null,
    errors bigint not null,
    cancelled bigint not null,
    timed bigint not null,
    duration_ns numeric not null,
    tokens numeric not null,
    cost numeric not null,
    shortest_ms double precision,
    longest_ms double precision,
    last_at timestamptz,
    durations_ms double precision[]
)
-- It is emptied all the time: without a vacuum soon after, views would read the space of what is gone.
with (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);

alter table telemetry_rollup_pending enable row level security;

comment on table telemetry_rollup_pending is
'Calls the rollups do not hold yet: one row for each statement that wrote, minute and pair.';
comment on column telemetry_rollup_pending.minute is 'Minute the calls began in.';
comment on column telemetry_rollup_pending.protocol is 'mcp, a2a or n8n.';
comment on column telemetry_rollup_pending.source_id is 'Caller.';
comment on column telemetry_rollup_pending.source_type is 'Type of the caller.';
comment on column telemetry_rollup_pending.target_id is 'Target.';
comment on column telemetry_rollup_pending.target_type is 'Type of the target.';
comment on column telemetry_rollup_pending.sign is
'1 for calls that came, -1 for calls that are gone; every sum has this sign already.';
comment on column telemetry_rollup_pending.calls is 'Counted calls.';
comment on column telemetry_rollup_pending.errors is 'Calls that ended in error or timeout.';
comment on column telemetry_rollup_pending.cancelled is 'Calls that were cancelled.';
comment on column telemetry_rollup_pending.timed is 'Calls with a known duration.';
comment on column telemetry_rollup_pending.duration_ns is
'Sum of their durations in nanoseconds: whole numbers, so that no order of adding and taking away changes it.';
comment on column telemetry_rollup_pending.tokens is 'Sum of tokens used.';
comment on column telemetry_rollup_pending.cost is 'Sum of estimated cost in US dollars.';
comment on column telemetry_rollup_pending.shortest_ms is 'Shortest duration.';
comment on column telemetry_rollup_pending.longest_ms is 'Longest duration.';
comment on column telemetry_rollup_pending.last_at is 'Begin of the last call.';
comment on column telemetry_rollup_pending.durations_ms is 'The durations one by one, for the histograms.';

create index telemetry_rollup_pending_minute on telemetry_rollup_pending (minute);
comment on index telemetry_rollup_pending_minute is
'Finds what is there without reading the space of what is gone: after a bulk load that can be large.';

create table telemetry_pairs (
    pair_id bigint generated always as identity,
    protocol text not null,
    source_id text not null,
    source_type text not null,
    target_id text not null,
    target_type text not null,
    constraint telemetry_pairs_pkey primary key (pair_id),
    constraint telemetry_pairs_ends unique (source_id, target_id, protocol, source_type, target_type)
);

alter table telemetry_pairs enable row level security;

comment on table telemetry_pairs is 'Who called whom over what, as a number that rollups keep in place of five names.';
comment on column telemetry_pairs.pair_id is 'The number.';
comment on column telemetry_pairs.protocol is 'mcp, a2a or n8n.';
comment on column telemetry_pairs.source_id is 'Caller.';
comment on column telemetry_pairs.source_type is 'Type of the caller.';
comment on column telemetry_pairs.target_id is 'Target.';
comment on column telemetry_pairs.target_type is 'Type of the target.';
comment on index telemetry_pairs_pkey is 'Names of a number.';
comment on index telemetry_pairs_ends is 'Number of the names.';

create table telemetry_ends (
    protocol text not null,
    is_source boolean not null,
    entity_id text not null,
    last_at timestamptz not null,
    constraint telemetry_ends_pkey primary key (protocol, is_source, entity_id)
)
-- Room on each page for the next version of its rows, so that an update touches no index; so with all that follow.
with (fillfactor = 70);

alter table telemetry_ends enable row level security;

comment on table telemetry_ends is 'Who called and who was called in the last day, and when last.';
comment on column telemetry_ends.protocol is 'mcp, a2a or n8n.';
comment on column telemetry_ends.is_source is 'True for who called, false for who was called.';
comment on column telemetry_ends.entity_id is 'Caller or target.';
comment on column telemetry_ends.last_at is 'Begin of the last call.';
comment on index telemetry_ends_pkey is 'One row for each end.';

create table telemetry_minutes (
    minute timestamptz not null,
    protocol text not null,
    calls bigint not null,
    errors bigint not null,
    cancelled bigint not null,
    timed bigint not null,
    duration_ns bigint not null,
    tokens bigint not null,
    cost numeric not null,
    constraint telemetry_minutes_pkey primary key (minute, protocol)
)
with (fillfactor = 70);

alter table telemetry_minutes enable row level security;

comment on table telemetry_minutes is 'Counted calls by minute and protocol.';
comment on column telemetry_minutes.minute is 'Minute the calls began in.';
comment on column telemetry_minutes.protocol is 'mcp, a2a or n8n.';
comment on column telemetry_minutes.calls is 'Calls.';
comment on column telemetry_minutes.errors is 'Calls that ended in error or timeout.';
comment on column telemetry_minutes.cancelled is 'Calls that were cancelled.';
comment on column telemetry_minutes.timed is 'Calls with a known duration.';
comment on column telemetry_minutes.duration_ns is 'Sum of their durations in nanoseconds.';
comment on column telemetry_minutes.tokens is 'Sum of tokens used.';
comment on column telemetry_minutes.cost is 'Sum of estimated cost in US dollars.';
comment on index telemetry_minutes_pkey is 'Ranges of time.';

create table telemetry_minute_latency (
    minute timestamptz not null,
    protocol text not null,
    -- squawk-ignore prefer-bigint-over-smallint
    bucket smallint not null,
    calls bigint not null,
    shortest_ms double precision not null,
    longest_ms double precision not null,
    constraint telemetry_minute_latency_pkey primary key (minute, protocol, bucket)
) with (fillfactor = 70);

alter table telemetry_minute_latency enable row level security;

comment on table telemetry_minute_latency is
'Histogram of durations by minute and protocol. A percentile read from it lies within 9 % of the nearest rank.';
comment on column telemetry_minute_latency.minute is 'Minute the calls began in.';
comment on column telemetry_minute_latency.protocol is 'mcp, a2a or n8n.';
comment on column telemetry_minute_latency.bucket is
'floor(4 * log2(ms)): each bucket ends 2^(1/4) times as high as it begins; -80 is below a nanosecond.';
comment on column telemetry_minute_latency.calls is 'Calls with a duration in this bucket.';
comment on column telemetry_minute_latency.shortest_ms is 'Shortest duration that was seen in it.';
comment on column telemetry_minute_latency.longest_ms is 'Longest duration that was seen in it.';
comment on index telemetry_minute_latency_pkey is 'Ranges of time.';

create table telemetry_pair_minutes (
    minute timestamptz not null,
    pair_id bigint not null,
    calls bigint not null,
    errors bigint not null,
    timed bigint not null,
    duration_ns bigint not null,
    shortest_ms double precision,
    longest_ms double precision,
    p95_ms double precision,
    durations_ms double precision[],
    -- squawk-ignore prefer-bigint-over-smallint
    buckets smallint[],
    bucket_calls bigint[],
    constraint telemetry_pair_minutes_pkey primary key (minute, pair_id)
) with (fillfactor = 70);

alter table telemetry_pair_minutes enable row level security;

comment on table telemetry_pair_minutes is 'Counted calls by minute and pair, of the last hours only.';
comment on column telemetry_pair_minutes.minute is 'Minute the calls began in.';
comment on column telemetry_pair_minutes.pair_id is 'Pair, see telemetry_pairs.';
comment on column telemetry_pair_minutes.calls is 'Calls.';
comment on column telemetry_pair_minutes.errors is 'Calls that ended in error or timeout.';
comment on column telemetry_pair_minutes.timed is 'Calls with a known duration.';
comment on column telemetry_pair_minutes.duration_ns is 'Sum of their durations in nanoseconds.';
comment on column telemetry_pair_minutes.shortest_ms is 'No duration was below this.';
comment on column telemetry_pair_minutes.longest_ms is 'No duration was above this.';
comment on column telemetry_pair_minutes.p95_ms is '95th percentile in milliseconds.';
comment on column telemetry_pair_minutes.durations_ms is
'The durations while they are fewer than 20, whose 95th percentile is the longest; null with a histogram.';
comment on column telemetry_pair_minutes.buckets is 'Histogram: buckets as in telemetry_minute_latency, ascending.';
comment on column telemetry_pair_minutes.bucket_calls is 'Histogram: calls in each of these buckets.';
comment on index telemetry_pair_minutes_pkey is 'Ranges of time.';

create table telemetry_pair_hours (
    hour timestamptz not null,
    pair_id bigint not null,
    calls bigint not null,
    errors bigint not null,
    cancelled bigint not null,
    timed bigint not null,
    duration_ns bigint not null,
    tokens bigint not null,
    cost numeric not null,
    shortest_ms double precision,
    longest_ms double precision,
    last_at timestamptz,
    constraint telemetry_pair_hours_pkey primary key (hour, pair_id)
) with (fillfactor = 70);

alter table telemetry_pair_hours enable row level security;

comment on table telemetry_pair_hours is 'Counted calls by hour and pair.';
comment on column telemetry_pair_hours.hour is 'Hour the calls began in.';
comment on column telemetry_pair_hours.pair_id is 'Pair, see telemetry_pairs.';
comment on column telemetry_pair_hours.calls is 'Calls.';
comment on column telemetry_pair_hours.errors is 'Calls that ended in error or timeout.';
comment on column telemetry_pair_hours.cancelled is 'Calls that were cancelled.';
comment on column telemetry_pair_hours.timed is 'Calls with a known duration.';
comment on column telemetry_pair_hours.duration_ns is 'Sum of their durations in nanoseconds.';
comment on column telemetry_pair_hours.tokens is 'Sum of tokens used.';
comment on column telemetry_pair_hours.cost is 'Sum of estimated cost in US dollars.';
comment on column telemetry_pair_hours.shortest_ms is 'Shortest duration in milliseconds.';
comment on column telemetry_pair_hours.longest_ms is 'Longest duration in milliseconds.';
comment on column telemetry_pair_hours.last_at is 'Begin of the last call.';
comment on index telemetry_pair_hours_pkey is 'Ranges of time.';

create table telemetry_pair_days (
    day date not null,
    pair_id bigint not null,
    calls bigint not null,
    errors bigint not null,
    cancelled bigint not null,
    timed bigint not null,
    duration_ns bigint not null,
    tokens bigint not null,
    cost numeric not null,
    shortest_ms double precision,
    longest_ms double precision,
    last_at timestamptz,
    constraint telemetry_pair_days_pkey primary key (day, pair_id)
) with (fillfactor = 70);

alter table telemetry_pair_days enable row level security;

comment on table telemetry_pair_days is 'Counted calls by UTC day and pair; kept when the calls themselves are dropped.';
comment on column telemetry_pair_days.day is 'UTC day the calls began in.';
comment on column telemetry_pair_days.pair_id is 'Pair, see telemetry_pairs.';
comment on column telemetry_pair_days.calls is 'Calls.';
comment on column telemetry_pair_days.errors is 'Calls that ended in error or timeout.';
comment on column telemetry_pair_days.cancelled is 'Calls that were cancelled.';
comment on column telemetry_pair_days.timed is 'Calls with a known duration.';
comment on column telemetry_pair_days.duration_ns is 'Sum of their durations in nanoseconds.';
comment on column telemetry_pair_days.tokens is 'Sum of tokens used.';
comment on column telemetry_pair_days.cost is 'Sum of estimated cost in US dollars.';
comment on column telemetry_pair_days.shortest_ms is 'Shortest duration in milliseconds.';
comment on column telemetry_pair_days.longest_ms is 'Longest duration in milliseconds.';
comment on column telemetry_pair_days.last_at is 'Begin of the last call.';
comment on index telemetry_pair_days_pkey is 'Ranges of time.';
