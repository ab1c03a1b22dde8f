"""``lsmkit dump``: the insides of a store's files as text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

import lsmkit
from lsmkit.cli import EXIT_FAILED
from lsmkit.cli.output import CommandError, note, write_bytes, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# How the files of a store are called: what a directory is searched for.
ENDINGS = {"wal": ".log", "sst": ".sst", "blob": ".blob"}
HEADER_BYTES = 64  # enough of a segment to tell whether it has a header


@click.group(no_args_is_help=False)
def dump() -> None:
    """Print the insides of a store's files as text.

    Nothing is opened as a store, so nothing is recovered or changed.
    """


def json_option(command: Any) -> Any:
    return click.option("--json", "as_json", is_flag=True, help="File and text, an object a line.")(
        command
    )


@dump.command()
@click.argument("path", metavar="FILE|STORE")
@json_option
def wal(path: str, as_json: bool) -> int:
    """Log segments: header, frames, records, in the order of the log."""
    from lsmkit._core.core import dump_wal

    def lines(file: str) -> list[str]:
        if is_prepared(file):
            return ["prepared for later, nothing is in it"]
        return dump_wal(os.fsencode(file))

    return show_all(files(path, "wal"), lines, as_json)


@dump.command()
@click.argument("path", metavar="FILE|STORE")
@click.option("--rows", is_flag=True, help="Every row too, not only the blocks.")
@json_option
def sst(path: str, rows: bool, as_json: bool) -> int:
    """Tables: footer, properties, filter, index, blocks."""
    from lsmkit._core.core import dump_sst

    return show_all(files(path, "sst"), lambda file: dump_sst(os.fsencode(file), rows), as_json)


@dump.command()
@click.argument("path", metavar="FILE|STORE")
@json_option
def blob(path: str, as_json: bool) -> int:
    """Files of large values: header, and where each value stands."""
    from lsmkit._core.core import dump_blob

    return show_all(files(path, "blob"), lambda file: dump_blob(os.fsencode(file)), as_json)


@dump.command()
@click.argument("store")
@json_option
def manifest(store: str, as_json: bool) -> int:
    """The live manifest's edits, oldest first."""
    from lsmkit._core.core import dump_manifest

    if not os.path.isdir(store):
        raise CommandError(f"{store}: not a directory")
    return show_all([store], lambda file: dump_manifest(os.fsencode(file)), as_json)


def files(path: str, kind: str) -> list[str]:
    """The file itself, or all of a kind in a store's directory, by number."""
    if not os.path.isdir(path):
        return [path]
    ending = ENDINGS[kind]
    names = sorted(name for name in os.listdir(path) if name.endswith(ending))
    if not names:
        note(f"lsmkit: {path}: no file ends in {ending}")
    return [os.path.join(path, name) for name in names]


def is_prepared(file: str) -> bool:
    """A segment that waits for its turn: the writer gives it its header when it takes it."""
    with open(file, "rb") as log:
        return not any(log.read(HEADER_BYTES))


def show_all(paths: list[str], lines: Callable[[str], Iterable[str]], as_json: bool) -> int:
    """Prints each file's lines. One that is damaged does not hide the others."""
    code = 0
    for path in paths:
        try:
            show(path, lines(path), as_json)
        except lsmkit.CorruptionError as error:
            note(f"lsmkit: {error}")
            code = EXIT_FAILED
    return code


def show(path: str, lines: Iterable[str], as_json: bool) -> None:
    if as_json:
        for line in lines:
            write_json({"file": path, "text": line})
        return
    write_bytes("\n".join([f"# {path}", *lines, ""]).encode("utf-8", "surrogateescape"))
