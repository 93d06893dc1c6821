"""The document of integrations: what is accepted, and how each mistake is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.toolhub import reading
from services.toolhub.integrations import Bounds, Effect, Kind, RetryPolicy, Timeouts
from services.toolhub.reading import load_integrations, read_integrations
from workmesh.config import ConfigError

FULL = """
integrations:
  - name: erp
    kind: http
    address: ${ERP_URL}/
    secret: {env: ERP_TOKEN}
    connections: 20
    bulkhead: {running: 64, waiting: 256}
    timeout: {try: 5s, total: 15s}
    retry: {max_tries: 4, initial_delay: 250ms, multiplier: 3, max_delay: 1m}
    settle_delay: 1.5
    operations:
      post_order:
        description: Writes an order.
        method: POST
        path: /orders
        effect: unsafe
        input: {type: object, properties: {reference: {type: string}}}
        output: {type: object}
        read_back: {operation: get_order, authoritative: true}
      get_order: {method: GET, path: "/orders/{reference}", effect: read}
  - {name: bench, kind: noop, operations: {echo: {effect: idempotent}}}
"""
ENVIRON = {"ERP_URL": "https://erp.example:8443/api", "ERP_TOKEN": "hush-hush"}


def problems(yaml: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_integrations(yaml, ENVIRON)
    return caught.value.problems


def one(**changed: str) -> str:
    """Return a document of one integration, some of its lines changed."""
    lines = {
        "name": "name: erp",
        "kind": "kind: http",
        "address": "address: http://erp",
        "more": "",
        "operations": "operations: {get: {method: GET, path: /, effect: read}}",
        **changed,
    }
    return "integrations:\n  - " + "\n    ".join(line for line in lines.values() if line)


def only(operation: str) -> str:
    """Return a document of one integration with one operation, g."""
    return one(operations=f"operations: {{g: {{{operation}}}}}")


def test_every_field_is_read() -> None:
    erp, bench = read_integrations(FULL, ENVIRON).values()
    assert (erp.name, erp.kind, erp.address) == ("erp", Kind.HTTP, "https://erp.example:8443/api")
    assert erp.secret is not None
    assert (erp.secret.header, erp.secret.reveal()) == ("Authorization", "Bearer hush-hush")
    assert (erp.connections, erp.bounds, erp.timeouts) == (20, Bounds(64, 256), Timeouts(5.0, 15.0))
    assert erp.retry == RetryPolicy(4, 0.25, 3.0, 60.0)
    assert erp.settle_delay == 1.5
    post = erp.operations["post_order"]
    assert (post.method, post.path, post.effect) == ("POST", "/orders", Effect.UNSAFE)
    assert post.input is not None
    assert post.output is not None
    assert post.read_back is not None
    assert (post.read_back.operation, post.read_back.authoritative) == ("get_order", True)
    assert (bench.kind, bench.operations["echo"].effect) == (Kind.NOOP, Effect.IDEMPOTENT)


def test_the_example_of_the_readme_is_right() -> None:
    readme = Path(reading.__file__).with_name("README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert set(read_integrations(example, ENVIRON)) == {"erp", "bench"}


def test_what_is_left_out_has_defaults() -> None:
    (erp,) = read_integrations(one(), {}).values()
    assert (erp.connections, erp.bounds, erp.timeouts) == (20, Bounds(), Timeouts())
    assert (erp.retry, erp.settle_delay, erp.secret) == (RetryPolicy(), 2.0, None)


def test_variables_are_replaced_in_numbers_too() -> None:
    (erp,) = read_integrations(
        one(more="connections: ${N}\n    timeout: {total: ${T}}"), {"N": "7", "T": "9s"}
    ).values()
    assert (erp.connections, erp.timeouts.total) == (7, 9.0)


def test_variables_may_stand_unquoted_anywhere() -> None:
    operations = "{g: {effect: read, method: GET, path: /}}"
    line = f"{{name: erp, kind: http, address: ${{ERP_URL}}/v${{N}}, operations: {operations}}}"
    (erp,) = read_integrations(f"integrations: [{line}]", {**ENVIRON, "N": "2"}).values()
    assert erp.address == "https://erp.example:8443/api/v2"


def test_schemas_are_taken_as_they_stand() -> None:
    schema = "operations: {get: {method: GET, path: /, effect: read, input: {const: '${X}'}}}"
    (erp,) = read_integrations(one(operations=schema), {}).values()
    assert erp.operations["get"].input is not None
    assert erp.operations["get"].input.json == b'{"const":"${X}"}'


def test_an_anchor_may_share_operations() -> None:
    yaml = one(operations="operations: &shared {get: {method: GET, path: /, effect: read}}")
    yaml += "\n  - {name: b, kind: http, address: http://b, operations: *shared}"
    assert set(read_integrations(yaml, {})["b"].operations) == {"get"}


def test_an_empty_list_is_no_mistake() -> None:
    assert read_integrations("integrations: []", {}) == {}


def test_all_mistakes_are_reported_together() -> None:
    found = problems(one(kind="kind: ftp", address="address: erp", more="conections: 3\n    connections: 0"))
    assert [each.split(" ")[0] for each in found] == [
        "integrations[0].kind",
        "integrations[0].address",
        "integrations[0].connections",
        "integrations[0].conections",
    ]


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        ("", "integrations.yaml is not a mapping"),
        ("[]", "integrations.yaml is not a mapping"),
        ("integrations: 3", "integrations.yaml.integrations is not a list"),
        ("integrations: []\nmore: 1", "integrations.yaml.more is not known here"),
        ("integrations: [3]", "integrations[0] is not a mapping"),
        ("integrations:\n  - {name: a, name: b}", "integrations.yaml:2: the key 'name' stands twice"),
        ("integrations: [{1: 2}]", "integrations.yaml:1: the key 1 is not text"),
        ("a: [", "integrations.yaml:1"),
        (one(name="name: Erp"), "integrations[0].name is 'Erp', not a name"),
        (one(name="description: x"), "integrations[0].name is missing"),
        (one(kind="kind: odata"), "integrations[0].kind is 'odata', not one of http, noop"),
        (one(address="address: ftp://x"), "integrations[0].address is not an address"),
        (one(address="address: http://"), "integrations[0].address is not an address"),
        (one(address="address: http://u:p@x"), "integrations[0].address holds credentials"),
        (one(address="address: http://x/?a=b"), "integrations[0].address holds a query"),
        (one(address="address: ${NOT_SET}"), "integrations[0].address names the variable NOT_SET"),
        (one(more="connections: many"), "integrations[0].connections is 'many', not a whole number"),
        (one(more="connections: true"), "integrations[0].connections is True, not a whole number"),
        (one(more="connections: 0"), "integrations[0].connections is 0, outside 1 to 1000"),
        (one(more="timeout: {try: 5 days}"), "integrations[0].timeout.try is '5 days', not a duration"),
        (one(more="timeout: {try: 5s, total: 3s}"), "integrations[0].timeout.try is longer than total"),
        (one(more="timeout: {retry: 5s}"), "integrations[0].timeout.retry is not known here"),
        (one(more="timeout: 5s"), "integrations[0].timeout is not a mapping"),
        (one(more="retry: {max_tries: 0}"), "integrations[0].retry.max_tries is 0, outside 1 to 10"),
        (one(more="retry: {multiplier: .nan}"), "integrations[0].retry.multiplier is nan, not a number"),
        (one(more="bulkhead: {running: 0}"), "integrations[0].bulkhead.running is 0, outside"),
        (one(more="secret: {}"), "integrations[0].secret names either env or file"),
        (one(more="secret: {env: A, file: B}"), "integrations[0].secret names either env or file"),
        (one(more="secret: {env: A}"), "integrations[0].secret.env names the variable A, which is not set"),
        (one(more="secret: {file: /nowhere}"), "integrations[0].secret.file cannot be read: No such file"),
        (one(more="secret: {env: ERP_TOKEN, header: Host}"), "integrations[0].secret.header 'Host'"),
        (one(operations="operations: {}"), "integrations[0].operations lists none"),
        (one(operations=""), "integrations[0].operations lists none"),
        (one(operations="operations: {G: {method: GET, path: /, effect: read}}"), "operations.G is no name"),
        (only("path: /, effect: read"), "operations.g.method is missing"),
        (only("method: GET, path: /"), "operations.g.effect is missing"),
        (
            only("method: get, path: /, effect: read"),
            "operations.g.method is 'get', not one of GET, POST, PUT, PATCH, DELETE",
        ),
        (
            only("method: GET, path: orders, effect: read"),
            "operations.g.path is 'orders', not a path",
        ),
        (
            only("method: GET, path: '/{a', effect: read"),
            "operations.g.path has braces",
        ),
        (
            only("method: GET, path: '/{a}/{a}', effect: read"),
            "operations.g.path names an argument twice",
        ),
        (
            only("method: GET, path: '/{a}', effect: read, input: {properties: {b: {}}}"),
            "operations.g.path names 'a', which is not among the input's properties",
        ),
        (
            only("method: GET, path: /, effect: read, input: {type: objekt}"),
            "operations.g.input is not a usable JSON Schema",
        ),
        (
            only("method: GET, path: /, effect: read, output: 7"),
            "operations.g.output is not a JSON Schema",
        ),
        (
            only("method: GET, path: /, effect: read, read_back: {operation: g}"),
            "operations.g.read_back belongs to unsafe operations only",
        ),
        (
            only("method: POST, path: /, effect: unsafe, read_back: {operation: h}"),
            "operations.g.read_back.operation names 'h', which is no operation here",
        ),
        (
            only("method: POST, path: /, effect: unsafe, read_back: {operation: g}"),
            "operations.g.read_back.operation names 'g', which is not of effect read",
        ),
        (
            only("method: POST, path: /, effect: unsafe, read_back: {}"),
            "operations.g.read_back.operation is missing",
        ),
        (
            one(kind="kind: noop", address="", operations="operations: {g: {effect: read, path: /}}"),
            "operations.g.path is not known here",
        ),
        (one(kind="kind: noop"), "integrations[0].address is not known here"),
        (one() + "\n" + one().partition("\n")[2], "integrations[1].name 'erp' stands twice"),
    ],
)
def test_a_mistake_is_named_with_its_place(yaml: str, problem: str) -> None:
    assert any(problem in each for each in problems(yaml)), problems(yaml)


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_integrations(tmp_path / "none.yaml", {})


def test_a_secret_that_no_header_may_hold_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("two\nlines")
    found = problems(one(more=f"secret: {{file: {tmp_path}/secret}}"))
    assert found == (
        "integrations[0].secret.file leads to a secret that holds characters no header may hold",
    )
