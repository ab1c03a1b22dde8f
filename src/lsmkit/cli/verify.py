"""``lsmkit verify``: every checksum of every file."""

from __future__ import annotations

import click

import lsmkit
from lsmkit.cli import EXIT_FAILED
from lsmkit.cli.opening import open_reading
from lsmkit.cli.output import size_text, write_json, write_line


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
def verify(store: str, as_json: bool) -> int:
    """Check every checksum of every file of STORE.

    Each damage is told with its file, offset and what was found there; then the exit code is 1. A
    store too damaged to be opened is reported in the same way.
    """
    try:
        with open_reading(store) as db:
            report = db.verify()
    except lsmkit.CorruptionError as error:
        report = lsmkit.Verification(
            files=0, blocks=0, rows=0, values=0, bytes=0, range_tombstones=0, errors=(error,)
        )
    if as_json:
        write_json(report.to_dict())
    else:
        print_report(report)
    return 0 if report else EXIT_FAILED


def print_report(report: lsmkit.Verification) -> None:
    for error in report.errors:
        write_line(str(error))
    outcome = "no damage" if report else f"damage in {len(report.errors)} files"
    write_line(
        f"{report.files:,} files, {report.blocks:,} blocks, {report.rows:,} rows, "
        f"{size_text(report.bytes)}: {outcome}"
    )
