from __future__ import annotations

import pickle

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st

from workmesh import errors
from workmesh.errors import MeshError, Precondition, Quota, Violation

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_CODES = st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
_NANOSECONDS = st.integers(0, 10**12)

_ERRORS = st.builds(
    lambda code, reason, message, metadata, violations, nanos, conditions, quotas: MeshError(
        code,
        reason,
        message,
        metadata=metadata,
        violations=tuple(violations),
        retry_after=None if nanos is None else nanos / 1e9,
        preconditions=tuple(conditions),
        quotas=tuple(quotas),
    ),
    _CODES,
    st.from_regex("[A-Z_]{1,63}", fullmatch=True),
    _TEXT,
    st.dictionaries(_TEXT, _TEXT, max_size=3),
    st.lists(st.builds(Violation, _TEXT, _TEXT), max_size=3),
    st.none() | _NANOSECONDS,
    st.lists(st.builds(Precondition, _TEXT, _TEXT, _TEXT), max_size=3),
    st.lists(st.builds(Quota, _TEXT, _TEXT), max_size=3),
)


def same(left: MeshError, right: MeshError) -> bool:
    return (left.code, left.reason, left.message, left._details()) == (
        right.code,
        right.reason,
        right.message,
        right._details(),
    )


@given(_ERRORS)
def test_an_error_survives_the_way_through_a_status(error: MeshError) -> None:
    data = errors.to_status(error).SerializeToString()
    back = errors.from_status(status_pb2.Status.FromString(data))
    if error.retry_after is not None:
        assert back.retry_after == pytest.approx(error.retry_after, abs=1e-9)
        back.retry_after = error.retry_after
    assert same(error, back)


@given(_ERRORS)
def test_an_error_survives_copying_and_pickling(error: MeshError) -> None:
    assert same(error, error.copy())
    assert same(error, pickle.loads(pickle.dumps(error)))  # noqa: S301


@given(_ERRORS)
def test_each_kind_of_detail_comes_at_most_once_and_the_cause_always(error: MeshError) -> None:
    kinds = [detail.type_url for detail in errors.to_status(error).details]
    assert len(set(kinds)) == len(kinds)
    assert kinds[0] == "type.googleapis.com/google.rpc.ErrorInfo"


def rpc_error(code: grpc.StatusCode, details: str, trailers: Metadata) -> AioRpcError:
    return AioRpcError(code, Metadata(), trailers, details)


def test_a_failed_call_yields_the_error_that_its_server_raised() -> None:
    sent = errors.aborted("STALE_EPOCH", "superseded", epoch="3")
    trailers = Metadata((errors.STATUS_DETAILS_KEY, errors.to_status(sent).SerializeToString()))
    assert same(errors.from_rpc_error(rpc_error(grpc.StatusCode.ABORTED, "x", trailers)), sent)


def test_a_failed_call_without_details_keeps_code_and_message() -> None:
    error = errors.from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "connection refused", Metadata()))
    assert (error.code, error.reason, error.message) == (
        grpc.StatusCode.UNAVAILABLE,
        "DEPENDENCY_DOWN",
        "connection refused",
    )


@pytest.mark.parametrize(
    "details",
    ["Stream removed (RST_STREAM (Received RST_STREAM with error code 2))", "Internal error from Core"],
)
def test_a_stream_that_was_cut_reads_as_unavailable(details: str) -> None:
    error = errors.from_rpc_error(rpc_error(grpc.StatusCode.INTERNAL, details, Metadata()))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_DOWN")


def test_an_internal_error_that_the_server_answered_stays_one() -> None:
    error = errors.from_rpc_error(rpc_error(grpc.StatusCode.INTERNAL, "internal error", Metadata()))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


def test_a_status_of_an_unknown_code_is_unknown() -> None:
    assert errors.from_status(status_pb2.Status(code=99, message="?")).code is grpc.StatusCode.UNKNOWN


def test_details_of_kinds_we_do_not_know_are_passed_over() -> None:
    status = errors.to_status(errors.not_found("job", "j"))
    status.details.add().Pack(error_details_pb2.DebugInfo(detail="of no concern"))
    assert errors.from_status(status).reason == "JOB_NOT_FOUND"


def test_an_absent_status_means_success() -> None:
    assert errors.is_ok(status_pb2.Status())
    assert not errors.is_ok(errors.to_status(errors.internal()))


def test_an_error_names_its_fields_to_a_reader_of_logs() -> None:
    error = errors.invalid_argument("two things are wrong", Violation("agent", "is no name"))
    assert str(error) == "INVALID_ARGUMENT INVALID_FIELD: two things are wrong (agent: is no name)"
