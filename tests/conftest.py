"""Tiers by folder, marked by path: unit, bpf, netns, kube, vm.

A tier whose needs the machine does not meet is skipped with the reason, unless REQUIRE_TIERS (comma-separated) names
it: then it fails. Tests of the vm tier run inside a guest with Debian's kernel; see tests/guest_tier.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import guest_tier

ROOT = Path(__file__).parent
TIERS = {
    "unit": "pure logic and small programs: no privileges, but for the server's socket, whose peers must be root",
    "bpf": "BPF programs run by PROG_TEST_RUN: root, bpf(2), Debian's python3-bpfcc",
    "netns": "real links of the running kernel in network namespaces: root",
    "kube": "a real kube-apiserver and etcd",
    "vm": "real IPvlan on Debian's kernel, natively or in a guest",
}


def pytest_configure(config: pytest.Config) -> None:
    """Declare one marker a tier; refuse a REQUIRE_TIERS that names none of them."""
    for tier, meaning in TIERS.items():
        config.addinivalue_line("markers", f"{tier}: {meaning}")
    config.addinivalue_line("markers", "kernel(series): of the vm tier, on a kernel of that series, as 6.12")
    unknown = required_tiers() - TIERS.keys()
    if unknown:
        raise pytest.UsageError(f"REQUIRE_TIERS names unknown tiers: {', '.join(sorted(unknown))}")


def required_tiers() -> set[str]:
    """The tiers that must run here, from the environment."""
    return {tier for tier in os.environ.get("REQUIRE_TIERS", "").split(",") if tier}


def tier_of(path: Path) -> str | None:
    """The tier of a test file: the first folder below tests/."""
    parts = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
    return parts[0] if parts and parts[0] in TIERS else None


def unmet(tier: str) -> str | None:
    """Why this machine cannot run a tier, or None."""
    if tier == "unit":
        return None
    if os.geteuid() != 0:
        return "needs root"
    if tier == "bpf" and not Path("/usr/lib/python3/dist-packages/bcc").exists():
        return "needs Debian's python3-bpfcc"
    if tier == "vm":
        return guest_tier.unmet(None)
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by folder, skip (or fail) what cannot run, and hand the vm tier to the guest."""
    reasons: dict[str, str | None] = {}
    for index, item in enumerate(items):
        tier = tier_of(item.path)
        if tier is None:
            continue
        item.add_marker(tier)
        reason = reasons.setdefault(tier, unmet(tier))
        if reason is not None and tier in required_tiers():
            raise pytest.UsageError(f"tier {tier} is required but {reason}")
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"tier {tier} {reason}"))
        elif tier == "vm":
            items[index] = guest_tier.placed(item, required="vm" in required_tiers())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Inside a guest: note each outcome for the pytest outside."""
    guest_tier.note(report)
