-- Reads of the mesh's state, as workmesh_reader. All job rows have the columns of services.ledger.job_records, in
-- its order; a SCHEDULED job (1) whose time has come is QUEUED (2).

-- get_jobs --
-- Jobs by id, other clients' left out, with the bodies asked for; `place` counts what was asked for from 1. Bodies
-- that would bring the answer above $5 bytes are `withheld`. Each `offset 0` keeps a look-up a look-up: a plan made
-- while the tables were small would go on reading them whole.
with clock as materialized (select (extract(epoch from statement_timestamp()) * 1000000)::bigint as micros),
found as (
    select
        wanted.place,
        job.*,
        input.body as input,
        output.body as output,
        sum(coalesce(octet_length(input.body), 0) + coalesce(octet_length(output.body), 0))
            over (order by wanted.place) > $5 as withheld
    from unnest($1::uuid[], $2::text[], $3::boolean[], $4::boolean[]) with ordinality
        as wanted (job_id, client_id, with_input, with_output, place)
    cross join lateral (
        select *
        from jobs
        where jobs.job_id = wanted.job_id and (wanted.client_id = '' or wanted.client_id = jobs.client_id)
        offset 0
    ) as job
    left join lateral (
        select body
        from job_bodies
        where wanted.with_input and job_bodies.job_id = wanted.job_id and kind = 'input'
        offset 0
    ) as input on true
    left join lateral (
        select body
        from job_bodies
        where wanted.with_output and job_bodies.job_id = wanted.job_id and kind = 'output'
        offset 0
    ) as output on true
)
select
    job_id::text, client_id, agent, version, pool, lane,
    case when state = 1 and run_time_micros <= clock.micros then 2 else state end as state,
    attempt, series, epoch, dispatch, seq, fairness_key, run_time_micros, deadline_micros, create_time_micros,
    update_time_micros, retry_policy, labels, parent_job_id::text, traceparent, error, cancel_requested, instance,
    lease_expire_micros,
    place,
    case when not withheld then input end as input,
    case when not withheld then output end as output,
    withheld
from found, clock

-- list_jobs --
-- A page of all clients' jobs, newest first: those below the id $1 that match the filters; null or empty: any. $7
-- says that only live ones do. What is not asked for folds away, so that an index serves the order.
with clock as materialized (select (extract(epoch from statement_timestamp()) * 1000000)::bigint as micros)
select
    job_id::text, client_id, agent, version, pool, lane,
    case when state = 1 and run_time_micros <= clock.micros then 2 else state end as state,
    attempt, series, epoch, dispatch, seq, fairness_key, run_time_micros, deadline_micros, create_time_micros,
    update_time_micros, retry_policy, labels, parent_job_id::text, traceparent, error, cancel_requested, instance,
    lease_expire_micros
from jobs, clock
where ($1::uuid is null or jobs.job_id < $1)
    and ($2 = '' or agent = $2)
    and (not $7::boolean or live)
    and (
        cardinality($3::smallint[]) = 0
        or state = any ($3) and not (state = 1 and run_time_micros <= clock.micros)
        or state = 1 and run_time_micros <= clock.micros and 2 = any ($3)
    )
    and ($4::jsonb is null or labels @> $4)
    and ($5::smallint = 0 or lane = $5)
order by jobs.job_id desc
limit $6

-- list_client_jobs --
-- A page of one client's jobs ($8), otherwise as list_jobs: a statement of its own, so that its index serves it.
with clock as materialized (select (extract(epoch from statement_timestamp()) * 1000000)::bigint as micros)
select
    job_id::text, client_id, agent, version, pool, lane,
    case when state = 1 and run_time_micros <= clock.micros then 2 else state end as state,
    attempt, series, epoch, dispatch, seq, fairness_key, run_time_micros, deadline_micros, create_time_micros,
    update_time_micros, retry_policy, labels, parent_job_id::text, traceparent, error, cancel_requested, instance,
    lease_expire_micros
from jobs, clock
where client_id = $8
    and ($1::uuid is null or jobs.job_id < $1)
    and ($2 = '' or agent = $2)
    and (not $7::boolean or live)
    and (
        cardinality($3::smallint[]) = 0
        or state = any ($3) and not (state = 1 and run_time_micros <= clock.micros)
        or state = 1 and run_time_micros <= clock.micros and 2 = any ($3)
    )
    and ($4::jsonb is null or labels @> $4)
    and ($5::smallint = 0 or lane = $5)
order by jobs.job_id desc
limit $6

-- get_journal --
-- The steps of a job's series, in the order recorded.
select step, kind, name, arguments_digest, result, error, start_time_micros, end_time_micros
from steps
where job_id = $1 and series = $2
order by ordinal

-- get_history --
-- The events of a job, by sequence.
select body, chain, height, index
from events
where job_id = $1
order by seq

-- get_definitions --
-- Definitions by agent and version, 0 being the default; `place` counts what was asked for from 1.
select definition.body
from unnest($1::text[], $2::int[]) with ordinality as wanted (agent, version, place)
left join agents as agent on agent.agent = wanted.agent and wanted.version = 0
join definitions as definition
    on definition.agent = wanted.agent
    and definition.version = case wanted.version when 0 then agent.default_version else wanted.version end
order by wanted.place

-- list_default_definitions --
-- At most $2 of the agents' default versions after the agent $1, cut after $3 bytes; `candidates` counts them uncut.
with page as (
    select agent.agent, definition.version, definition.body
    from agents as agent
    join definitions as definition
        on definition.agent = agent.agent and definition.version = agent.default_version
    where agent.agent > $1
    order by agent.agent
    limit $2
),
sized as (
    select
        agent, version, body, count(*) over () as candidates,
        sum(octet_length(body)) over (order by agent) - octet_length(body) as before
    from page
)
select body, agent, version, candidates
from sized
where before < $3
order by agent

-- list_versions --
-- At most $3 of the versions of the agent $1 after version $2, cut after $4 bytes; `candidates` counts them uncut.
with page as (
    select agent, version, body
    from definitions
    where agent = $1 and version > $2
    order by version
    limit $3
),
sized as (
    select
        agent, version, body, count(*) over () as candidates,
        sum(octet_length(body)) over (order by version) - octet_length(body) as before
    from page
)
select body, agent, version, candidates
from sized
where before < $4
order by version

-- get_states --
-- State documents by key; `place` counts what was asked for from 1. Bodies that would bring the answer above $4
-- bytes are `withheld`.
select
    collection, key, version, case when not withheld then body end as body, update_time_micros, job_id::text,
    place, withheld
from (
    select
        wanted.place, document.collection, document.key, document.version, version.body,
        document.update_time_micros, document.job_id,
        sum(coalesce(octet_length(version.body), 0)) over (order by wanted.place) > $4 as withheld
    from unnest($1::text[], $2::text[], $3::text[]) with ordinality
        as wanted (client_id, collection, key, place)
    cross join lateral (
        select *
        from state_documents
        where state_documents.client_id = wanted.client_id
            and state_documents.collection = wanted.collection
            and state_documents.key = wanted.key
        offset 0
    ) as document
    cross join lateral (
        select body
        from state_versions
        where state_versions.client_id = wanted.client_id
            and state_versions.collection = wanted.collection
            and state_versions.key = wanted.key
            and state_versions.version = document.version
        offset 0
    ) as version
) as found

-- list_states --
-- At most $4 documents of a client's collection after the key $3, cut after $5 bytes; `candidates` counts them uncut.
with page as (
    select
        document.collection, document.key, document.version, version.body, document.update_time_micros,
        document.job_id
    from state_documents as document
    join state_versions as version
        on version.client_id = document.client_id
        and version.collection = document.collection
        and version.key = document.key
        and version.version = document.version
    where document.client_id = $1 and document.collection = $2 and document.key > $3
    order by document.key
    limit $4
),
sized as (
    select
        collection, key, version, body, update_time_micros, job_id, count(*) over () as candidates,
        sum(octet_length(body)) over (order by key) - octet_length(body) as before
    from page
)
select collection, key, version, body, update_time_micros, job_id::text, candidates
from sized
where before < $5
order by key

-- live_jobs --
-- Every live job of the pool $2 ('': any), oldest first, that became runnable before $3 (0: runnable or not), at
-- most $4 (0: all). A RUNNING job (3) becomes runnable when its lease and the clock allowance $1 are over.
with clock as materialized (select (extract(epoch from statement_timestamp()) * 1000000)::bigint as micros)
select
    job.job_id::text, job.client_id,
    case when job.state = 1 and job.run_time_micros <= clock.micros then 2 else job.state end as state,
    job.dispatch, job.pool, job.lane, job.agent, job.version, job.fairness_key,
    case job.state when 3 then job.lease_expire_micros + $1::bigint else job.run_time_micros end as run_time_micros,
    job.deadline_micros,
    coalesce(runnable.micros, 0) as runnable_time_micros,
    job.traceparent
from jobs as job
cross join clock
cross join lateral (
    select case job.state
        when 1 then job.run_time_micros
        when 2 then greatest(job.run_time_micros, job.update_time_micros)
        when 3 then job.lease_expire_micros + $1::bigint
    end
) as runnable (micros)
where job.live
    and ($2 = '' or job.pool = $2)
    and ($3::bigint = 0 or runnable.micros < $3)
order by job.job_id
limit nullif($4::bigint, 0)

-- count_jobs --
-- Live jobs by pool, lane and state.
with clock as materialized (select (extract(epoch from statement_timestamp()) * 1000000)::bigint as micros)
select
    pool, lane, case when state = 1 and run_time_micros <= clock.micros then 2 else state end as state,
    count(*) as count
from jobs, clock
where live
group by 1, 2, 3
order by 1, 2, 3
