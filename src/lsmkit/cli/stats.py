"""``lsmkit stats``: what a store holds and what it costs."""

from __future__ import annotations

import click

from lsmkit.cli.opening import open_reading
from lsmkit.cli.output import write_json, write_line


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def stats(store: str, as_json: bool) -> None:
    """Print sizes, levels, amplification, memory.

    Counts of operations are those of the process that asks, so here they are of this look alone.
    """
    with open_reading(store) as db:
        found = db.stats()
    if as_json:
        write_json(found.to_dict())
    else:
        write_line(str(found))
