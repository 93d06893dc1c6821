-- The ledger's tables as all migrations leave them; a test proves that they do.
--
-- Times are bigint microseconds since the epoch (database clock), as the contracts carry them; 0: none.
-- States, lanes and step kinds are the numbers of the contracts' enums. Text that is a key sorts by code
-- point, as Python sorts it, so that both sides lock rows in one order. Tables on the hot path have no
-- foreign keys: their rows are only written by the transactions that check what the keys would.

-- ---------------------------------------------------------------- the log

-- A chain belongs to the session that holds its advisory lock; it is closed when its timeline ends.
create table chains (
    chain int primary key,
    timeline bigint not null,
    instance text not null,
    create_time_micros bigint not null,
    -- this prevents a chain that no advisory lock can name
    constraint chains_number check (chain > 0)
);

-- One row a committed transaction. The head of a chain is its highest block.
create table blocks (
    chain int not null,
    height bigint not null,
    timeline bigint not null,
    prev_hash bytea not null,
    merkle_root bytea not null,
    hash bytea not null,
    event_count int not null,
    time_micros bigint not null,
    -- this prevents forks: the second writer of a height fails
    constraint blocks_pkey primary key (chain, height),
    -- this prevents a chain that begins anywhere but at its first block
    constraint blocks_height check (height > 0),
    -- this prevents blocks that commit to nothing
    constraint blocks_event_count check (event_count > 0),
    -- this prevents truncated hashes
    constraint blocks_hashes check (
        octet_length(prev_hash) = 32 and octet_length(merkle_root) = 32 and octet_length(hash) = 32
    )
);

-- `body` is the serialised Event, exactly the bytes that the Merkle root covers; the other columns repeat
-- what queries need and are checked against it by VerifyChains.
create table events (
    chain int not null,
    height bigint not null,
    index int not null,
    job_id uuid,
    seq bigint not null,
    type text collate "C" not null,
    client_id text collate "C" not null,
    time_micros bigint not null,
    body bytea not null,
    constraint events_pkey primary key (chain, height, index),
    -- this prevents events of a job outside its history, and a history without a job
    constraint events_seq check ((job_id is null) = (seq = 0) and seq >= 0)
);

-- this prevents two events at one place of a job's history
create unique index events_job_seq on events (job_id, seq) where job_id is not null;

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the log is append-only: % on % is refused', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;

-- these prevent changes of history by every role, the owner's included, and under replication's role too
create trigger events_append_only before update or delete or truncate on events
    for each statement execute function refuse_change();
alter table events enable always trigger events_append_only;
create trigger blocks_append_only before update or delete or truncate on blocks
    for each statement execute function refuse_change();
alter table blocks enable always trigger blocks_append_only;

-- ---------------------------------------------------------------- definitions

-- Immutable versions; `body` is the serialised AgentDefinition with its output-only fields.
create table definitions (
    agent text collate "C" not null,
    version int not null,
    digest text collate "C" not null,
    body bytea not null,
    create_time_micros bigint not null,
    constraint definitions_pkey primary key (agent, version),
    -- this prevents two versions of one content
    constraint definitions_digest unique (agent, digest),
    constraint definitions_version check (version > 0)
);

create trigger definitions_append_only before update or delete or truncate on definitions
    for each statement execute function refuse_change();
alter table definitions enable always trigger definitions_append_only;

-- The version that jobs get when they name none; 0 only inside the transaction that makes the first one.
create table agents (
    agent text collate "C" primary key,
    default_version int not null,
    update_time_micros bigint not null
);

-- ---------------------------------------------------------------- jobs

-- Narrow and updated in place; bodies lie in job_bodies. `ending` says how the current epoch ended:
-- 0 it has not (or none was granted), 1 committed, 2 reported failed or returned, 3 taken away (lost, cancelled).
create table jobs (
    job_id uuid primary key,
    client_id text collate "C" not null,
    request_id uuid not null,
    request_digest bytea not null,
    agent text collate "C" not null,
    version int not null,
    pool text collate "C" not null,
    lane smallint not null,
    fairness_key text not null,
    state smallint not null,
    -- Changes only when a job ends (or is redriven), so that the index of live jobs lets all other updates stay in the page.
    live boolean not null generated always as (state <= 5) stored,
    attempt int not null default 0,
    series int not null default 1,
    epoch bigint not null default 0,
    dispatch bigint not null default 1,
    seq bigint not null default 1,
    step_count int not null default 0,
    run_time_micros bigint not null default 0,
    deadline_micros bigint not null default 0,
    create_time_micros bigint not null,
    update_time_micros bigint not null,
    max_attempts int not null,
    retry_policy bytea not null,
    labels jsonb not null default '{}',
    parent_job_id uuid,
    traceparent text not null default '',
    lease_id uuid,
    instance text not null default '',
    lease_expire_micros bigint not null default 0,
    ending smallint not null default 0,
    cancel_requested boolean not null default false,
    cancel_reason text not null default '',
    error bytea,
    fingerprint bytea,
    -- this prevents two jobs for one request of a client
    constraint jobs_request unique (client_id, request_id),
    -- these prevent values outside the contracts' enums and counters that ran backwards
    constraint jobs_lane check (lane between 1 and 3),
    constraint jobs_state check (state between 1 and 9),
    constraint jobs_ending check (ending between 0 and 3),
    constraint jobs_counters check (
        attempt >= 0 and series >= 1 and epoch >= 0 and dispatch >= 1 and seq >= 1 and step_count >= 0
    ),
    -- this prevents a running job that nobody holds, and a lease on a job that does not run
    constraint jobs_lease check ((state = 3) = (lease_id is not null) and (state = 3) = (lease_expire_micros > 0)),
    -- this prevents attempts beyond the policy
    constraint jobs_attempts check (attempt <= max_attempts and max_attempts between 1 and 100),
    -- this prevents a dead letter without the group it belongs to
    constraint jobs_fingerprint check ((state = 9) = (fingerprint is not null))
) with (fillfactor = 50);

create index jobs_live on jobs (job_id) where live;
create index jobs_client on jobs (client_id, job_id);

-- Inputs and outputs: JSON bytes, insert-only.
create table job_bodies (
    job_id uuid not null,
    kind text collate "C" not null,
    body bytea not null,
    constraint job_bodies_pkey primary key (job_id, kind),
    -- this prevents bodies that nobody would find
    constraint job_bodies_kind check (kind in ('input', 'output'))
);

-- The journal. `ordinal` counts from 0 within (job_id, series); `outcome_digest` is the SHA-256 of `result`, or
-- of `error`, a serialised google.rpc.Status.
create table steps (
    job_id uuid not null,
    series int not null,
    ordinal int not null,
    step text collate "C" not null,
    kind smallint not null,
    name text not null,
    arguments_digest bytea not null,
    outcome_digest bytea not null,
    result bytea,
    error bytea,
    epoch bigint not null,
    start_time_micros bigint not null,
    end_time_micros bigint not null,
    -- this prevents two outcomes of one step
    constraint steps_pkey primary key (job_id, series, step),
    -- this prevents a step with both a result and an error
    constraint steps_outcome check (result is null or error is null)
);

-- ---------------------------------------------------------------- state

-- The current version of each document; its body is the row of that version in state_versions.
create table state_documents (
    client_id text collate "C" not null,
    collection text collate "C" not null,
    key text collate "C" not null,
    version bigint not null,
    job_id uuid not null,
    update_time_micros bigint not null,
    constraint state_documents_pkey primary key (client_id, collection, key)
) with (fillfactor = 70);

-- Every version of each document, the current one included; insert-only.
create table state_versions (
    client_id text collate "C" not null,
    collection text collate "C" not null,
    key text collate "C" not null,
    version bigint not null,
    body bytea not null,
    job_id uuid not null,
    epoch bigint not null,
    create_time_micros bigint not null,
    -- this prevents two documents of one version
    constraint state_versions_pkey primary key (client_id, collection, key, version),
    constraint state_versions_version check (version > 0)
);

-- ---------------------------------------------------------------- effects

-- Unsafe effects. state: 1 claimed, 2 done, 3 not done (may be claimed anew).
create table effects (
    job_id uuid not null,
    series int not null,
    step text collate "C" not null,
    tool text not null,
    arguments_digest bytea not null,
    state smallint not null,
    epoch bigint not null,
    call_deadline_micros bigint not null,
    claim_time_micros bigint not null,
    settle_time_micros bigint not null default 0,
    result bytea,
    source text not null default '',
    -- this prevents one step's effect from being claimed twice
    constraint effects_pkey primary key (job_id, series, step),
    constraint effects_state check (state between 1 and 3),
    -- this prevents outcomes of which nobody knows where they came from
    constraint effects_source check ((state = 1) = (source = ''))
);

create index effects_unsettled on effects (call_deadline_micros) where state = 1;

-- ---------------------------------------------------------------- followers

-- Leases of which one process at a time has one; epoch grows with each change of hands.
create table singletons (
    name text collate "C" primary key,
    holder text not null,
    epoch bigint not null,
    expire_time_micros bigint not null
);

-- How far followers came: serialised Positions, one per chain, and data of their own.
create table cursors (
    name text collate "C" primary key,
    epoch bigint not null,
    positions bytea[] not null,
    data bytea not null,
    update_time_micros bigint not null
);

-- ---------------------------------------------------------------- rights

-- Roles belong to the cluster, not to the database: another database may have made them.
do $$
declare
    name text;
begin
    foreach name in array array['workmesh_writer', 'workmesh_reader', 'workmesh_feed', 'workmesh_auditor'] loop
        begin
            execute format('create role %I nologin', name);
        exception when duplicate_object or unique_violation then
            null;
        end;
        if not pg_has_role(current_user, name, 'set') then
            execute format('grant %I to current_user with set true, inherit false', name);
        end if;
    end loop;
end
$$;

grant select, insert on
    chains, blocks, events, definitions, agents, jobs, job_bodies, steps, state_documents, state_versions,
    effects, singletons, cursors
    to workmesh_writer;
grant update (
    state, attempt, series, epoch, dispatch, seq, step_count, run_time_micros, update_time_micros, lease_id, instance,
    lease_expire_micros, ending, cancel_requested, cancel_reason, error, fingerprint
) on jobs to workmesh_writer;
grant update (version, job_id, update_time_micros) on state_documents to workmesh_writer;
grant update (state, epoch, call_deadline_micros, claim_time_micros, settle_time_micros, result, source)
    on effects to workmesh_writer;
grant update (default_version, update_time_micros) on agents to workmesh_writer;
grant update (holder, epoch, expire_time_micros) on singletons to workmesh_writer;
grant update (epoch, positions, data, update_time_micros) on cursors to workmesh_writer;

grant select on
    chains, blocks, events, definitions, agents, jobs, job_bodies, steps, state_documents, state_versions, effects
    to workmesh_reader;
grant select on chains, blocks, events, cursors to workmesh_feed;
grant select on
    chains, blocks, events, definitions, jobs, job_bodies, steps, state_versions, effects
    to workmesh_auditor;
