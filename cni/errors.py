"""The one error that crosses the CNI door, and its numbers.

1 to 99 are the CNI specification's (SPEC.md, "Error"; 50 and 51 belong to STATUS), 100 and above are Dragline's own.
"""

VERSION_INCOMPATIBLE = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
DECODE_FAILURE = 6
BAD_CONFIG = 7
TRY_AGAIN = 11
NOT_AVAILABLE = 50
LIMITED = 51
POOL_EXHAUSTED = 100
NETLINK = 101
BPF_LOAD = 102
NETNS_GONE = 103
REFUSED_TOMBSTONE = 104
LINK_EXISTS = 105
CHECK_FAILED = 106
INTERNAL = 999


class CniError(Exception):
    """A failed verb: `code` is one of the numbers above, `msg` one sentence for a person, `details` may be long.

    Never write the words "not found" into a DEL's error: go-cni takes any DEL error that contains them for success.
    """

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(code, msg, details)
        self.code = code
        self.msg = msg
        self.details = details

    def __str__(self) -> str:
        return f"{self.msg} (CNI error {self.code})"
