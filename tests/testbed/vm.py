"""Debian's kernel in a virtual machine (virtme-ng, emulated), for machines whose kernel has no ipvlan.

The guest boots on this machine's own root file system: everything it writes is thrown away, except below the folders
named as writable. `python -m tests.testbed.vm -- COMMAND ...` runs a command there, in the checkout.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from tests.testbed import kernels
from tests.testbed.kernels import Kernel

CHECKOUT = Path(__file__).resolve().parents[2]
_HOST = "/tmp/dragline-host"
"""Where the guest sees this machine's root folder a second time."""
_UP, _READY = b"@@guest is up@@\n", b"@@guest is ready@@\n"
# One modprobe for what every use needs; the kernel itself loads the rest (dummy, 8021q, nft_ct ...) when first used.
_MODULES = "ipvlan macvlan veth bridge sch_ingress cls_bpf act_bpf nf_tables af_packet"


class GuestError(Exception):
    """The guest could not be started, or ended without running the command to its end."""


@cache
def has_ipvlan() -> bool:
    """Whether the running kernel can make an ipvlan link, by making one in a throw-away network namespace."""
    trial = "ip link add v0 type veth peer name v1 && ip link add link v0 name i0 type ipvlan mode l2"
    return subprocess.run(["unshare", "--net", "sh", "-c", trial], capture_output=True, check=False).returncode == 0


def unmet() -> str | None:
    """Why no guest can be booted here, whatever kernel, or None."""
    if shutil.which("qemu-system-x86_64") is None:
        return "has no qemu-system-x86"
    if shutil.which("busybox") is None:
        return "has no busybox-static"
    if not _vng().exists():
        return f"has no virtme-ng beside {sys.executable}"
    return None


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    writable: Sequence[Path] = (),
    timeout_s: float = 1800.0,
    kernel: Kernel | None = None,
) -> int:
    """Boot a guest, run `command` in the checkout there with its output streamed here, and return its exit code.

    environment is added to the guest's; only files below `writable` (absolute, existing) outlive the guest; timeout_s
    bounds boot and command together; kernel: the newest in /boot if None. Progress goes to stderr. Raises GuestError
    when there is no guest to boot, the time is over, or the guest died; it is killed then, as on any exception such as
    KeyboardInterrupt.
    """
    booted = kernel or kernels.installed()
    reason = unmet()
    if booted is None or reason is not None:
        raise GuestError(f"this machine {reason or kernels.NONE_INSTALLED}")
    say = Progress(f"Debian's kernel {booted.release} in a virtual machine")
    with tempfile.TemporaryDirectory(prefix="dragline-vm-") as scratch, say:
        script = Path(scratch, "init.sh")
        shared = [Path(scratch), *writable]
        script.write_text(_init_script(command, environment or {}, shared, booted), encoding="utf-8")
        arguments = _vng_arguments(booted.image, script, shared)
        with _started(arguments) as guest:
            _stream(guest, say, time.monotonic() + timeout_s)
        exit_file = Path(scratch, "exit")
        if not exit_file.exists():
            raise GuestError("the guest ended before the command did (a kernel panic, or too little memory?)")
        return int(exit_file.read_text(encoding="ascii"))


class Progress:
    """One line per stage with the elapsed seconds on stderr, and a sign of life every 10 s until `done`."""

    def __init__(self, title: str) -> None:
        self._start = time.monotonic()
        self._stage = "booting"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="vm progress", daemon=True)
        self._say(f"{title}: booting (10 to 40 s)")

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done()

    def stage(self, text: str) -> None:
        """A new stage began."""
        self._stage = text
        self._say(text)

    def done(self) -> None:
        """No more signs of life: the command's own output shows from now on."""
        self._ended.set()

    def _beat(self) -> None:
        while not self._ended.wait(10.0):
            self._say(f"still {self._stage}")

    def _say(self, text: str) -> None:
        print(f"vm: {time.monotonic() - self._start:4.0f} s  {text}", file=sys.stderr, flush=True)


def _vng() -> Path:
    return Path(sys.executable).with_name("vng")


def _init_script(command: Sequence[str], environment: Mapping[str, str], shared: Sequence[Path], kernel: Kernel) -> str:
    """What the guest runs: the mounts and modules a node has, then the command; its exit code goes to a file.

    shared: the scratch folder (for the exit code), then the other writable ones, in the order vng mounts them.
    """
    exit_file = shlex.quote(str(shared[0] / "exit"))
    variables = [
        f"{name}={value}" for name, value in {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **environment}.items()
    ]
    return "\n".join(
        [
            f"printf {shlex.quote(_UP.decode())}",
            "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf",
            "mkdir -p /run/netns /run/dragline",
            "mount -t tmpfs tmpfs /run/dragline",
            *_cached_files(shared, kernel),
            f"modprobe --all {_MODULES}",
            # The guest's own root folder is read-only where no overlay lies: keep caches and temporary files off it.
            "export HOME=/run/home TMPDIR=/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "mkdir -p $HOME",
            f"cd {shlex.quote(str(CHECKOUT))}",
            f"printf {shlex.quote(_READY.decode())}",
            f"env {shlex.join([*variables, *command])} </dev/null",
            f"echo $? >{exit_file}.new && mv {exit_file}.new {exit_file}",
            "",
        ]
    )


def _cached_files(shared: Sequence[Path], kernel: Kernel) -> list[str]:
    """Mount the machine's files once more, with a cache, over /usr and the checkout.

    Without it every open and every page fault of every process is a message to the emulator (9p, cache=none): loading
    LLVM for one compile took 36 s instead of 9. The checkout gets an overlay; the writable folders are put back on top.
    """
    tag, options = f"virtme.initmount{len(shared)}", "ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000"
    checkout = shlex.quote(str(CHECKOUT))
    kept = [(shlex.quote(str(folder)), f"/run/writable/{index}") for index, folder in enumerate(shared)]
    return [
        f"umount {_HOST} && mount -t 9p -o {options} {tag} {_HOST}",
        *(f"mkdir -p {aside} && mount --bind {folder} {aside}" for folder, aside in kept),
        f"mount --bind {_HOST}/usr /usr",
        *_linked_modules(kernel),
        "mkdir -p /run/overlay/upper /run/overlay/work",
        f"mount -t overlay -o xino=off,lowerdir={_HOST}{checkout},upperdir=/run/overlay/upper,workdir=/run/overlay/work"
        f" overlay {checkout}",
        *(f"mount --bind {aside} {folder}" for folder, aside in kept),
    ]


def _linked_modules(kernel: Kernel) -> list[str]:
    """Show a kernel's modules where modprobe looks for them, unless they lie there on this machine."""
    expected = Path("/lib/modules", kernel.release)
    if kernel.modules == expected:
        return []
    return [
        f"mount -t tmpfs modules {expected.parent}",
        f"ln -s {_HOST}{shlex.quote(str(kernel.modules))} {expected}",
    ]


def _vng_arguments(image: Path, script: Path, shared: Sequence[Path]) -> list[str]:
    folders = [*(f"--rwdir={folder}" for folder in shared), f"--rodir={_HOST}=/"]
    # --disable-kvm: on the machines this was tried on /dev/kvm opens but a guest hangs on it.
    # --force-9p: the init script mounts 9p. mitigations=off: page-table isolation is dear under emulation.
    return [
        *(str(_vng()), "--run", str(image), "--disable-kvm", "--user", "root", "--memory", "2G", "--cpus", "2"),
        *("--force-9p", "--append=mitigations=off", *folders, "--", "bash", str(script)),
    ]


@contextlib.contextmanager
def _started(arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The running guest; its whole process group is killed at the end, however the block is left."""
    path = f"{_vng().parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"  # vng looks for virtme-run there
    guest = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=CHECKOUT,
        env={**os.environ, "PATH": path},
        start_new_session=True,
    )
    try:
        yield guest
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guest.pid, signal.SIGKILL)
        guest.wait()
        if guest.stdout is not None:
            guest.stdout.close()


def _stream(guest: subprocess.Popen[bytes], say: Progress, deadline: float) -> None:
    """Copy the guest's output until it ends; the two markers become progress lines. Raises GuestError when late."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guest.pid, signal.SIGKILL)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), kill)
    timer.daemon = True
    timer.start()
    try:
        assert guest.stdout is not None
        output = guest.stdout.fileno()
        for chunk in _after_markers(iter(lambda: os.read(output, 65536), b""), say):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        guest.wait()
    finally:
        timer.cancel()
    if late.is_set():
        raise GuestError("the time given to the guest is over: it was killed")


def _after_markers(chunks: Iterator[bytes], say: Progress) -> Iterator[bytes]:
    """Hold lines back until the guest is ready (they hold the markers), then pass everything on as it comes."""
    head = b""
    for chunk in chunks:
        head = (head + chunk).replace(b"\r\n", b"\n")
        if _UP in head:
            before, _, head = head.partition(_UP)
            say.stage("guest is up, loading modules")
            yield before
        if _READY in head:
            before, _, after = head.partition(_READY)
            say.stage("running the command")
            say.done()
            yield before + after
            yield from chunks
            return
    yield head


def main() -> int:
    """The command line: run a command in the guest, exit with its code (125: no guest)."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed.vm", description="Run a command in the guest.")
    parser.add_argument("--writable", type=Path, action="append", default=[], help="folder whose changes are kept")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for boot and command (1800)")
    parser.add_argument("--kernel", help="its series, as 6.12 (default: the newest in /boot)")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args()
    kernel = kernels.find(options.kernel) if options.kernel else None
    if options.kernel and kernel is None:
        parser.error(f"this machine {kernels.unmet(options.kernel)}")
    signal.signal(signal.SIGTERM, _terminate)
    folders = [folder.resolve() for folder in options.writable]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        return run(options.command, writable=folders, timeout_s=options.timeout, kernel=kernel)
    except GuestError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
