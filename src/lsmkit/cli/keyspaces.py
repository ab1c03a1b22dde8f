"""``lsmkit keyspaces``: which there are, and what their tables hold."""

from __future__ import annotations

import click

from lsmkit.cli.opening import open_reading
from lsmkit.cli.output import size_text, write_json, write_line


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
def keyspaces(store: str, as_json: bool) -> None:
    """List the keyspaces by name.

    Rows are versions in tables, deletes included; what only the log holds is not counted.
    """
    with open_reading(store) as db:
        held = db.stats().keyspaces
        policies = [db.keyspace(each.name).options.compaction.to_text() for each in held]
    for each, policy in zip(held, policies, strict=True):
        if as_json:
            write_json({**each.to_dict(), "compaction": policy})
        else:
            tables = sum(level.tables for level in each.levels)
            size = size_text(each.table_bytes)
            name = each.name if each.name.isprintable() else repr(each.name)
            write_line(f"{name}\t{each.rows} rows\t{tables} tables\t{size}\t{policy}")
