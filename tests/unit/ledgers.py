"""A ledger with one small pool, for the allocator's tests."""

from __future__ import annotations

from allocator.attachments import AnyRecord, Attachment, AttachmentKey, Facts
from allocator.ledger import Ledger
from allocator.selection import Want
from cluster.resources import SpiderIPPool
from tests.unit.pools import pool

WANT = Want(node="worker")
FACTS = Facts(started_ns=100, pod_namespace="ns", pod_name="web", pod_uid="u", netns_path="/n", netns_ino=7)
POOL = pool("a", "10.0.0.1-10.0.0.4", gateway="10.0.0.254")


def key(number: int, ifname: str = "eth0") -> AttachmentKey:
    return AttachmentKey("net", f"container-{number}", ifname)


def ledger_of(*pools: SpiderIPPool) -> Ledger:
    ledger = Ledger(cooldown_s=30.0)
    assert ledger.set_pools(pools or (POOL,)) == []
    return ledger


def take(ledger: Ledger, number: int, now: float = 0.0) -> Attachment:
    attachment = ledger.take(key(number), WANT, FACTS, now).attachment
    assert attachment is not None
    return attachment


def addresses(ledger: Ledger) -> list[str]:
    return [lease.ip for attachment in ledger.attachments() for lease in attachment.leases]


def replayed(records: list[AnyRecord], now: float = 1000.0) -> Ledger:
    ledger = Ledger(cooldown_s=30.0)
    ledger.replay(records, now)
    ledger.set_pools([POOL])
    return ledger
