"""What `perf/service_sync.py` measures with: Services as objects, real maps on a bpffs of their own, and the peers."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from agent.service_sync import ServiceSync
from cluster.resources import EndpointSlice, Service, parse
from cluster.store import Store
from datapath import bpfcall
from datapath.abi import MAPS
from datapath.maps import Maps, maps_folder
from perf.service_rules import PORT, TARGET_PORT, Rules
from tests.testbed.netns import nsenter
from tests.unit.shelf import Shelf

ENDPOINTS = 10
NODE = "node-a"


def address(network: int, number: int) -> str:
    """The address number so and so of a /8."""
    return f"{network}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def make_services(count: int) -> list[Rules]:
    """That many Services with ten endpoints each."""
    vips = 0x600000  # 10.96.0.0
    return [
        Rules(
            f"default/s{number}",
            address(10, vips + number),
            tuple(address(11, number * ENDPOINTS + index) for index in range(ENDPOINTS)),
        )
        for number in range(count)
    ]


def service_object(one: Rules) -> dict[str, Any]:
    """The Service as the API gives it."""
    spec = {"clusterIP": one.address, "ports": [{"name": "http", "port": PORT, "targetPort": TARGET_PORT}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(one.name), "spec": spec}


def slice_object(one: Rules) -> dict[str, Any]:
    """Its EndpointSlice."""
    metadata = _metadata(one.name)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata | {"labels": {"kubernetes.io/service-name": metadata["name"]}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [one], "conditions": {"ready": True}} for one in one.endpoints],
    }


def _metadata(key: str) -> dict[str, Any]:
    namespace, _, name = key.partition("/")
    return {"namespace": namespace, "name": name}


def parsed(services: Sequence[Rules]) -> list[Service | EndpointSlice]:
    """The objects of all, as a store holds them."""
    raw = [make(one) for one in services for make in (service_object, slice_object)]
    return [cast("Service | EndpointSlice", parse(one)) for one in raw]


@contextmanager
def fresh_maps() -> Iterator[Path]:
    """The root of a bpffs with empty maps, without programs; gone afterwards."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dragline-perf-")))
        subprocess.run(["mount", "-t", "bpf", "bpf", root], check=True)
        stack.callback(subprocess.run, ["umount", root], check=True)
        folder = maps_folder(root)
        folder.mkdir(parents=True)
        for spec in MAPS:
            sizes = spec.key_size, spec.value_size, spec.max_entries
            bpfcall.obj_pin(bpfcall.map_create(spec.kind, *sizes, spec.flags, spec.name), folder / spec.name)
        yield root


class Stamped:
    """The table `services`, which notes when a write has come back from the kernel."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._loop = asyncio.get_running_loop()
        self.written = asyncio.Event()
        self.written_at = 0.0
        self.entries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def put_many(self, entries: Sequence[Any]) -> None:
        self._table.put_many(entries)
        self.written_at = time.perf_counter()
        self.entries += len(entries)
        self._loop.call_soon_threadsafe(self.written.set)


class Ours:
    """ServiceSync on real maps, with a store in memory. To be made on the loop."""

    def __init__(self, root: Path, store: Shelf) -> None:
        self._maps, self._store = Maps(root), store
        self.services = Stamped(self._maps.services)
        self._maps.services = cast(Any, self.services)
        self.sync = ServiceSync(cast(Store, store), self._maps, NODE)

    async def start(self) -> float:
        """Seconds from the objects in the store to everything in the maps."""
        begin = time.perf_counter()
        self._task = asyncio.create_task(self.sync.run())
        while not self.sync.synced:
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0.005)
        return time.perf_counter() - begin

    async def change(self, changed: EndpointSlice) -> float:
        """Seconds from the store's event to the slot in the map."""
        self.services.written.clear()
        begin = time.perf_counter()
        self._store.put(changed)
        await self.services.written.wait()
        return self.services.written_at - begin

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._maps.close()


class Peer:
    """A network namespace in which one command takes rules on its standard input."""

    def __init__(self) -> None:
        self._name = f"ps-{secrets.token_hex(2)}"

    def __enter__(self) -> Peer:
        subprocess.run(["ip", "netns", "add", self._name], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "delete", self._name], check=True)

    def run(self, command: Sequence[str], rules: str) -> float:
        """Seconds from exec to exit."""
        line, text = nsenter(self._name, command), rules.encode()
        begin = time.perf_counter()
        subprocess.run(line, input=text, check=True)
        return time.perf_counter() - begin
