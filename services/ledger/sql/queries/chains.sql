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

-- neighbours --
-- Whether sessions other than these own chains.
select exists (
    select 1
    from pg_locks l
    where l.locktype = 'advisory' and l.granted and l.classid = $1::int::oid and l.objsubid = 2
        and l.database = (select d.oid from pg_database d where d.datname = current_database())
        and l.pid <> all ($2::int[])
);

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
-- Add a block with its events.
with added_events as (
    insert into events (chain, height, index, job_id, seq, type, client_id, time_micros, body)
    select
        $1, $2, e.place - 1, e.job_id, e.seq, e.type, e.client_id, $8,
        substr($13::bytea, e.start, e.length)
    from unnest(
        $9::text::uuid[], $10::text::bigint[], $11::text::text[], $12::text::text[], $14::text::int[],
        $15::text::int[]
    ) with ordinality as e (job_id, seq, type, client_id, start, length, place)
)
insert into blocks (chain, height, timeline, prev_hash, merkle_root, hash, event_count, time_micros)
values ($1, $2, $3, $4, $5, $6, $7, $8);

-- append_with_bodies --
-- The same with inputs or outputs.
with added_events as (
    insert into events (chain, height, index, job_id, seq, type, client_id, time_micros, body)
    select
        $1, $2, e.place - 1, e.job_id, e.seq, e.type, e.client_id, $8,
        substr($13::bytea, e.start, e.length)
    from unnest(
        $9::text::uuid[], $10::text::bigint[], $11::text::text[], $12::text::text[], $14::text::int[],
        $15::text::int[]
    ) with ordinality as e (job_id, seq, type, client_id, start, length, place)
),
added_bodies as (
    insert into job_bodies (job_id, kind, body)
    select b.job_id, b.kind, substr($18::bytea, b.start, b.length)
    from unnest($16::text::uuid[], $17::text::text[], $19::text::int[], $20::text::int[])
        as b (job_id, kind, start, length)
)
insert into blocks (chain, height, timeline, prev_hash, merkle_root, hash, event_count, time_micros)
values ($1, $2, $3, $4, $5, $6, $7, $8);

-- append_with_all --
-- The same with bodies, steps and document versions. An insert costs its preparation even when it adds nothing:
-- a tenth of a small transaction each.
with added_events as (
    insert into events (chain, height, index, job_id, seq, type, client_id, time_micros, body)
    select
        $1, $2, e.place - 1, e.job_id, e.seq, e.type, e.client_id, $8,
        substr($13::bytea, e.start, e.length)
    from unnest(
        $9::text::uuid[], $10::text::bigint[], $11::text::text[], $12::text::text[], $14::text::int[],
        $15::text::int[]
    ) with ordinality as e (job_id, seq, type, client_id, start, length, place)
),
added_bodies as (
    insert into job_bodies (job_id, kind, body)
    select b.job_id, b.kind, substr($18::bytea, b.start, b.length)
    from unnest($16::text::uuid[], $17::text::text[], $19::text::int[], $20::text::int[])
        as b (job_id, kind, start, length)
),
added_steps as (
    insert into steps (
        job_id, series, ordinal, step, kind, name, arguments_digest, outcome_digest, result, error, epoch,
        start_time_micros, end_time_micros
    )
    select
        s.job_id, s.series, s.ordinal, s.step, s.kind, s.name,
        substr($27::bytea, s.arguments_start, s.arguments_length),
        substr($30::bytea, s.outcome_start, s.outcome_length),
        substr($33::bytea, s.result_start, s.result_length), substr($36::bytea, s.error_start, s.error_length),
        s.epoch, s.start_time_micros, s.end_time_micros
    from unnest(
        $21::text::uuid[], $22::text::int[], $23::text::int[], $24::text::text[], $25::text::smallint[],
        $26::text::text[], $28::text::int[], $29::text::int[], $31::text::int[], $32::text::int[], $34::text::int[],
        $35::text::int[], $37::text::int[], $38::text::int[], $39::text::bigint[], $40::text::bigint[],
        $41::text::bigint[]
    ) as s (
        job_id, series, ordinal, step, kind, name, arguments_start, arguments_length, outcome_start, outcome_length,
        result_start, result_length, error_start, error_length, epoch, start_time_micros, end_time_micros
    )
),
added_versions as (
    insert into state_versions (client_id, collection, key, version, body, job_id, epoch, create_time_micros)
    select
        v.client_id, v.collection, v.key, v.version, substr($46::bytea, v.start, v.length), v.job_id, v.epoch,
        v.create_time_micros
    from unnest(
        $42::text::text[], $43::text::text[], $44::text::text[], $45::text::bigint[], $47::text::int[],
        $48::text::int[], $49::text::uuid[], $50::text::bigint[], $51::text::bigint[]
    ) as v (client_id, collection, key, version, start, length, job_id, epoch, create_time_micros)
)
insert into blocks (chain, height, timeline, prev_hash, merkle_root, hash, event_count, time_micros)
values ($1, $2, $3, $4, $5, $6, $7, $8);
