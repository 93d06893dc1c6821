from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ledger.page_tokens import make_token, page_size_of, read_token
from workmesh.common.v1.job_pb2 import Lane
from workmesh.errors import MeshError
from workmesh.ledger.v1.ledger_read_service_pb2 import ListJobsRequest, ListStatesRequest

JOB = "0199d1f5-0000-7000-8000-000000000001"


def refusal(request: ListJobsRequest, token: str) -> MeshError:
    with pytest.raises(MeshError) as caught:
        read_token(request, token, str)
    assert caught.value.reason == "INVALID_FIELD"
    return caught.value


def test_the_first_page_has_no_key() -> None:
    assert read_token(ListJobsRequest(), "", str) is None


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=256))
def test_a_token_carries_any_key_a_document_may_have(key: str) -> None:
    request = ListStatesRequest(client_id="a", collection="b")
    token = make_token(request, [key])
    assert read_token(request, token, str) == [key]
    assert token.isascii()
    assert not set(token) & set("+/=")


def test_a_token_goes_on_with_another_page_size() -> None:
    token = make_token(ListJobsRequest(client_id="a", page_size=5), [JOB])
    assert read_token(ListJobsRequest(client_id="a", page_size=9, page_token=token), token, str) == [JOB]


@pytest.mark.parametrize(
    "other",
    [
        ListJobsRequest(client_id="b", labels={"x": "1", "y": "2"}),
        ListJobsRequest(client_id="a", labels={"x": "1"}),
        ListJobsRequest(client_id="a", labels={"x": "1", "y": "2"}, lane=Lane.LANE_BATCH),
    ],
)
def test_a_token_of_another_filter_is_refused(other: ListJobsRequest) -> None:
    token = make_token(ListJobsRequest(client_id="a", labels={"y": "2", "x": "1"}), [JOB])
    same = ListJobsRequest(client_id="a", labels={"x": "1", "y": "2"})
    assert read_token(same, token, str) == [JOB]
    assert "another filter" in str(refusal(other, token))


def test_a_token_of_another_list_is_refused() -> None:
    refusal(ListJobsRequest(), make_token(ListStatesRequest(), [JOB]))


def encoded(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode()


@pytest.mark.parametrize(
    "token",
    ["x", "%%%", "é", "A" * 5000, encoded(b"{}"), encoded(b"[]"), encoded(b"[1,2]"), encoded(b"nonsense")],
)
def test_a_malformed_token_is_refused(token: str) -> None:
    assert refusal(ListJobsRequest(), token).violations[0].field == "page_token"


@pytest.mark.parametrize("key", ["a\0b", 7])
def test_a_forged_key_that_the_database_could_not_take_is_refused(key: str | int) -> None:
    refusal(ListJobsRequest(), make_token(ListJobsRequest(), [key]))


@pytest.mark.parametrize("key", [-1, 1 << 31])
def test_a_forged_number_out_of_range_is_refused(key: int) -> None:
    with pytest.raises(MeshError):
        read_token(ListJobsRequest(), make_token(ListJobsRequest(), [key]), int)


@pytest.mark.parametrize(("asked", "given_"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000)])
def test_page_sizes_have_a_default_and_a_cap(asked: int, given_: int) -> None:
    assert page_size_of(asked) == given_


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(MeshError) as caught:
        page_size_of(-1)
    assert caught.value.violations[0].field == "page_size"
