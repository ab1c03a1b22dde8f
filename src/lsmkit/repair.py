"""`lsmkit.repair` and its report."""

from __future__ import annotations

from ._core import core
from ._record import Record, record
from .housekeeping import directory_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .db import Path

__all__ = ["Repair", "repair"]


@record(frozen=True, kw_only=True)
class Repair(Record):
    """What `lsmkit.repair` has found and done; true when nothing was lost."""

    changed: bool
    """Whether something was wrong. If not, no file was touched."""
    rebuilt: bool
    """Whether no manifest could be gone by, so that older values may have come back."""
    tables: int
    """Tables of the store as it is now; 0 where nothing was changed."""
    salvaged: int
    """Damaged tables of which whole blocks were kept."""
    lost: int
    """Tables of which nothing was kept, those that were missing included."""
    rows_kept: int
    """Rows of the salvaged tables, older versions included."""
    blocks_lost: int
    values_lost: int
    """Rows that are lost because their values, which stood apart, are."""
    records: int
    """Records that the log gave, where it was read frame by frame."""
    log_lost: int
    """Bytes of the log that were no whole frames."""
    moved: int
    """Files that are in `lost/` now."""
    notes: tuple[str, ...]
    """A line for each thing that was found or done."""

    @property
    def ok(self) -> bool:
        """Whether everything was there; also the truth value."""
        return not (
            self.rebuilt or self.lost or self.blocks_lost or self.values_lost or self.log_lost
        )

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "\n".join(self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        found: dict[str, Any] = {"ok": self.ok}
        found.update(self._items())
        found["notes"] = list(self.notes)
        return found


def repair(path: Path) -> Repair:
    """Makes the damaged store at `path` usable again, from what its files prove.

    Whole blocks of damaged tables and, where recovery refuses the log, its whole frames are kept.
    Where the manifest is lost or damaged too, the store is put together from all tables and logs
    of the directory by the sequences of their rows: then values that were overwritten or deleted
    may come back, and the report says so (`rebuilt`). What is not used any more is moved to
    `lost/` within the store, never removed. Make a copy first where you can.

    A store in which nothing is wrong is left as it is. One that is open is a LockedError; where
    there is none, it is a StoreNotFoundError. Reads every byte of the store.
    """
    counts, notes = core.repair(directory_of(path))
    return Repair(**counts, notes=tuple(notes))
