"""``lsmkit repair``: a damaged store made usable again."""

from __future__ import annotations

import click

import lsmkit
from lsmkit.cli import EXIT_FAILED
from lsmkit.cli.output import write_json, write_line


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
def repair(store: str, as_json: bool) -> int:
    """Make the damaged STORE usable again, from what its files prove.

    What is not used any more is moved to lost/ in its directory. Where the manifest is lost, older
    values may come back. The exit code is 1 when something was lost.
    """
    report = lsmkit.repair(store)
    if as_json:
        write_json(report.to_dict())
    else:
        write_line(str(report))
    return 0 if report else EXIT_FAILED
