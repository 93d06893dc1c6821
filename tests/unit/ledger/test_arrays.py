from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger import arrays


@given(st.lists(st.one_of(st.none(), st.binary(max_size=40)), max_size=12))
def test_every_byte_string_lies_where_its_place_says(values: list[bytes | None]) -> None:
    data, starts, lengths = arrays.blobs(values)
    assert isinstance(data, bytes)
    places = zip(_numbers(starts), _numbers(lengths), strict=True)
    found = [
        None if start is None else data[start - 1 : start - 1 + (length or 0)] for start, length in places
    ]
    assert found == values


def _numbers(literal: object) -> list[int | None]:
    assert isinstance(literal, str)
    inner = literal.removeprefix("{").removesuffix("}")
    return [None if each == "NULL" else int(each) for each in inner.split(",")] if inner else []


@pytest.mark.parametrize(
    ("values", "literal"),
    [
        ([], "{}"),
        (["a"], '{"a"}'),
        (["", "NULL", "{}", "a b", "x,y"], '{"","NULL","{}","a b","x,y"}'),
        (['say "hi"', "back\\slash"], '{"say \\"hi\\"","back\\\\slash"}'),
    ],
)
def test_texts_are_quoted(values: list[str], literal: str) -> None:
    assert arrays.texts(values) == [literal]


def test_rows_are_encoded_column_by_column() -> None:
    rows = [("id-1", 1, b"x"), ("id-2", 2, None)]
    encoded = arrays.encode(rows, arrays.ids, arrays.numbers, arrays.blobs)
    assert encoded == ["{id-1,id-2}", "{1,2}", b"x", "{1,NULL}", "{1,0}"]
    assert arrays.encode([], arrays.ids, arrays.blobs) == ["{}", b"", "{}", "{}"]
    assert arrays.flags([True, False]) == ["{t,f}"]
