from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.integration.ledger_reads.databases import Databases
from tests.integration.ledger_reads.mesh import Ledger
from tests.integration.ledger_reads.served import Served, refused
from workmesh.common.v1.definition_pb2 import CodeHandler
from workmesh.ledger.v1 import ledger_read_service_pb2 as pb
from workmesh.ledger.v1.job_pb2 import StateWrite


async def put(ledger: Ledger, *writes: tuple[str, bytes], client_id: str = "client-a") -> str:
    (job_id,) = await ledger.create(client_id=client_id)
    (epoch,) = await ledger.begin(job_id)
    documents = [StateWrite(collection="shipments", key=key, body=body) for key, body in writes]
    await ledger.commit(job_id, epoch, writes=documents)
    return job_id


def ref(key: str, client_id: str = "client-a") -> pb.StateRef:
    return pb.StateRef(client_id=client_id, collection="shipments", key=key)


async def test_documents_are_returned_at_their_newest_version(ledger: Ledger, served: Served) -> None:
    await put(ledger, ("a", b"1"), ("b", b"1"))
    job_id = await put(ledger, ("a", b"2"), ("a", b"3"))
    request = pb.GetStatesRequest(refs=[ref("b"), ref("missing"), ref("a"), ref("a", "client-b")])
    documents = (await served.reads.GetStates(request, timeout=5)).documents
    assert [(each.key, each.version, each.body) for each in documents] == [
        ("b", 1, b"1"),
        ("missing", 0, b""),
        ("a", 3, b"3"),
        ("a", 0, b""),
    ]
    assert documents[2].job_id == job_id
    assert documents[2].update_time_micros > 0
    assert {each.collection for each in documents} == {"shipments"}


async def test_concurrent_reads_of_documents_are_each_answered_their_own(
    ledger: Ledger, served: Served
) -> None:
    await put(ledger, *((f"key-{number}", str(number).encode()) for number in range(40)))
    responses = await asyncio.gather(
        *(
            served.reads.GetStates(pb.GetStatesRequest(refs=[ref(f"key-{number}")]), timeout=10)
            for number in range(40)
        )
    )
    assert [each.documents[0].body for each in responses] == [str(n).encode() for n in range(40)]


async def test_documents_too_large_for_one_answer_are_refused_and_fewer_are_not(
    ledger: Ledger, served: Served
) -> None:
    body = b'"' + b"x" * 250_000 + b'"'
    for start in range(0, 20, 5):
        await put(ledger, *((f"{number:02}", body) for number in range(start, start + 5)))
    request = pb.GetStatesRequest(refs=[ref(f"{number:02}") for number in range(20)])
    error = await refused(served.reads.GetStates(request, timeout=10))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    request = pb.GetStatesRequest(refs=[ref(f"{number:02}") for number in range(10)])
    assert len((await served.reads.GetStates(request, timeout=10)).documents) == 10


async def test_a_list_of_large_documents_is_cut_to_what_fits_and_goes_on(
    ledger: Ledger, served: Served
) -> None:
    body = b'"' + b"x" * 250_000 + b'"'
    for start in range(0, 30, 5):
        await put(ledger, *((f"{number:02}", body) for number in range(start, start + 5)))
    request = pb.ListStatesRequest(client_id="client-a", collection="shipments", page_size=1000)
    keys: list[str] = []
    pages = 0
    while True:
        response = await served.reads.ListStates(request, timeout=10)
        keys += [each.key for each in response.documents]
        pages += 1
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert keys == [f"{number:02}" for number in range(30)]
    assert pages == 3


async def test_lists_of_documents_page_by_key_within_their_owner(ledger: Ledger, served: Served) -> None:
    await put(ledger, *((f"key {number}", b"1") for number in range(7)))
    await put(ledger, ("key 3x", b"1"), client_id="client-b")
    request = pb.ListStatesRequest(client_id="client-a", collection="shipments", page_size=3)
    pages: list[list[str]] = []
    while True:
        response = await served.reads.ListStates(request, timeout=5)
        pages.append([each.key for each in response.documents])
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert pages == [["key 0", "key 1", "key 2"], ["key 3", "key 4", "key 5"], ["key 6"]]
    other = pb.ListStatesRequest(client_id="client-a", collection="orders", page_token=request.page_token)
    error = await refused(served.reads.ListStates(other, timeout=5))
    assert error.violations[0].field == "page_token"


@pytest.mark.parametrize(
    ("refs", "field"),
    [
        ([], "refs"),
        ([ref("a")] * 257, "refs"),
        ([ref("")], "refs[0].key"),
        ([ref("x" * 257)], "refs[0].key"),
        ([ref("a"), ref("a\0b")], "refs[1].key"),
        ([ref("a", "")], "refs[0].client_id"),
        ([pb.StateRef(client_id="client-a", collection="No Name", key="a")], "refs[0].collection"),
    ],
)
async def test_malformed_references_are_refused_by_name(
    served: Served, refs: list[pb.StateRef], field: str
) -> None:
    error = await refused(served.reads.GetStates(pb.GetStatesRequest(refs=refs), timeout=5))
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def apply(ledger: Ledger, agent: str, versions: int, description: str = "") -> None:
    for number in range(versions):
        await ledger.apply(
            agent, code=CodeHandler(handler=f"{agent}-{number}"), description=description, pool="default"
        )


async def test_definitions_are_returned_by_version_and_by_default(ledger: Ledger, served: Served) -> None:
    await apply(ledger, "booking", 3)
    await apply(ledger, "document", 1)
    refs = [
        pb.DefinitionRef(agent="document"),
        pb.DefinitionRef(agent="nobody"),
        pb.DefinitionRef(agent="booking", version=2),
        pb.DefinitionRef(agent="booking", version=9),
        pb.DefinitionRef(agent="booking"),
    ]
    request = pb.GetDefinitionsRequest(definitions=refs)
    found = (await served.reads.GetDefinitions(request, timeout=5)).definitions
    assert [(each.agent, each.version, each.code.handler) for each in found] == [
        ("document", 1, "document-0"),
        ("booking", 2, "booking-1"),
        ("booking", 3, "booking-2"),
    ]


async def test_lists_of_definitions_hold_defaults_or_an_agents_versions(
    ledger: Ledger, served: Served
) -> None:
    for agent in ("alpha", "beta", "gamma"):
        await apply(ledger, agent, 3)

    async def pages(agent: str) -> list[list[tuple[str, int]]]:
        request = pb.ListDefinitionsRequest(agent=agent, page_size=2)
        listed = []
        while True:
            response = await served.reads.ListDefinitions(request, timeout=5)
            listed.append([(each.agent, each.version) for each in response.definitions])
            if not response.next_page_token:
                return listed
            request.page_token = response.next_page_token

    assert await pages("") == [[("alpha", 3), ("beta", 3)], [("gamma", 3)]]
    assert await pages("beta") == [[("beta", 1), ("beta", 2)], [("beta", 3)]]
    assert await pages("nobody") == [[]]


async def test_a_list_of_large_definitions_is_cut_to_what_fits_and_goes_on(
    ledger: Ledger, served: Served
) -> None:
    await apply(ledger, "booking", 5, description="x" * 900_000)
    request = pb.ListDefinitionsRequest(agent="booking", page_size=100)
    versions: list[list[int]] = []
    while True:
        response = await served.reads.ListDefinitions(request, timeout=10)
        versions.append([each.version for each in response.definitions])
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert versions == [[1, 2, 3, 4], [5]]


async def test_a_database_that_is_away_is_unavailable_and_answers_again_when_it_is_back(
    ledger: Ledger, served: Served, databases: Databases, database: str
) -> None:
    await put(ledger, ("a", b"1"))
    request = pb.GetStatesRequest(refs=[ref("a")])
    await served.reads.GetStates(request, timeout=5)
    await databases.shut(database)
    error = await refused(served.reads.GetStates(request, timeout=5))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_DOWN")
    assert error.retry_after
    await databases.reopen(database)
    assert (await served.reads.GetStates(request, timeout=5)).documents[0].body == b"1"
