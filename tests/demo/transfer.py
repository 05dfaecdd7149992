"""A download of known content that goes on in the background, to see what becomes of it when an agent dies."""

import hashlib
import subprocess
import tempfile
from pathlib import Path

from tests.demo import web
from tests.demo.scenario import Deviation, eventually
from tests.testbed.netns import nsenter


class Transfer:
    """A download by curl that goes on in the background."""

    def __init__(self, netns: str, url: str, blocks: int, seconds: float) -> None:
        self._blocks = blocks
        self._file = tempfile.NamedTemporaryFile(prefix="dragline-transfer-")  # noqa: SIM115 - closed by finish()
        self._process = subprocess.Popen(
            nsenter(netns, ["curl", "-sSN", "--max-time", str(seconds * 6), f"{url}/transfer/{blocks}/{seconds}"]),
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def total(self) -> int:
        """How many bytes are to come in all."""
        return self._blocks * web.BLOCK_BYTES

    def received(self) -> int:
        """How many bytes have come so far."""
        return Path(self._file.name).stat().st_size

    def wait_for(self, share: float) -> int:
        """Wait until that share (0 to 1) of the content is there; the bytes received."""
        eventually(
            "transfer", lambda: "" if self.received() >= share * self.total else f"at {self.received()} bytes", 60.0
        )
        return self.received()

    def finish(self) -> str:
        """Wait for the end; the content's SHA-256. Deviation when curl failed or the content is not what was sent."""
        _, errors = self._process.communicate()
        seen = hashlib.sha256(Path(self._file.name).read_bytes()).hexdigest()
        received = self.received()
        self._file.close()
        if self._process.returncode != 0:
            raise Deviation(f"the transfer broke: curl exit {self._process.returncode}: {errors.strip()}")
        expected = hashlib.sha256(b"".join(web.blocks(self._blocks))).hexdigest()
        if seen != expected:
            raise Deviation(f"{received} of {self.total} bytes with SHA-256 {seen}, expected {expected}")
        return seen
