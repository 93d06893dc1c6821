-- Agent definitions.

-- add_agents --
-- Make the rows of agents that are new, so that there is something to lock.
insert into agents (agent, default_version, update_time_micros)
select n.agent, 0, 0 from unnest($1::text[]) as n (agent)
on conflict (agent) do nothing;

-- lock_agents --
-- Lock agents in key order.
select a.agent from agents a where a.agent = any ($1::text[]) order by a.agent for update;

-- find_versions --
-- All versions of agents that are locked.
select d.agent, d.version, d.digest from definitions d where d.agent = any ($1::text[]);

-- add_versions --
-- Store new versions.
insert into definitions (agent, version, digest, body, create_time_micros)
select n.agent, n.version, n.digest, n.body, $5
from unnest($1::text[], $2::int[], $3::text[], $4::bytea[]) as n (agent, version, digest, body);

-- set_defaults --
-- Make versions their agents' defaults.
update agents a set default_version = n.version, update_time_micros = $3
from unnest($1::text[], $2::int[]) as n (agent, version)
where a.agent = n.agent;

-- read_definitions --
-- Definitions by agent and version.
select d.agent, d.version, d.body
from unnest($1::text[], $2::int[]) as n (agent, version)
join definitions d on d.agent = n.agent and d.version = n.version;
