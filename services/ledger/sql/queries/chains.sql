-- Chains and their blocks.

-- timeline --
-- The timeline that the server writes now; that of the control file lags behind a promotion.
select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int as timeline;

-- chains_of_timeline --
-- The chains that may be owned.
select c.chain from chains c where c.timeline = $1 order by c.chain;

-- next_chain --
-- The number of the next new chain.
select coalesce(max(c.chain), 0) + 1 as chain from chains c;

-- take_chain --
-- Own a chain until the session ends, unless another session does.
select pg_try_advisory_lock($1, $2) as taken;

-- release_chain --
-- Give a chain back.
select pg_advisory_unlock($1, $2) as released;

-- chain_holder --
-- The backend that owns a chain.
select l.pid
from pg_locks l
where l.locktype = 'advisory' and l.granted and l.classid = $1::int::oid and l.objid = $2::int::oid and l.objsubid = 2
    and l.database = (select d.oid from pg_database d where d.datname = current_database());

-- add_chain --
-- Enter a new chain.
insert into chains (chain, timeline, instance, create_time_micros) values ($1, $2, $3, $4);

-- head --
-- The newest block of a chain.
select b.height, b.hash from blocks b where b.chain = $1 order by b.height desc limit 1;

-- block_at --
-- The hash of a block.
select b.hash from blocks b where b.chain = $1 and b.height = $2;

-- append --
-- Add a block with its events and the bodies, steps and document versions that came with them.
with added_events as (
    insert into events (chain, height, index, job_id, seq, type, client_id, time_micros, body)
    select $1, $2, e.place - 1, e.job_id, e.seq, e.type, e.client_id, $8, e.body
    from unnest($9::uuid[], $10::bigint[], $11::text[], $12::text[], $13::bytea[])
        with ordinality as e (job_id, seq, type, client_id, body, place)
),
added_bodies as (
    insert into job_bodies (job_id, kind, body)
    select b.job_id, b.kind, b.body from unnest($14::uuid[], $15::text[], $16::bytea[]) as b (job_id, kind, body)
),
added_steps as (
    insert into steps (
        job_id, series, ordinal, step, kind, name, arguments_digest, outcome_digest, result, error, epoch,
        start_time_micros, end_time_micros
    )
    select
        s.job_id, s.series, s.ordinal, s.step, s.kind, s.name, s.arguments_digest, s.outcome_digest, s.result, s.error,
        s.epoch, s.start_time_micros, s.end_time_micros
    from unnest(
        $17::uuid[], $18::int[], $19::int[], $20::text[], $21::smallint[], $22::text[], $23::bytea[], $24::bytea[],
        $25::bytea[], $26::bytea[], $27::bigint[], $28::bigint[], $29::bigint[]
    ) as s (
        job_id, series, ordinal, step, kind, name, arguments_digest, outcome_digest,
        result, error, epoch, start_time_micros, end_time_micros
    )
),
added_versions as (
    insert into state_versions (client_id, collection, key, version, body, job_id, epoch, create_time_micros)
    select v.client_id, v.collection, v.key, v.version, v.body, v.job_id, v.epoch, v.create_time_micros
    from unnest(
        $30::text[], $31::text[], $32::text[], $33::bigint[], $34::bytea[], $35::uuid[], $36::bigint[], $37::bigint[]
    ) as v (client_id, collection, key, version, body, job_id, epoch, create_time_micros)
)
insert into blocks (chain, height, timeline, prev_hash, merkle_root, hash, event_count, time_micros)
values ($1, $2, $3, $4, $5, $6, $7, $8);
