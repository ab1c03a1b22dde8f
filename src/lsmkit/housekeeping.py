"""What is done to a whole store from outside: `lsmkit.destroy`."""

from __future__ import annotations

import os

from ._core import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .db import Path

__all__ = ["destroy", "directory_of"]


def directory_of(path: Path) -> bytes:
    """The absolute path, as the core takes it."""
    shown = os.fsdecode(path)
    if not shown or "\0" in shown:
        raise ValueError(f"path is {shown!r}; it must be the name of a directory")
    return os.fsencode(os.path.abspath(shown))


def destroy(path: Path) -> None:
    """Removes the store at `path` for good: lsmkit's own files, and then the directory if nothing
    else is in it.

    A store that is open is a LockedError, and nothing is removed; where there is none, it is a
    StoreNotFoundError. Files that lsmkit did not make stay. After a crash in between there is no
    store at `path` any more, and calling it again removes the rest.
    """
    core.destroy(directory_of(path))
