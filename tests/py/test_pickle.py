"""Claim: what holds memory of the core is neither pickled nor copied, but refused.

Method: every kind of object that a program can hold of a store is given to pickle, in each
protocol, and to copy; a copy of a pointer would be freed twice, which kills the interpreter.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

import lsmkit

MAKERS: dict[str, Callable[[lsmkit.DB], object]] = {
    "batch": lambda db: filled(lsmkit.WriteBatch()),
    "batch of a store": lambda db: filled(db.batch()),
    "store": lambda db: db,
    "snapshot": lambda db: db.snapshot(),
    "scan": lambda db: db.scan(),
    "scan of columns": lambda db: db.scan_columns(),
    "column": lambda db: next(db.scan_columns()).keys,
}
WAYS: dict[str, Callable[[object], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda x, n=n: pickle.dumps(x, n) for n in range(6)},  # type: ignore[misc]
}


def filled(batch: lsmkit.WriteBatch) -> lsmkit.WriteBatch:
    batch.put(b"key", b"value")
    return batch


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MAKERS)
def test_what_holds_memory_of_the_core_is_refused(db: lsmkit.DB, kind: str, way: str) -> None:
    db.put(b"a", b"1")
    held = MAKERS[kind](db)
    with pytest.raises(TypeError):
        WAYS[way](held)
    assert db[b"a"] == b"1"
