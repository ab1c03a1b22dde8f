"""A store that is read beside its owner, always as it is: what `open(..., follow=True)` gives.

Every method that reads is here, so that a store which does not follow pays nothing for it.
"""

from __future__ import annotations

from .db import DB
from .keyspace import Keyspace
from .tree import WritableTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

    from ._core.core import Changes, Cursor
    from ._core.core import _BytesLike as Buffer
    from .stats import Stats
    from .tree import Snapshot

__all__ = ["Follower", "FollowingKeyspace"]


class Following(WritableTree):
    """A tree of a store that is opened with `follow=True`: refreshed before each read, as
    `DB.refresh` does it.

    Each call sees what was committed before it began. A scan sees one moment, that of its call.
    """

    _follows = True

    def _caught_up(self) -> Self:
        self._handle.catch_up()
        return self

    def get(self, key: Buffer, default: Any = None) -> Any:
        return super(Following, self._caught_up()).get(key, default)

    def __getitem__(self, key: Buffer, /) -> bytes:
        return super(Following, self._caught_up()).__getitem__(key)

    def __contains__(self, key: object, /) -> bool:
        return super(Following, self._caught_up()).__contains__(key)

    def get_many(self, keys: Any, default: Any = None) -> Any:
        return super(Following, self._caught_up()).get_many(keys, default)

    def scan(self, *bounds: Any, **how: Any) -> Any:
        return super(Following, self._caught_up()).scan(*bounds, **how)

    def scan_keys(self, *bounds: Any, **how: Any) -> Any:
        return super(Following, self._caught_up()).scan_keys(*bounds, **how)

    def scan_values(self, *bounds: Any, **how: Any) -> Any:
        return super(Following, self._caught_up()).scan_values(*bounds, **how)

    def scan_columns(self, *bounds: Any, **how: Any) -> Any:
        return super(Following, self._caught_up()).scan_columns(*bounds, **how)

    def __len__(self) -> int:
        return super(Following, self._caught_up()).__len__()

    def __bool__(self) -> bool:
        return super(Following, self._caught_up()).__bool__()

    def snapshot(self) -> Snapshot:
        return super(Following, self._caught_up()).snapshot()

    def cursor(self) -> Cursor:
        return super(Following, self._caught_up()).cursor()

    def position(self, source: str) -> int | None:
        return super(Following, self._caught_up()).position(source)

    def changes(self, since: int = 0, **how: Any) -> Changes:
        return super(Following, self._caught_up()).changes(since, **how)

    def hot_keys(self, n: int = 10) -> list[tuple[bytes, float, float]]:
        return super(Following, self._caught_up()).hot_keys(n)

    def approximate_size(self, start: Buffer | None = None, stop: Buffer | None = None) -> int:
        return super(Following, self._caught_up()).approximate_size(start, stop)


class FollowingKeyspace(Following, Keyspace):
    """A keyspace of a store that follows; closed by the first read after its owner dropped it."""


class Follower(Following, DB):
    """A store that is opened with `follow=True`; see `Following`."""

    _keyspace_kind = FollowingKeyspace

    def keyspace(self, name: str, **options: Any) -> Keyspace:
        return super(Follower, self._caught_up()).keyspace(name, **options)

    def keyspaces(self) -> list[str]:
        return super(Follower, self._caught_up()).keyspaces()

    def stats(self) -> Stats:
        return super(Follower, self._caught_up()).stats()
