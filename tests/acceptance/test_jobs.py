"""Jobs through all five layers, seen from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tests.acceptance.client import CALL_SECONDS, MeshClient, refused, submission
from tests.acceptance.conftest import Connect
from workmesh.common.v1 import job_pb2 as states
from workmesh.gateway.v1 import job_service_pb2 as pb
from workmesh.gateway.v1 import state_service_pb2 as state_pb
from workmesh.gateway.v1.job_pb2 import Job


async def test_a_job_goes_through_all_five_layers_and_comes_back(client: MeshClient) -> None:
    job_id = await client.submit(submission("echo", {"text": "hello"}))
    job = await client.result(job_id)
    assert job.state == states.JOB_STATE_SUCCEEDED
    assert job.output["text"] == "hello"
    assert (job.attempt, job.epoch) == (1, 1)
    whole = await client.get(job_id)
    assert whole.input["text"] == "hello"
    assert whole.output["text"] == "hello"


async def test_the_same_request_id_gives_the_same_job(client: MeshClient) -> None:
    job = submission("echo", {"text": "once"})
    first = await client.submit(job)
    assert await client.submit(job) == first
    (result,) = await client.submit_all([job])
    assert (result.job_id, result.existing) == (first, True)


async def test_a_request_id_with_another_body_is_refused(client: MeshClient) -> None:
    job = submission("echo", {"text": "once"})
    await client.submit(job)
    job.input["text"] = "twice"
    error = await refused(client.submit(job))
    assert (error.code.name, error.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_concurrent_repeats_of_one_request_make_one_job(client: MeshClient) -> None:
    job = submission("echo", {"text": "race"})
    ids = await asyncio.gather(*(client.submit(job) for _ in range(50)))
    assert len(set(ids)) == 1


async def test_a_watch_sends_the_job_as_it_is_and_ends_when_it_is_terminal(client: MeshClient) -> None:
    job_id = await client.submit(submission("echo", {"text": "watched"}))
    seen = [response async for response in client.watch(job_id)]
    sequences = [response.job.seq for response in seen if response.HasField("job")]
    assert sequences == sorted(set(sequences))
    assert seen[-1].job.state == states.JOB_STATE_SUCCEEDED
    again = [response async for response in client.watch(job_id)]
    assert [response.job.state for response in again] == [states.JOB_STATE_SUCCEEDED]


async def test_a_business_failure_fails_the_job_with_its_reason(client: MeshClient) -> None:
    job = await client.result(await client.submit(submission("failer", {"business": "NO_SUCH_PORT"})))
    assert job.state == states.JOB_STATE_FAILED
    assert job.attempt == 1
    assert job.error.message == "declared by the handler"


async def test_a_failing_attempt_is_followed_by_another(client: MeshClient) -> None:
    job = submission("failer", {"until": 3})
    job.retry_policy.initial_delay.nanos = 10_000_000
    ended = await client.result(await client.submit(job))
    assert ended.state == states.JOB_STATE_SUCCEEDED
    assert (ended.attempt, ended.epoch, ended.output["attempt"]) == (3, 3, 3)


async def test_exhausted_retries_dead_letter_the_job(client: MeshClient) -> None:
    job = submission("failer", {})
    job.retry_policy.initial_delay.nanos = 10_000_000
    job.retry_policy.max_attempts = 2
    ended = await client.result(await client.submit(job))
    assert ended.state == states.JOB_STATE_DEAD_LETTERED
    assert ended.attempt == 2
    assert "attempt 2 breaks" in ended.error.message


async def test_a_job_in_the_future_waits_for_its_time(client: MeshClient) -> None:
    job = submission("echo", {"text": "later"})
    job.run_time.GetCurrentTime()
    job.run_time.seconds += 2
    job_id = await client.submit(job)
    assert (await client.get(job_id)).state == states.JOB_STATE_SCHEDULED
    ended = await client.result(job_id)
    assert ended.state == states.JOB_STATE_SUCCEEDED
    assert ended.update_time.ToMicroseconds() >= job.run_time.ToMicroseconds()


async def test_a_waiting_job_is_cancelled_at_once(client: MeshClient) -> None:
    job = submission("echo", {"text": "never"})
    job.run_time.GetCurrentTime()
    job.run_time.seconds += 3_600
    job_id = await client.submit(job)
    assert (await client.cancel(job_id, "not needed")).state == states.JOB_STATE_CANCELLED
    assert (await client.cancel(job_id)).state == states.JOB_STATE_CANCELLED
    assert (await client.result(job_id)).state == states.JOB_STATE_CANCELLED


async def test_a_running_job_is_cancelled_by_request(client: MeshClient) -> None:
    job_id = await client.submit(submission("waiter", {}))
    async for response in client.watch(job_id):
        if response.job.state == states.JOB_STATE_RUNNING:
            break
    await client.cancel(job_id, "enough")
    assert (await client.result(job_id)).state == states.JOB_STATE_CANCELLED


async def test_a_finished_job_cannot_be_cancelled(client: MeshClient) -> None:
    job_id = await client.submit(submission("echo", {"text": "done"}))
    await client.result(job_id)
    error = await refused(client.cancel(job_id))
    assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", "JOB_TERMINAL")


async def test_concurrent_writers_of_one_document_lose_no_update(client: MeshClient) -> None:
    results = await client.submit_all([submission("counter", {"key": "shared"}) for _ in range(100)])
    ended = await asyncio.gather(*(client.result(each.job_id) for each in results))
    assert {job.state for job in ended} == {states.JOB_STATE_SUCCEEDED}
    response = await client.state.GetState(
        state_pb.GetStateRequest(collection="counters", key="shared"),
        metadata=client.metadata,
        timeout=CALL_SECONDS,
    )
    assert response.document.body.number_value == 100
    assert response.document.version == 100


async def test_a_list_pages_through_all_jobs_newest_first(client: MeshClient) -> None:
    results = await client.submit_all([submission("echo", {"text": str(n)}) for n in range(25)])
    listed: list[str] = []
    request = pb.ListJobsRequest(agent="echo", page_size=10)
    while True:
        page = await client.jobs.ListJobs(request, metadata=client.metadata, timeout=CALL_SECONDS)
        listed += [job.job_id for job in page.jobs]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert listed == sorted((each.job_id for each in results), reverse=True)


async def test_a_stream_answers_in_order_and_sends_every_completion(client: MeshClient) -> None:
    jobs = [submission("echo", {"text": str(n)}) for n in range(500)]
    jobs[123].agent = "nobody"

    async def requests() -> AsyncIterator[pb.StreamJobsRequest]:
        for start in range(0, len(jobs), 50):
            yield pb.StreamJobsRequest(jobs=jobs[start : start + 50], completions=True, with_output=True)

    request_ids: list[str] = []
    accepted: set[str] = set()
    completed: dict[str, Job] = {}
    async for response in client.jobs.StreamJobs(requests(), metadata=client.metadata, timeout=90):
        request_ids += [result.request_id for result in response.results]
        accepted |= {result.job_id for result in response.results if not result.status.code}
        completed |= {job.job_id: job for job in response.completions}
    assert request_ids == [job.request_id for job in jobs]
    assert len(accepted) == 499
    assert set(completed) == accepted
    assert {job.state for job in completed.values()} == {states.JOB_STATE_SUCCEEDED}
    assert {job.output["text"] for job in completed.values()} == {str(n) for n in range(500) if n != 123}


async def test_a_stream_completes_jobs_that_an_earlier_request_created(client: MeshClient) -> None:
    job = submission("echo", {"text": "before"})
    job_id = await client.submit(job)
    await client.result(job_id)

    async def requests() -> AsyncIterator[pb.StreamJobsRequest]:
        yield pb.StreamJobsRequest(jobs=[job], completions=True)

    completions: list[Job] = []
    async for response in client.jobs.StreamJobs(requests(), metadata=client.metadata, timeout=30):
        completions += response.completions
    assert [each.job_id for each in completions] == [job_id]


async def test_urgent_jobs_overtake_those_that_wait(client: MeshClient) -> None:
    batch = [submission("echo", {"text": "b"}, lane=states.LANE_BATCH) for _ in range(1_000)]
    await client.submit_all(batch)
    urgent = [submission("echo", {"text": "c"}, lane=states.LANE_CRITICAL) for _ in range(20)]
    ended = await asyncio.gather(*(client.result(each.job_id) for each in await client.submit_all(urgent)))
    last = max(job.update_time.ToMicroseconds() for job in ended)
    page = await client.jobs.ListJobs(
        pb.ListJobsRequest(lane=states.LANE_BATCH, page_size=1_000),
        metadata=client.metadata,
        timeout=CALL_SECONDS,
    )
    later = [
        job
        for job in page.jobs
        if job.state != states.JOB_STATE_SUCCEEDED or job.update_time.ToMicroseconds() > last
    ]
    assert len(later) > 500, "most of the batch is served after the last urgent job"


async def test_another_clients_job_is_not_found(client: MeshClient, connect: Connect) -> None:
    job_id = await client.submit(submission("echo", {"text": "mine"}))
    async with connect("stranger") as stranger:
        for call in (stranger.get(job_id), stranger.cancel(job_id), stranger.result(job_id)):
            error = await refused(call)
            assert (error.code.name, error.reason) == ("NOT_FOUND", "JOB_NOT_FOUND")
    assert (await client.result(job_id)).state == states.JOB_STATE_SUCCEEDED
