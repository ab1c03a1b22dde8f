"""What `changes` of a store gives: one `Change` for each record of the log."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class _Fields(NamedTuple):
        seq: int
        kind: str
        key: bytes
        value: bytes | None

else:
    from collections import namedtuple

    _Fields = namedtuple("_Fields", "seq kind key value")

__all__ = ["Change"]


class Change(_Fields):
    """One change of a store: the tuple `(seq, kind, key, value)`.

    `seq` is its place in the commit order; they ascend, with gaps. `kind` says what `key` and
    `value` are: "put" (key, value), "delete" (key, None), "merge" (key, operand) or "delete_range"
    (first key, the key that the range ends before, or None: to the end).
    """

    @property
    def until(self) -> float | None:
        """When the row ends by itself (`ttl`), in seconds since 1970, or None."""
        found: float | None = self.__dict__.get("_until")
        return found
