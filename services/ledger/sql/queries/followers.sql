-- Singleton leases and followers' cursors.

-- acquire_singleton --
-- Take or extend a lease; returns nothing while another holder has it.
insert into singletons as s (name, holder, epoch, expire_time_micros)
values ($1, $2, 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint + $3)
on conflict (name) do update set
    holder = excluded.holder,
    epoch = s.epoch + case when s.holder = excluded.holder then 0 else 1 end,
    expire_time_micros = (extract(epoch from clock_timestamp()) * 1000000)::bigint + $3
where s.holder = excluded.holder or s.expire_time_micros <= (extract(epoch from clock_timestamp()) * 1000000)::bigint
returning s.epoch, s.expire_time_micros;

-- read_singleton --
-- Who has a lease, and until when.
select s.holder, s.expire_time_micros from singletons s where s.name = $1;

-- release_singleton --
-- End a lease at once; the next holder, the same process included, gets the next epoch.
update singletons set holder = '', expire_time_micros = 0 where name = $1 and holder = $2 and epoch = $3;

-- store_cursor --
-- Store a cursor under the current epoch of the singleton of its name.
with current as (
    select s.epoch from singletons s where s.name = $1 and s.epoch = $2 for update
)
insert into cursors (name, epoch, positions, data, update_time_micros)
select $1, $2, $3::bytea[], $4, (extract(epoch from clock_timestamp()) * 1000000)::bigint from current
on conflict (name) do update set
    epoch = excluded.epoch, positions = excluded.positions, data = excluded.data,
    update_time_micros = excluded.update_time_micros
returning epoch;
