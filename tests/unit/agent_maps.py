"""The model of the service maps with the names and tables that ServiceSync uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from datapath.entries import AddressEntry, BackendEntry
from datapath.table import Number
from tests.unit.service_maps import MapModel


class Flows:
    """A table with these packed rows."""

    def __init__(self, *rows: tuple[bytes, bytes]) -> None:
        self._rows = rows

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._rows)


class Numbered:
    """The model's backends under the keys that the table has."""

    def __init__(self, model: MapModel) -> None:
        self._model = model

    def put_many(self, entries: Sequence[tuple[Number, BackendEntry]]) -> None:
        self._model.backends.put_many(entries)

    def delete_many(self, keys: Iterable[Number]) -> None:
        self._model.backends.delete_many(keys)

    def items(self) -> list[tuple[Number, BackendEntry]]:
        return [(Number(number), entry) for number, entry in self._model.backends.items()]


class NoCounters(Flows):
    def delete_many(self, keys: Iterable[Number]) -> None:
        del keys


class AgentMaps:
    """The model with the names that the agent uses."""

    def __init__(self, model: MapModel, conntrack: Flows | None = None) -> None:
        self.model = model
        self.services = model.services
        self.backends = Numbered(model)
        self.conntrack = conntrack or Flows()
        self.affinity = self.socket_backends = self.socket_frontends = Flows()
        self.flow_counters = NoCounters()
        self.mark_address = model.mark_address

    def addresses(self) -> dict[str, AddressEntry]:
        return {address: AddressEntry(flags) for address, flags in self.model.marks.items()}
