"""bpf/*.c to pinned programs: flatten, digest, adopt what is pinned already, else compile with BCC in a child process.

Why a child: importing bcc brings LLVM (tens of MB that a daemon would keep), bcc prints the verifier's log on stderr,
takes the kernel source path from the environment, and warns on import. The child pins and exits; the agent itself
never imports bcc. Why one flat text: bcc rewrites map accesses of the main file only, not of included headers.

Pins: `<bpf_root>/v2/maps/NAME` (made here from abi.MAPS, so an adopted table is checked, never assumed) and
`<bpf_root>/v2/progs/<digest>/NAME`.
"""

import hashlib
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from datapath import bpfcall, migration
from datapath.abi import ABI_VERSION, CALL_BACK_TO_POD, CALL_FROM_POD, CALL_TO_POD, MAPS, MapSpec
from datapath.maps import maps_folder

HOUSE = Path(__file__).resolve().parent.parent
SOURCES = HOUSE / "bpf"
_INCLUDE = re.compile(r'#include "(lib/\w+\.h)"')
_CFLAGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter")
_COMPILE_TIMEOUT_S = 600.0  # a second on a node; minutes in an emulated guest under load


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """One program: its C function, its file in bpf/, where it is attached, and the slot of `calls` that holds it.

    `attach_type` is a cgroup program's bpf_attach_type number; None: the program is a tc one.
    """

    name: str
    source: str
    hook: str
    call_slot: int | None = None
    attach_type: int | None = None


PROGRAMS: tuple[ProgramSpec, ...] = (
    ProgramSpec("hold_egress", "hold_pod.c", "clsact egress of the slave, in the pod's netns"),
    ProgramSpec("from_pod", "from_pod.c", "slot 0 of calls, from hold_egress", CALL_FROM_POD),
    ProgramSpec("back_to_pod", "back_to_pod.c", "slot 2 of calls, from from_pod", CALL_BACK_TO_POD),
    ProgramSpec("node_to_pod", "node_to_pod.c", "clsact egress of the uplink, in the node's netns"),
    ProgramSpec("hold_ingress", "hold_pod.c", "clsact ingress of the slave, in the pod's netns"),
    ProgramSpec("to_pod", "to_pod.c", "slot 1 of calls, from hold_ingress", CALL_TO_POD),
    ProgramSpec("connect4", "sock.c", "cgroup connect4", attach_type=10),
    ProgramSpec("connect6", "sock.c", "cgroup connect6", attach_type=11),
    ProgramSpec("sendmsg4", "sock.c", "cgroup sendmsg4", attach_type=14),
    ProgramSpec("sendmsg6", "sock.c", "cgroup sendmsg6", attach_type=15),
    ProgramSpec("recvmsg4", "sock.c", "cgroup recvmsg4", attach_type=19),
    ProgramSpec("recvmsg6", "sock.c", "cgroup recvmsg6", attach_type=20),
    ProgramSpec("getpeername4", "sock.c", "cgroup getpeername4", attach_type=29),
    ProgramSpec("getpeername6", "sock.c", "cgroup getpeername6", attach_type=30),
)
TC_PROGRAMS = tuple(spec for spec in PROGRAMS if spec.attach_type is None)
SOCKET_PROGRAMS = tuple(spec for spec in PROGRAMS if spec.attach_type is not None)


class BpfLoadError(Exception):
    """Programs or maps could not be made ready. `log` is what compiler or verifier said ("" when neither spoke)."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(f"{message}\n{log}" if log else message)
        self.log = log


class BpffsMissing(BpfLoadError):
    """`bpf_root` does not lie on a bpf file system."""


def flatten(sources: Path = SOURCES) -> str:
    """Give all programs as one text: local includes once each, `#line` marks so that messages name the real file."""
    seen: set[str] = set()

    def lines(name: str) -> Iterator[str]:
        if name in seen:
            return
        seen.add(name)
        yield f'#line 1 "bpf/{name}"'
        for number, line in enumerate((sources / name).read_text().splitlines(), 1):
            include = _INCLUDE.match(line)
            if include is None:
                yield line
                continue
            yield from lines(include[1])
            yield f'#line {number + 1} "bpf/{name}"'

    files = dict.fromkeys(spec.source for spec in PROGRAMS)
    return "\n".join(line for name in files for line in lines(name)) + "\n"


def digest(source: str, sources: Path = SOURCES) -> str:
    """Give the name of a build: a hash of everything that decides the machine code on our side."""
    stubs = sorted((sources / "stubs").rglob("*.h"))
    parts = [source, *_CFLAGS, *(f"{path.relative_to(sources)}\n{path.read_text()}" for path in stubs)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class Programs:
    """The pinned programs of one build, open. Descriptors are this object's; the pins outlive it."""

    def __init__(self, bpf_root: Path, build: str, fds: dict[str, int], compiled: bool) -> None:
        self.bpf_root = bpf_root
        self.build = build
        self.compiled = compiled
        self._fds = fds

    def fd(self, name: str) -> int:
        """Give the descriptor of a program by its name in PROGRAMS."""
        return self._fds[name]

    def close(self) -> None:
        """Close the descriptors."""
        _close_all(self._fds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _close_all(fds: dict[str, int]) -> None:
    while fds:
        os.close(fds.popitem()[1])


def check_bpffs(bpf_root: Path) -> None:
    """Raise BpffsMissing unless `bpf_root` (or its nearest existing parent) lies on a mounted bpffs."""
    existing = bpf_root.absolute()
    while not existing.exists():
        existing = existing.parent
    device = existing.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if fields.split()[2] == name and source.split()[0] == "bpf":
            return
    raise BpffsMissing(f"{bpf_root} is not on a bpf file system: mount -t bpf bpf /sys/fs/bpf")


def _open_map(path: Path, spec: MapSpec) -> int:
    """Open the pinned map, or make and pin it. BpfLoadError when what is pinned there has another layout."""
    try:
        fd = bpfcall.obj_get(path)
    except FileNotFoundError:
        fd = bpfcall.map_create(
            spec.kind, spec.key_size, spec.value_size, spec.max_entries, flags=spec.flags, name=spec.name
        )
        bpfcall.obj_pin(fd, path)
        return fd
    info = bpfcall.map_info(fd)
    found = MapSpec(spec.name, info.kind, info.key_size, info.value_size, info.max_entries, info.flags)
    if found != spec:
        os.close(fd)
        raise BpfLoadError(f"{path} has another layout: pinned {found}, wanted {spec}")
    return fd


def _open_programs(folder: Path, specs: Sequence[ProgramSpec], map_ids: frozenset[int]) -> dict[str, int] | None:
    """Open a pinned build. None when it is not complete, or was made with other maps than those pinned now."""
    fds: dict[str, int] = {}
    with suppress(FileNotFoundError):
        for spec in specs:
            fds[spec.name] = bpfcall.obj_get(folder / spec.name)
    if len(fds) == len(specs) and all(bpfcall.prog_map_ids(fd) <= map_ids for fd in fds.values()):
        return fds
    _close_all(fds)
    return None


def _remove(folder: Path) -> None:
    for pin in folder.iterdir():
        pin.unlink()
    folder.rmdir()


def _compile_in_child(source: str, specs: Sequence[ProgramSpec], maps: Path, folder: Path) -> None:
    """Compile and pin into `folder`, all or nothing: the child pins beside it, the folder gets its name last."""
    staging = folder.with_name(f"staging_{os.getpid()}")
    if staging.exists():  # left by a start that was killed; in a container every agent has the same number
        _remove(staging)
    staging.mkdir()
    environment = dict(os.environ)
    environment["BCC_KERNEL_SOURCE"] = str(SOURCES / "stubs")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HOUSE), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-W", "ignore", "-m", "datapath.loader", str(maps), str(staging)]
    command += [spec.name for spec in specs]
    try:
        done = subprocess.run(
            command,
            input=source,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_COMPILE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        _remove(staging)
        raise BpfLoadError(f"compiling the programs took more than {_COMPILE_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        _remove(staging)
        raise BpfLoadError("the programs could not be compiled or loaded", done.stderr)
    if folder.exists():
        _remove(folder)
    staging.rename(folder)


def _open_maps(folder: Path) -> dict[str, int]:
    fds: dict[str, int] = {}
    try:
        for spec in MAPS:
            fds[spec.name] = _open_map(folder / spec.name, spec)
    except OSError as error:
        _close_all(fds)
        raise BpfLoadError(f"map {spec.name}: {error}") from error
    except BpfLoadError:
        _close_all(fds)
        raise
    return fds


def _ready_programs(
    specs: Sequence[ProgramSpec], source: str, maps: Path, folder: Path, map_fds: dict[str, int]
) -> tuple[dict[str, int], bool]:
    """Adopt the build pinned in `folder`, else compile it. Give the descriptors, and whether it was compiled."""
    ids = frozenset(bpfcall.map_info(fd).map_id for fd in map_fds.values())
    fds = _open_programs(folder, specs, ids)
    if fds is not None:
        return fds, False
    _compile_in_child(source, specs, maps, folder)
    fds = _open_programs(folder, specs, ids)
    if fds is None:
        raise BpfLoadError(f"{folder}: the programs just pinned do not use the maps in {maps}")
    return fds, True


def load(bpf_root: Path, sources: Path = SOURCES, specs: Sequence[ProgramSpec] = PROGRAMS) -> Programs:
    """Make maps and these programs ready below `bpf_root`, put them into the slots of `calls`, drop older builds.

    A build that is pinned already is adopted in about a millisecond; else one compile (0.5 to 1 s).
    Raises BpffsMissing, BpfLoadError (with the compiler's or the verifier's log).
    """
    check_bpffs(bpf_root)
    if not re.fullmatch(r"[\w./-]+", str(bpf_root)):
        raise BpfLoadError(f"{str(bpf_root)!r}: bcc takes only letters, digits and ._/- in a pin's path")
    with suppress(ValueError, OSError):  # kernels before 5.11 count maps against it; later ones do not care
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    maps, builds = maps_folder(bpf_root), bpf_root / f"v{ABI_VERSION}" / "progs"
    maps.mkdir(mode=0o700, parents=True, exist_ok=True)
    builds.mkdir(mode=0o700, exist_ok=True)
    source = flatten(sources)
    build = digest(source, sources)
    migration.share_calls(bpf_root, maps)
    map_fds = _open_maps(maps)
    try:
        migration.take_over(bpf_root)
        fds, compiled = _ready_programs(specs, source, maps, builds / build, map_fds)
        slots = {spec.call_slot: fds[spec.name] for spec in specs if spec.call_slot is not None}
        migration.fill_slots(maps, slots)
    finally:
        _close_all(map_fds)
    for folder in builds.iterdir():
        if folder.name != build:
            _remove(folder)
    return Programs(bpf_root, build, fds, compiled)


def _compile_and_pin(source: str, maps: str, folder: Path, names: Sequence[str]) -> None:
    """In the child: the only use of bcc in the house."""
    from bcc import BPF  # here, and not at the top: the agent imports this module and must not pay for LLVM

    includes = f"-I{SOURCES / 'stubs' / 'include'}"
    compiled = BPF(text=source, cflags=[*_CFLAGS, f'-DBPF_MAPS="{maps}"', includes])
    for spec in PROGRAMS:
        if spec.name not in names:
            continue
        if spec.attach_type is None:
            function = compiled.load_func(spec.name, BPF.SCHED_CLS)
        else:
            function = compiled.load_func(spec.name, BPF.CGROUP_SOCK_ADDR, attach_type=spec.attach_type)
        bpfcall.obj_pin(function.fd, folder / spec.name)


if __name__ == "__main__":
    _compile_and_pin(sys.stdin.read(), sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
