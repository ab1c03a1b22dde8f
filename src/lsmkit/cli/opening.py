"""How commands open a store, and a keyspace of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

import lsmkit
from lsmkit.cli.output import CommandError


def keyspace_option(command: Any) -> Any:
    return click.option(
        "--keyspace", metavar="NAME", help="In this keyspace, not among the store's own rows."
    )(command)


def open_reading(path: str) -> lsmkit.DB:
    """Read-only, so that a command may look at a store that another process is writing to."""
    return lsmkit.open(path, create_if_missing=False, read_only=True)


def open_writing(path: str, *, create: bool = False) -> lsmkit.DB:
    return lsmkit.open(path, create_if_missing=create)


@contextlib.contextmanager
def reading(path: str, keyspace: str | None) -> Iterator[lsmkit.DB | lsmkit.Keyspace]:
    """The store, or a keyspace that is there."""
    with open_reading(path) as db:
        yield found(db, keyspace)


@contextlib.contextmanager
def writing(
    path: str, keyspace: str | None, *, create: bool = False
) -> Iterator[lsmkit.DB | lsmkit.Keyspace]:
    """The store, or a keyspace; with `create` one that is not there is made."""
    with open_writing(path, create=create) as db:
        yield db.keyspace(keyspace) if create and keyspace is not None else found(db, keyspace)


def found(db: lsmkit.DB, keyspace: str | None) -> lsmkit.DB | lsmkit.Keyspace:
    if keyspace is None:
        return db
    if keyspace not in db.keyspaces():
        raise CommandError(f"{db.path}: no keyspace {keyspace!r}")
    return db.keyspace(keyspace)
