"""The agents of an image: what the modules of WORKMESH_HANDLERS define."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping

from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.sdk.definition import Definition, DefinitionError, definition_of


class RegistryError(Exception):
    """The handlers cannot be loaded; the message names the module and the problem."""


class Registry:
    """Definitions by agent name."""

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self._definitions: dict[str, Definition] = {}
        for definition in definitions:
            known = self._definitions.setdefault(definition.name, definition)
            if known is not definition:
                raise RegistryError(
                    f"agent {definition.name!r} is defined by {_place(known)} and by {_place(definition)}"
                )

    @classmethod
    def load(cls, modules: Iterable[str]) -> Registry:
        """Import modules and collect what `@agent` defined in them; RegistryError tells why not."""
        found: list[Definition] = []
        for name in modules:
            definitions = list(_definitions_in(name))
            if not definitions:
                raise RegistryError(f"module {name} defines no agent: decorate a function with @agent")
            found += definitions
        return cls(found)

    @property
    def definitions(self) -> Mapping[str, Definition]:
        """Definitions by agent name."""
        return self._definitions

    def get(self, agent: str) -> Definition | None:
        """Return the definition of an agent."""
        return self._definitions.get(agent)

    def to_protos(self) -> list[AgentDefinition]:
        """Return what is applied to the ledger."""
        return [definition.to_proto() for definition in self._definitions.values()]


def _definitions_in(name: str) -> Iterator[Definition]:
    try:
        module = importlib.import_module(name)
    except DefinitionError as error:
        raise RegistryError(f"module {name}: {error}") from error
    except Exception as error:
        # Anything may go wrong in a user's module; the cause travels along for the log.
        raise RegistryError(f"module {name} cannot be imported: {type(error).__name__}: {error}") from error
    for value in vars(module).values():
        definition = definition_of(value)
        if definition is not None:
            yield definition


def _place(definition: Definition) -> str:
    return f"{definition.function.__module__}.{getattr(definition.function, '__qualname__', '?')}"
