"""``lsmkit checkpoint``: a copy of a store at this moment, made of links."""

from __future__ import annotations

import time

import click

import lsmkit
from lsmkit.cli.opening import open_reading, open_writing
from lsmkit.cli.output import size_text, write_json, write_line


@click.command()
@click.argument("store")
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Files, bytes and seconds as a JSON object.")
def checkpoint(store: str, path: str, as_json: bool) -> None:
    """Make a store of its own at PATH that holds what STORE holds now.

    PATH is new, or an older checkpoint of STORE, which is brought up to date. Nobody else may have
    STORE open: a program that has makes checkpoints itself, with `DB.checkpoint`.
    """
    began = time.perf_counter()
    with open_writing(store) as db:
        db.checkpoint(path)
    seconds = time.perf_counter() - began
    with open_reading(path) as made:
        tables, size = table_counts(made)
    if as_json:
        write_json({"path": path, "tables": tables, "bytes": size, "seconds": round(seconds, 6)})
    else:
        write_line(f"{path}: {tables:,} tables, {size_text(size)}, in {seconds:.2f} s")


def table_counts(db: lsmkit.DB) -> tuple[int, int]:
    found = db.stats()
    return sum(level.tables for level in found.levels), found.table_bytes
