"""Debian's kernels that a guest can boot: those in /boot, and those fetched once into a cache folder.

`python -m tests.testbed.kernels` fetches the series of SUITES that this machine lacks. It installs nothing: apt runs
with sources, lists and cache of its own in a scratch folder, on the mirror that this machine's apt is configured with,
and `dpkg -x` unpacks the image and its modules into the cache folder.
"""

import contextlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SUITES = {"6.1": "bookworm", "6.12": "trixie"}
"""The kernel series that the programs must pass, and the Debian suite whose linux-image-amd64 is of that series."""
FOLDER_VARIABLE = "DRAGLINE_KERNELS"
NONE_INSTALLED = "has no Debian kernel (linux-image-amd64) to boot"
_BOOT, _MODULES = Path("/boot"), Path("/lib/modules")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_COMMAND_TIMEOUT_S = 600.0  # a hundred megabytes over a slow line


class FetchError(Exception):
    """A kernel could not be fetched; the text says which command failed and what it said last."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bootable kernel: its image, its release as `uname -r` gives it, and the folder of its modules."""

    image: Path
    release: str
    modules: Path

    @property
    def number(self) -> list[int]:
        """What to order releases by."""
        return [int(part) for part in re.findall(r"\d+", self.release)]


def folder() -> Path:
    """Where fetched kernels are kept: outside the checkout, so that a fresh clone finds them."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "/var/cache/dragline/kernels")


def at(image: Path) -> Kernel:
    """The kernel of an image: an unpacked package has its modules beside boot/ (in usr/, as newer packages do)."""
    release = image.name.removeprefix("vmlinuz-")
    roots = (image.parents[1] / "usr", image.parents[1])
    found = (root / "lib/modules" / release for root in roots if image.parent != _BOOT)
    return Kernel(image, release, next((path for path in found if path.is_dir()), _MODULES / release))


def installed() -> Kernel | None:
    """The newest kernel in /boot that has its modules, or None."""
    return _newest(_BOOT.glob("vmlinuz-*-amd64"))


def find(series: str) -> Kernel | None:
    """The newest kernel of a series ("6.12"), of /boot or else of the cache folder; None: not on this machine."""
    return _newest(_BOOT.glob(f"vmlinuz-{series}.*-amd64")) or _newest(folder().glob(f"*/boot/vmlinuz-{series}.*"))


def is_running(series: str) -> bool:
    """Whether this machine's own kernel is of the series."""
    return platform.release().startswith(f"{series}.")


def unmet(series: str) -> str | None:
    """Why no guest can boot a kernel of the series, or None."""
    if find(series) is None:
        return f"has no Debian kernel {series}: `python -m tests.testbed.kernels` fetches it, or says why it cannot"
    return None


def fetch(series: str) -> Kernel:
    """Unpack the newest kernel of a series into the cache folder: 10 s on a good line. Raises FetchError."""
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder()) as scratch:
        release, package = _download(SUITES[series], Path(scratch))
        if not release.startswith(f"{series}."):
            raise FetchError(f"Debian {SUITES[series]} has kernel {release}, not {series}")
        tree = Path(scratch, "tree")
        _output("dpkg", "-x", str(package), str(tree))
        kernel = at(tree / "boot" / f"vmlinuz-{release}")
        _output("depmod", "-b", str(kernel.modules.parents[2]), release)
        with contextlib.suppress(OSError):  # another run was faster: its tree is as good
            tree.rename(folder() / release)
    found = find(series)
    if found is None:
        raise FetchError(f"the package of kernel {release} has no image or no modules where they are looked for")
    return found


def mirror_of(targets: str, codename: str) -> str | None:
    """The address of Debian's main archive, from lines "RELEASE ADDRESS" as apt-get indextargets prints them."""
    rows = (line.split() for line in targets.splitlines())
    return next((row[1] for row in rows if len(row) == 2 and row[0] == codename), None)


def release_of(depends: str) -> str | None:
    """The kernel release that linux-image-amd64 depends on, from what apt-cache depends prints."""
    named = re.search(r"^\s*Depends: linux-image-(\d\S*)$", depends, re.MULTILINE)
    return named[1] if named else None


def _newest(images: Iterable[Path]) -> Kernel | None:
    found = [kernel for kernel in map(at, images) if kernel.modules.is_dir()]
    return max(found, key=lambda kernel: kernel.number, default=None)


def _download(suite: str, scratch: Path) -> tuple[str, Path]:
    """The suite's newest kernel package, downloaded into `scratch`: its release and the file."""
    sources, lists, cache = scratch / "sources.list", scratch / "state", scratch / "cache"
    for made in (lists, cache):
        made.mkdir()
    scratch.chmod(0o755)  # apt downloads as the user _apt
    mirror = _mirror()
    sources.write_text(f"deb [arch=amd64 signed-by={_KEYRING}] {mirror} {suite} main\n", encoding="utf-8")
    own = {"Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "-", "Dir::State": lists, "Dir::Cache": cache}
    options = [f"--option={name}={value}" for name, value in {**own, "Acquire::Retries": 3}.items()]
    _output("apt-get", *options, "--error-on=any", "update")
    release = release_of(_output("apt-cache", *options, "depends", "linux-image-amd64"))
    if release is None:
        raise FetchError(f"Debian {suite} has no linux-image-amd64 that names a kernel")
    _output("apt-get", *options, "download", f"linux-image-{release}", cwd=scratch)
    return release, next(scratch.glob("linux-image-*.deb"))


def _mirror() -> str:
    """The address this machine's apt has for its own Debian release."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    # Without release info the sources' lists need not have been downloaded.
    form = ("--no-release-info", "--format", "$(RELEASE) $(REPO_URI)")
    targets = _output("apt-get", "indextargets", *form, "Created-By: Packages", "Component: main")
    mirror = mirror_of(targets, codename)
    if mirror is None:
        raise FetchError(f"apt's sources on this machine name no archive of its own release {codename!r}")
    return mirror


def _output(*command: str, cwd: Path | None = None) -> str:
    """The standard output of a command. Raises FetchError with the last lines it said."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=_COMMAND_TIMEOUT_S)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise FetchError(str(error)) from error
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise FetchError(f"{command[0]} failed ({done.returncode}):\n{said}")
    return done.stdout


def main() -> int:
    """Fetch what is missing; 1 when something could not be fetched."""
    failed = False
    for series in SUITES:
        if find(series) is not None:
            continue
        start = time.monotonic()
        print(f"kernels: fetching Debian's kernel {series} into {folder()}", file=sys.stderr, flush=True)
        try:
            kernel = fetch(series)
        except FetchError as error:
            print(f"kernels: no kernel {series}: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"kernels: {kernel.release} is there after {time.monotonic() - start:.0f} s", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
