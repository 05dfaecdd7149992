"""The real agent's part of `perf/service_sync.py`: from a file's change in the folder it watches to the map."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from datapath.entries import ServiceEntry, ServiceKey
from datapath.maps import Maps
from datapath.table import Number
from perf.service_bed import ENDPOINTS, service_object, slice_object
from perf.service_rules import PORT, Rules
from tests.netns.agent_rig import AgentRig

START_S = 600.0
CHANGE_S = 10.0
POLL_S = 0.0002


class Unchanged(Exception):
    """A change did not get into the maps in time."""


def measure(services: Sequence[Rules], changes: Sequence[tuple[Rules, Rules]]) -> list[float]:
    """Seconds from the rename of a slice's file to the new endpoint in its slot, change by change."""
    with AgentRig() as rig:
        alone = {old.name for old, _ in changes}
        documents = [json.dumps(service_object(one)) for one in services]
        documents += [json.dumps(slice_object(one)) for one in services if one.name not in alone]
        for old, _ in changes:
            _write(rig, old)
        hidden = rig.folder.path / ".services.new"
        hidden.write_text("\n---\n".join(documents), encoding="utf-8")
        hidden.rename(rig.folder.path / "services.yaml")
        with Maps(rig.config.bpf_root) as maps:
            wait_until_all(rig, len(services))
            return [_change(rig, maps, old, new) for old, new in changes]


def wait_until_all(rig: AgentRig, count: int) -> None:
    """Wait until that many frontends with all their backends are programmed. Raises Unchanged."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        status = rig.agent.ask("status")
        if (status["frontends"], status["backends"]) == (count, count * ENDPOINTS):
            return
        time.sleep(0.1)
    raise Unchanged(f"{status['frontends']} of {count} frontends after {START_S:.0f} s")


def _write(rig: AgentRig, one: Rules) -> None:
    name = one.name.partition("/")[2]
    hidden = rig.folder.path / f".{name}.new"
    hidden.write_text(json.dumps(slice_object(one)), encoding="utf-8")
    hidden.rename(rig.folder.path / f"slice-{name}.yaml")


def _change(rig: AgentRig, maps: Maps, old: Rules, new: Rules) -> float:
    index = next(i for i, (one, other) in enumerate(zip(old.endpoints, new.endpoints, strict=True)) if one != other)
    key, before = _slot_of(maps, old, old.endpoints[index])
    begin = time.perf_counter()
    _write(rig, new)
    while maps.services.get(key) == before:
        if time.perf_counter() - begin > CHANGE_S:
            raise Unchanged(f"{new.name} after {CHANGE_S:.0f} s")
        time.sleep(POLL_S)
    return time.perf_counter() - begin


def _slot_of(maps: Maps, service: Rules, endpoint: str) -> tuple[ServiceKey, ServiceEntry]:
    """The slot that names an endpoint, and what it says. Raises Unchanged when none does."""
    for slot in range(1, ENDPOINTS + 1):
        key = ServiceKey(service.address, PORT, "TCP", slot)
        entry = maps.services.get(key)
        backend = maps.backends.get(Number(entry.backend_id)) if entry is not None else None
        if entry is not None and backend is not None and backend.address == endpoint:
            return key, entry
    raise Unchanged(f"{service.name} does not have {endpoint}")
