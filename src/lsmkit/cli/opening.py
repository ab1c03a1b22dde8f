"""How commands open a store."""

from __future__ import annotations

import lsmkit


def open_reading(path: str) -> lsmkit.DB:
    """Read-only, so that a command may look at a store that another process is writing to."""
    return lsmkit.open(path, create_if_missing=False, read_only=True)


def open_writing(path: str, *, create: bool = False) -> lsmkit.DB:
    return lsmkit.open(path, create_if_missing=create)
