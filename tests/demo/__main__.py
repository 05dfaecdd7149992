"""`make demo`: the article's scenario on real IPvlan, natively or in a guest with Debian's kernel.

Exits non-zero on any deviation.
"""

import platform
import signal
import sys
from typing import NoReturn

from tests.demo.acts import play
from tests.demo.story import Story
from tests.testbed import vm
from tests.testbed.netns import TestbedError

RESULTS = vm.CHECKOUT / "build" / "demo"
IN_GUEST = "--in-guest"
TIMEOUT_S = 1200.0


def main() -> int:
    """Choose the place, run the demo there, and give its exit code (0: every claim holds)."""
    signal.signal(signal.SIGTERM, _terminate)
    RESULTS.mkdir(parents=True, exist_ok=True)
    if vm.has_ipvlan():
        return _here()
    if IN_GUEST in sys.argv[1:]:
        print("demo: the guest's kernel has no ipvlan either", file=sys.stderr)
        return 1
    print(f"demo: the running kernel ({platform.release()}) has no ipvlan: using a virtual machine", file=sys.stderr)
    try:
        return vm.run([sys.executable, "-m", "tests.demo", IN_GUEST], writable=[RESULTS], timeout_s=TIMEOUT_S)
    except vm.GuestError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _here() -> int:
    story = Story()
    story.title(f"Dragline: the seed article's scenario on real IPvlan (Linux {platform.release()})")
    try:
        play(story, RESULTS)
    except TestbedError as error:
        print(f"demo: the testbed: {error}", file=sys.stderr)
        return 1
    story.summary()
    return 1 if story.failed or not story.outcomes else 0


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
