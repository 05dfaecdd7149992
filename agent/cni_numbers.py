"""The one table from the house's errors to the numbers of the CNI specification."""

from __future__ import annotations

from allocator.holdings import PoolExhausted
from allocator.journal import JournalError
from allocator.ledger import TombstoneError
from allocator.selection import NoPool
from cni import errors
from cni.errors import CniError
from datapath.rtsocket import AddressInUse, LinkExists, NetlinkError, NetnsGone

# Subclasses first: the first line that fits decides.
NUMBERS: tuple[tuple[type[Exception], int], ...] = (
    (PoolExhausted, errors.POOL_EXHAUSTED),
    (NoPool, errors.POOL_EXHAUSTED),
    (TombstoneError, errors.REFUSED_TOMBSTONE),
    (JournalError, errors.IO_FAILURE),
    (LinkExists, errors.LINK_EXISTS),
    (NetnsGone, errors.NETNS_GONE),
    (AddressInUse, errors.NETLINK),
    (NetlinkError, errors.NETLINK),
    (OSError, errors.IO_FAILURE),
)
KNOWN = tuple(kind for kind, _ in NUMBERS)


def cni_error(error: Exception) -> CniError:
    """The CniError of a known error, with its own words as the message."""
    number = next(number for kind, number in NUMBERS if isinstance(error, kind))
    return CniError(number, str(error))
