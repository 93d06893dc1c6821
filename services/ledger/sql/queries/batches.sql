-- The plain items of a batch: one statement a kind. What a guard turns away is not returned and takes
-- the careful way. Arrays come as literals (see arrays.py) and sorted by key, so that rows are locked in key order.

-- create --
-- Accept jobs whose request and id are new.
with clock as materialized (
    select (extract(epoch from now()) * 1000000)::bigint as micros
)
insert into jobs (
    job_id, client_id, request_id, request_digest, agent, version, pool, lane, fairness_key, state,
    run_time_micros, deadline_micros, create_time_micros, update_time_micros, max_attempts, retry_policy,
    labels, traceparent
)
select
    n.job_id, n.client_id, n.request_id, substr($4::bytea, n.digest_start, n.digest_length), n.agent, n.version, n.pool,
    n.lane, n.fairness_key, case when n.run_time_micros > clock.micros then 1 else 2 end,
    n.run_time_micros, n.deadline_micros, clock.micros, clock.micros, n.max_attempts,
    substr($15::bytea, n.policy_start, n.policy_length), n.labels::jsonb, n.traceparent
from clock, unnest(
    $1::text::uuid[], $2::text::text[], $3::text::uuid[], $5::text::int[], $6::text::int[], $7::text::text[],
    $8::text::int[], $9::text::text[], $10::text::smallint[], $11::text::text[], $12::text::bigint[],
    $13::text::bigint[], $14::text::int[], $16::text::int[], $17::text::int[], $18::text::text[], $19::text::text[]
) as n (
    job_id, client_id, request_id, digest_start, digest_length, agent, version, pool, lane, fairness_key,
    run_time_micros, deadline_micros, max_attempts, policy_start, policy_length, labels, traceparent
)
on conflict do nothing
returning job_id::text, create_time_micros as now_micros;

-- begin --
-- Grant attempts of jobs that wait, are due and have attempts and time left.
with clock as materialized (
    select (extract(epoch from now()) * 1000000)::bigint as micros
)
update jobs j set
    state = 3, epoch = j.epoch + 1, attempt = j.attempt + 1, seq = j.seq + 1, lease_id = o.lease_id,
    instance = o.instance, lease_expire_micros = clock.micros + $5, ending = 0, update_time_micros = clock.micros
from clock, unnest($1::text::uuid[], $2::text::bigint[], $3::text::uuid[], $4::text::text[])
    as o (job_id, dispatch, lease_id, instance)
where j.job_id = o.job_id and j.dispatch = o.dispatch and j.state in (1, 2)
    and j.run_time_micros <= clock.micros
    and (j.deadline_micros = 0 or j.deadline_micros > clock.micros)
    and j.attempt < j.max_attempts and not j.cancel_requested
returning
    j.job_id::text, j.client_id, j.agent, j.version, j.pool, j.lane, j.fairness_key, j.state, j.attempt, j.series,
    j.epoch, j.dispatch, j.seq, j.step_count, j.run_time_micros, j.deadline_micros, j.create_time_micros,
    j.update_time_micros, j.max_attempts, j.retry_policy, j.labels::text, j.parent_job_id::text, j.traceparent,
    j.lease_id::text, j.instance, j.lease_expire_micros, j.ending, j.cancel_requested, j.cancel_reason, j.error,
    j.fingerprint,
    (select b.body from job_bodies b where b.job_id = j.job_id and b.kind = 'input') as input,
    clock.micros as now_micros;

-- renew --
-- Extend leases that have not ended.
with clock as materialized (
    select (extract(epoch from now()) * 1000000)::bigint as micros
)
update jobs j set lease_expire_micros = greatest(j.lease_expire_micros, clock.micros + $3)
from clock, unnest($1::text::uuid[], $2::text::bigint[]) as a (job_id, epoch)
where j.job_id = a.job_id and j.epoch = a.epoch and j.state = 3 and j.lease_expire_micros > clock.micros
returning
    j.job_id::text, j.client_id, j.agent, j.version, j.pool, j.lane, j.fairness_key, j.state, j.attempt, j.series,
    j.epoch, j.dispatch, j.seq, j.step_count, j.run_time_micros, j.deadline_micros, j.create_time_micros,
    j.update_time_micros, j.max_attempts, j.retry_policy, j.labels::text, j.parent_job_id::text, j.traceparent,
    j.lease_id::text, j.instance, j.lease_expire_micros, j.ending, j.cancel_requested, j.cancel_reason, j.error,
    j.fingerprint,
    clock.micros as now_micros;

-- record --
-- Make room in the journal of running attempts; the steps' own key tells whether they were there before.
with clock as materialized (
    select (extract(epoch from now()) * 1000000)::bigint as micros
)
update jobs j set seq = j.seq + 1, step_count = j.step_count + a.steps, update_time_micros = clock.micros
from clock, unnest($1::text::uuid[], $2::text::bigint[], $3::text::int[]) as a (job_id, epoch, steps)
where j.job_id = a.job_id and j.epoch = a.epoch and j.state = 3
returning
    j.job_id::text, j.client_id, j.agent, j.version, j.series, j.seq, j.step_count - a.steps as first_ordinal,
    j.traceparent, clock.micros as now_micros;

-- commit --
-- End running attempts well.
with clock as materialized (
    select (extract(epoch from now()) * 1000000)::bigint as micros
)
update jobs j set
    state = 6, seq = j.seq + 1, step_count = j.step_count + a.steps, update_time_micros = clock.micros,
    lease_id = null, instance = '', lease_expire_micros = 0, ending = 1, error = null
from clock, unnest($1::text::uuid[], $2::text::bigint[], $3::text::int[]) as a (job_id, epoch, steps)
where j.job_id = a.job_id and j.epoch = a.epoch and j.state = 3
returning
    j.job_id::text, j.client_id, j.agent, j.version, j.series, j.seq, j.step_count - a.steps as first_ordinal,
    j.traceparent, clock.micros as now_micros;
