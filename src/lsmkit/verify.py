"""The report of `DB.verify`."""

from __future__ import annotations

from ._record import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .errors import Error

__all__ = ["Verification"]


@record(frozen=True, kw_only=True)
class Verification(Record):
    """What reading every byte of a store has shown; true when all of it was right."""

    files: int
    """Tables, files of large values, live log segments and the manifest."""
    blocks: int
    rows: int
    """Rows of tables and records of the log, older versions included."""
    values: int
    """Values that stand apart from their tables, dead ones included."""
    bytes: int
    range_tombstones: int
    """Ranges that `delete_range` deleted and whose rows are not all off the disk."""
    errors: tuple[Error, ...]
    """At most one for each file, whose reading ends there: a `CorruptionError` with `file`,
    `offset` and `found`, or the `StorageError` of a file that cannot be read."""

    @property
    def ok(self) -> bool:
        """Whether there are no errors; also the truth value of the report."""
        return not self.errors

    def __bool__(self) -> bool:
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {
            "ok": self.ok,
            "files": self.files,
            "blocks": self.blocks,
            "rows": self.rows,
            "values": self.values,
            "bytes": self.bytes,
            "range_tombstones": self.range_tombstones,
            "errors": [
                {
                    "error": str(error),
                    "file": getattr(error, "file", None) or getattr(error, "filename", None),
                    "offset": getattr(error, "offset", None),
                    "found": getattr(error, "found", None),
                }
                for error in self.errors
            ],
        }
