-- Alerts that fired and resolved, and who is told of it.
create sequence alert_change_numbers;
comment on sequence alert_change_numbers is
'Order of all alerts that fired or resolved; given under a lock, so no number becomes visible before a lower one.';

create table alert_history (
    id uuid not null default gen_random_uuid(),
    rule text not null,
    alert text not null,
    severity text not null,
    protocol text,
    entity_type text,
    entity_id text,
    value double precision not null,
    peak_value double precision not null,
    threshold double precision not null,
    since timestamptz not null,
    pending_at timestamptz not null default now(),
    fired_at timestamptz,
    resolved_at timestamptz,
    fired_number bigint,
    resolved_number bigint,
    message text not null,
    constraint alert_history_pkey primary key (id),
    constraint alert_history_order check (
        (fired_at is null) = (fired_number is null)
        and (resolved_at is null) = (resolved_number is null)
        and fired_at >= pending_at and resolved_at >= fired_at
        and (resolved_at is null or fired_at is not null)
    )
);

alter table alert_history enable row level security;

create unique index alert_history_open on alert_history (alert, protocol, entity_type, entity_id) nulls not distinct
where resolved_at is null;

comment on table alert_history is
'One row for each alert: pending until it has lasted for_duration (fired_at is null), firing, then resolved. One that '
'ends while it is pending leaves no row.';
comment on column alert_history.id is 'Names the alert in notifications and webhooks.';
comment on column alert_history.rule is 'Rule that measures it; the last one, when a closer rule came.';
comment on column alert_history.alert is 'error_rate, latency, inactive or unhealthy.';
comment on column alert_history.severity is 'critical, warning or info.';
comment on column alert_history.protocol is 'Protocol concerned; null for alerts of an entity over all protocols.';
comment on column alert_history.entity_type is 'Type of the entity concerned; null for alerts of a protocol.';
comment on column alert_history.entity_id is 'Entity concerned; null for alerts of a protocol.';
comment on column alert_history.value is 'Last value above resolve_threshold, in percent, milliseconds or minutes.';
comment on column alert_history.peak_value is 'Highest value so far.';
comment on column alert_history.threshold is 'Threshold in force when last measured.';
comment on column alert_history.since is 'When the condition began: the first such call, the last activity, the loss of health.';
comment on column alert_history.pending_at is 'When evaluate_alerts() first saw it.';
comment on column alert_history.fired_at is 'When it fired; null while it is pending.';
comment on column alert_history.resolved_at is 'When it was over; null while it fires.';
comment on column alert_history.fired_number is 'Place of the firing among all changes; a reader remembers the last it saw.';
comment on column alert_history.resolved_number is 'Place of the resolution among all changes.';
comment on column alert_history.message is 'What is wrong, in one line; as of the last value.';
comment on index alert_history_pkey is 'Names the alert.';
comment on index alert_history_open is 'One open alert for each condition and subject.';

create function evaluate_alerts() returns setof alert_history
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    v_row record;
    v_alert alert_history;
begin
    -- The lock of the migration runner: the two would wait for each other's tables.
    perform pg_advisory_xact_lock_shared(28548158752780652);
    -- One evaluator at a time: what the other decided is seen below, so an alert fires once.
    perform pg_advisory_xact_lock(hashtextextended('elf-automations alerts', 0));

    for v_row in
        select
            history.id, history.fired_at, history.pending_at, measured.rule, measured.alert, measured.severity,
            measured.protocol, measured.entity_type, measured.entity_id, measured.value, measured.threshold,
            measured.for_duration, measured.since, measured.message
        from alert_measurements() as measured
        full join (select * from alert_history where resolved_at is null) as history
            on measured.alert = history.alert
            and coalesce(measured.protocol, '') = coalesce(history.protocol, '')
            and coalesce(measured.entity_type, '') = coalesce(history.entity_type, '')
            and coalesce(measured.entity_id, '') = coalesce(history.entity_id, '')
        where history.id is not null or measured.value > measured.threshold
        order by history.pending_at, measured.alert, measured.protocol, measured.entity_type, measured.entity_id
    loop
        v_alert := null;
        if v_row.rule is null and v_row.fired_at is not null then
            update alert_history
            set resolved_at = greatest(now(), fired_at), resolved_number = nextval('alert_change_numbers')
            where id = v_row.id
            returning * into v_alert;
        elsif v_row.fired_at is null and (v_row.rule is null or v_row.value <= v_row.threshold) then
            delete from alert_history where id = v_row.id;
            continue;
        elsif v_row.id is null then
            insert into alert_history
                (rule, alert, severity, protocol, entity_type, entity_id, value, peak_value, threshold, since, message)
            values (
                v_row.rule, v_row.alert, v_row.severity, v_row.protocol, v_row.entity_type, v_row.entity_id,
                v_row.value, v_row.value, v_row.threshold, v_row.since, v_row.message
            )
            returning id, pending_at into v_row.id, v_row.pending_at;
        else
            update alert_history
            set
                rule = v_row.rule, severity = v_row.severity, value = v_row.value, threshold = v_row.threshold,
                peak_value = greatest(peak_value, v_row.value), message = v_row.message
            where id = v_row.id
                and (rule, severity, value, threshold)
                is distinct from (v_row.rule, v_row.severity, v_row.value, v_row.threshold);
        end if;
        if v_row.rule is not null and v_row.fired_at is null and v_row.pending_at <= now() - v_row.for_duration then
            update alert_history
            set fired_at = greatest(now(), pending_at), fired_number = nextval('alert_change_numbers')
            where id = v_row.id
            returning * into v_alert;
        end if;
        continue when v_alert.id is null;
        perform pg_notify(
            'elf_alerts',
            (
                to_jsonb(v_alert)
                || jsonb_build_object('change', case when v_alert.resolved_at is null then 'fired' else 'resolved' end)
            )::text
        );
        return next v_alert;
    end loop;
end;
$$;

comment on function evaluate_alerts() is
'Fires and resolves alerts by alert_rules and returns those that changed, none the second time; tells each on the channel '
'elf_alerts as a JSON object with change fired or resolved.';

create or replace function active_alerts() returns table (
    alert text,
    severity text,
    protocol text,
    entity_id text,
    entity_type text,
    value double precision,
    threshold double precision,
    since timestamptz,
    message text
)
language sql
stable
set search_path = public, pg_temp
as $$
    select
        measured.alert,
        measured.severity,
        measured.protocol,
        measured.entity_id,
        measured.entity_type,
        measured.value,
        measured.threshold,
        least(measured.since, history.since),
        measured.message
    from alert_measurements() as measured
    left join alert_history as history
        on history.resolved_at is null
        and measured.alert = history.alert
        and coalesce(measured.protocol, '') = coalesce(history.protocol, '')
        and coalesce(measured.entity_type, '') = coalesce(history.entity_type, '')
        and coalesce(measured.entity_id, '') = coalesce(history.entity_id, '')
    where history.fired_at is not null
        or (
            measured.value > measured.threshold
            and (measured.for_duration = interval '0' or history.pending_at <= now() - measured.for_duration)
        )
    order by
        array_position(array['critical', 'warning', 'info'], measured.severity), measured.alert, measured.protocol, measured.entity_type, measured.entity_id
$$;

comment on function active_alerts() is
'What is wrong now by alert_rules: error_rate and latency of a protocol or an entity, inactive and unhealthy entities. '
'value and threshold are in percent, milliseconds, minutes and minutes; since is when the condition began.';
