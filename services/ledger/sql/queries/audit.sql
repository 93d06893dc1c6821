-- Proof of the log, as workmesh_auditor.

-- chains --
-- Every chain that there is a trace of.
select chain from chains
union
select distinct chain from blocks
order by chain

-- headers_after --
-- The next $3 headers of the chain $1 above the height $2.
select chain, height, timeline, prev_hash, merkle_root, hash, time_micros, event_count
from blocks
where chain = $1 and height > $2
order by height
limit $3

-- events_between --
-- The events of the chain $1 above the height $2 up to the height $3.
select height, index, job_id::text, seq, type, client_id, time_micros, body
from events
where chain = $1 and height > $2 and height <= $3
order by height, index

-- stray_events --
-- The first height above $2 of the chain $1 at which there are events: without a block, if $2 is the head.
select min(height)
from events
where chain = $1 and height > $2

-- wrong_bodies --
-- Inputs and outputs that do not match their digests.
select wanted.place
from unnest($1::uuid[], $2::text[], $3::bytea[]) with ordinality as wanted (job_id, kind, digest, place)
join job_bodies as body on body.job_id = wanted.job_id and body.kind = wanted.kind
where sha256(body.body) <> wanted.digest

-- wrong_steps --
-- Journaled steps that do not match their digests: the row's own, and those of its result or error if there is one.
select wanted.place
from unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[], $5::bytea[]) with ordinality
    as wanted (job_id, epoch, step, outcome_digest, arguments_digest, place)
join steps as step
    on step.job_id = wanted.job_id and step.epoch = wanted.epoch and step.step = wanted.step
where step.outcome_digest <> wanted.outcome_digest
    or step.arguments_digest <> wanted.arguments_digest
    or sha256(coalesce(step.result, step.error)) <> wanted.outcome_digest

-- wrong_states --
-- Versions of state documents that do not match their digests.
select wanted.place
from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[]) with ordinality
    as wanted (client_id, collection, key, version, digest, place)
join state_versions as version
    on version.client_id = wanted.client_id
    and version.collection = wanted.collection
    and version.key = wanted.key
    and version.version = wanted.version
where sha256(version.body) <> wanted.digest

-- wrong_effects --
-- Results of effects that do not match their digests.
select wanted.place
from unnest($1::uuid[], $2::int[], $3::text[], $4::bytea[]) with ordinality
    as wanted (job_id, series, step, digest, place)
join effects as effect
    on effect.job_id = wanted.job_id and effect.series = wanted.series and effect.step = wanted.step
where effect.state = 2 and sha256(effect.result) <> wanted.digest

-- definition --
-- A stored definition.
select body
from definitions
where agent = $1 and version = $2

-- broken_histories --
-- Jobs whose events are not numbered from 1 without gaps or repeats up to the job's own count.
select job.job_id::text, job.seq, coalesce(history.last, 0) as last
from jobs as job
left join (
    select job_id, count(*) as count, min(seq) as first, max(seq) as last, sum(seq) as total
    from events
    where job_id is not null
    group by job_id
) as history on history.job_id = job.job_id
where history.last is distinct from job.seq
    or history.first <> 1
    or history.count <> history.last
    or history.total <> history.last * (history.last + 1) / 2
order by job.job_id
limit $1

-- history_places --
-- Where the events of a job stand, by sequence.
select seq, chain, height, index
from events
where job_id = $1
order by seq, chain, height, index
