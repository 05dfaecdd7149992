"""What a journal's records say about the present. Pure.

The ledger numbers its changes; the file may hold them in another order (commits of several threads), may miss some (a
commit that failed, a damaged record) and may end anywhere. Sorted by `seq` they are the ledger's own story with gaps,
and the gaps are closed by what the ledger never does: it never gives an address, an ifindex or a key to an attachment
while another has it. So a later holder proves that the earlier one was gone, whether or not its record arrived.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from allocator.attachments import (
    AnyRecord,
    Attachment,
    AttachmentKey,
    Cooling,
    Detaching,
    Gone,
    Ready,
    Snapshot,
    State,
    Taken,
    Tombstone,
)


@dataclass(slots=True)
class Story:
    """Attachments with their states, oldest first; cooling addresses, longest idle first; tombstones; the last seq."""

    attachments: dict[AttachmentKey, Attachment] = field(default_factory=dict)
    states: dict[AttachmentKey, State] = field(default_factory=dict)
    cooling: dict[str, None] = field(default_factory=dict)  # used as an ordered set
    tombstones: dict[str, int] = field(default_factory=dict)
    seq: int = 0
    _owners: dict[str | int, AttachmentKey] = field(default_factory=dict)  # of addresses (text) and ifindexes

    def apply(self, record: AnyRecord) -> None:
        """The next change, in order of seq."""
        self.seq = max(self.seq, record.seq)
        match record:
            case Taken(attachment=attachment):
                self._enter(attachment, State.TAKEN)
            case Ready(attachment=attachment):
                self._enter(attachment, State.READY)
            case Detaching(key=key):
                if key in self.states:
                    self.states[key] = State.DETACHING
            case Gone(key=key):
                self._leave(key)
            case Tombstone(container_id=container_id, started_ns=started_ns):
                self.tombstones[container_id] = max(started_ns, self.tombstones.get(container_id, 0))
            case Cooling(addresses=addresses):
                self.cooling.update(dict.fromkeys(addresses))

    def _enter(self, attachment: Attachment, state: State) -> None:
        key, belongings = attachment.key, _belongings(attachment)
        before = self.attachments.get(key)
        if before is not None and _belongings(before) != belongings:
            self._leave(key)
        for owner in {self._owners.get(thing, key) for thing in belongings} - {key}:
            self._leave(owner)
        for thing in belongings:
            self._owners[thing] = key
        for lease in attachment.leases:
            self.cooling.pop(lease.ip, None)
        self.attachments[key] = attachment
        self.states[key] = state

    def _leave(self, key: AttachmentKey) -> None:
        attachment = self.attachments.pop(key, None)
        if attachment is None:
            return
        del self.states[key]
        for thing in _belongings(attachment):
            del self._owners[thing]
        self.cooling.update((lease.ip, None) for lease in attachment.leases)


def tell(records: Iterable[AnyRecord]) -> Story:
    """The present according to `records`, in whatever order the file has them."""
    ordered = sorted(records, key=_seq)
    watermark = max((record.seq for record in ordered if isinstance(record, Snapshot)), default=-1)
    story = Story(seq=max(watermark, 0))
    for record in ordered:
        if record.seq > watermark:
            story.apply(record)
    return story


def _belongings(attachment: Attachment) -> set[str | int]:
    return {attachment.ifindex, *(lease.ip for lease in attachment.leases)}


def _seq(record: AnyRecord) -> int:
    return record.seq
