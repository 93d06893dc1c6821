-- The committed log, as workmesh_feed or workmesh_auditor.

-- heads --
-- The newest position of every chain.
select block.timeline, block.chain, block.height, block.hash
from chains as chain
cross join lateral (
    select timeline, chain, height, hash
    from blocks
    where blocks.chain = chain.chain
    order by height desc
    limit 1
) as block
order by block.chain

-- block_hashes --
-- The hashes of the blocks at the given places; those that do not exist are left out.
select block.chain, block.height, block.hash
from unnest($1::int[], $2::bigint[]) as wanted (chain, height)
join blocks as block on block.chain = wanted.chain and block.height = wanted.height

-- blocks_after --
-- The next blocks of the chain $1 above the height $2 with their events: at least one, then as many as begin
-- within $3 events and $4 bytes of events.
with headers as (
    select
        chain, height, timeline, prev_hash, merkle_root, hash, time_micros, event_count,
        sum(event_count) over (order by height) - event_count as events_before
    from (
        select chain, height, timeline, prev_hash, merkle_root, hash, time_micros, event_count
        from blocks
        where chain = $1 and height > $2
        order by height
        limit 256
    ) as next
),
sized as (
    select
        headers.chain, height, timeline, prev_hash, merkle_root, hash, time_micros, event_count,
        sum(size.bytes) over (order by height) - size.bytes as bytes_before
    from headers
    cross join lateral (
        select coalesce(sum(octet_length(event.body)), 0) as bytes
        from events as event
        where event.chain = headers.chain and event.height = headers.height
    ) as size
    where events_before < $3
)
select chain, height, timeline, prev_hash, merkle_root, hash, time_micros, event_count, bodies.events
from sized
cross join lateral (
    select coalesce(array_agg(event.body order by event.index), '{}') as events
    from events as event
    where event.chain = sized.chain and event.height = sized.height
) as bodies
where bytes_before < $4
order by height

-- cursor --
-- A follower's cursor.
select epoch, positions, data
from cursors
where name = $1
