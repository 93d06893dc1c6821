-- The careful way: lock rows in key order, let the domain decide, write back what it decided. Arrays come as
-- literals, see arrays.py.

-- now --
-- The transaction's time.
select (extract(epoch from now()) * 1000000)::bigint as now_micros;

-- lock_jobs --
-- Lock jobs in key order and return them as they are now.
select
    j.job_id::text, j.client_id, j.agent, j.version, j.pool, j.lane, j.fairness_key, j.state, j.attempt, j.series,
    j.epoch, j.dispatch, j.seq, j.step_count, j.run_time_micros, j.deadline_micros, j.create_time_micros,
    j.update_time_micros, j.max_attempts, j.retry_policy, j.labels::text, j.parent_job_id::text, j.traceparent,
    j.lease_id::text, j.instance, j.lease_expire_micros, j.ending, j.cancel_requested, j.cancel_reason, j.error,
    j.fingerprint
from jobs j
where j.job_id = any ($1::text::uuid[])
order by j.job_id
for update;

-- store_jobs --
-- Write back jobs that are locked.
update jobs j set
    state = n.state, attempt = n.attempt, series = n.series, epoch = n.epoch, dispatch = n.dispatch, seq = n.seq,
    step_count = n.step_count, run_time_micros = n.run_time_micros, update_time_micros = n.update_time_micros,
    lease_id = n.lease_id, instance = n.instance, lease_expire_micros = n.lease_expire_micros, ending = n.ending,
    cancel_requested = n.cancel_requested, cancel_reason = n.cancel_reason,
    error = substr($17::bytea, n.error_start, n.error_length),
    fingerprint = substr($20::bytea, n.fingerprint_start, n.fingerprint_length)
from unnest(
    $1::text::uuid[], $2::text::smallint[], $3::text::int[], $4::text::int[], $5::text::bigint[], $6::text::bigint[],
    $7::text::bigint[], $8::text::int[], $9::text::bigint[], $10::text::bigint[], $11::text::uuid[],
    $12::text::text[], $13::text::bigint[], $14::text::smallint[], $15::text::boolean[], $16::text::text[],
    $18::text::int[], $19::text::int[], $21::text::int[], $22::text::int[]
) as n (
    job_id, state, attempt, series, epoch, dispatch, seq, step_count, run_time_micros, update_time_micros,
    lease_id, instance, lease_expire_micros, ending, cancel_requested, cancel_reason, error_start, error_length,
    fingerprint_start, fingerprint_length
)
where j.job_id = n.job_id;

-- find_requests --
-- The jobs that requests made before.
select j.client_id, j.request_id::text, j.job_id::text, j.request_digest
from unnest($1::text::text[], $2::text::uuid[]) as r (client_id, request_id)
join jobs j on j.client_id = r.client_id and j.request_id = r.request_id;

-- find_steps --
-- What the journal knows of steps.
select s.job_id::text, s.series, s.step, s.kind, s.name, s.arguments_digest, s.outcome_digest
from unnest($1::text::uuid[], $2::text::int[], $3::text::text[]) as n (job_id, series, step)
join steps s on s.job_id = n.job_id and s.series = n.series and s.step = n.step;

-- read_journals --
-- All steps of job series, in the order recorded.
select
    s.job_id::text, s.series, s.ordinal, s.step, s.kind, s.name, s.arguments_digest, s.outcome_digest, s.result,
    s.error, s.epoch, s.start_time_micros, s.end_time_micros
from unnest($1::text::uuid[], $2::text::int[]) as n (job_id, series)
join steps s on s.job_id = n.job_id and s.series = n.series
order by s.job_id, s.ordinal;

-- read_inputs --
-- Inputs of jobs.
select b.job_id::text, b.body
from unnest($1::text::uuid[]) as n (job_id)
join job_bodies b on b.job_id = n.job_id and b.kind = 'input';

-- lock_documents --
-- Lock documents in key order and return their versions.
select d.client_id, d.collection, d.key, d.version
from unnest($1::text::text[], $2::text::text[], $3::text::text[]) as n (client_id, collection, key)
join state_documents d on d.client_id = n.client_id and d.collection = n.collection and d.key = n.key
order by d.client_id, d.collection, d.key
for update of d;

-- store_documents --
-- Set the current versions of documents that are locked, or make them; a document that another
-- transaction has made meanwhile is a unique violation, and the batch runs again.
with changed as (
    update state_documents d set
        version = n.version, job_id = n.job_id, update_time_micros = $7
    from unnest(
        $1::text::text[], $2::text::text[], $3::text::text[], $4::text::bigint[], $5::text::uuid[],
        $6::text::boolean[]
    ) as n (client_id, collection, key, version, job_id, existing)
    where n.existing and d.client_id = n.client_id and d.collection = n.collection and d.key = n.key
)
insert into state_documents (client_id, collection, key, version, job_id, update_time_micros)
select n.client_id, n.collection, n.key, n.version, n.job_id, $7
from unnest(
    $1::text::text[], $2::text::text[], $3::text::text[], $4::text::bigint[], $5::text::uuid[], $6::text::boolean[]
) as n (client_id, collection, key, version, job_id, existing)
where not n.existing;

-- read_documents --
-- Current documents with their bodies.
select d.client_id, d.collection, d.key, d.version, v.body, d.update_time_micros, d.job_id::text
from unnest($1::text::text[], $2::text::text[], $3::text::text[]) as n (client_id, collection, key)
join state_documents d on d.client_id = n.client_id and d.collection = n.collection and d.key = n.key
join state_versions v
    on v.client_id = d.client_id and v.collection = d.collection and v.key = d.key and v.version = d.version;

-- find_effects --
-- Effects of jobs that are locked.
select
    e.job_id::text, e.series, e.step, e.tool, e.arguments_digest, e.state, e.epoch, e.call_deadline_micros,
    e.claim_time_micros, e.settle_time_micros, e.result, e.source
from unnest($1::text::uuid[], $2::text::int[], $3::text::text[]) as n (job_id, series, step)
join effects e on e.job_id = n.job_id and e.series = n.series and e.step = n.step;

-- store_effects --
-- Write effects of jobs that are locked.
insert into effects (
    job_id, series, step, tool, arguments_digest, state, epoch, call_deadline_micros, claim_time_micros,
    settle_time_micros, result, source
)
select
    n.job_id, n.series, n.step, n.tool, substr($5::bytea, n.arguments_start, n.arguments_length), n.state, n.epoch,
    n.call_deadline_micros, n.claim_time_micros, n.settle_time_micros,
    substr($13::bytea, n.result_start, n.result_length), n.source
from unnest(
    $1::text::uuid[], $2::text::int[], $3::text::text[], $4::text::text[], $6::text::int[], $7::text::int[],
    $8::text::smallint[], $9::text::bigint[], $10::text::bigint[], $11::text::bigint[], $12::text::bigint[],
    $14::text::int[], $15::text::int[], $16::text::text[]
) as n (
    job_id, series, step, tool, arguments_start, arguments_length, state, epoch, call_deadline_micros,
    claim_time_micros, settle_time_micros, result_start, result_length, source
)
on conflict (job_id, series, step) do update set
    state = excluded.state, epoch = excluded.epoch, call_deadline_micros = excluded.call_deadline_micros,
    claim_time_micros = excluded.claim_time_micros, settle_time_micros = excluded.settle_time_micros,
    result = excluded.result, source = excluded.source;
