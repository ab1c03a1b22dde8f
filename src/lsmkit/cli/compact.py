"""``lsmkit compact``: merge what can be merged, now."""

from __future__ import annotations

import time

import click

from lsmkit.cli.form import Form, form_options
from lsmkit.cli.opening import open_writing
from lsmkit.cli.output import size_text, write_json, write_line


@click.command()
@click.argument("store")
@click.option("--start", help="First key, inclusive.")
@click.option("--stop", help="End of the range, exclusive.")
@form_options
@click.option("--json", "as_json", is_flag=True, help="Sizes and seconds as a JSON object.")
def compact(store: str, start: str | None, stop: str | None, form: Form, as_json: bool) -> None:
    """Merge tables until each key is kept once.

    All of STORE, or the keys of a range.
    """
    first = None if start is None else form.read_bound(start, "--start")
    end = None if stop is None else form.read_bound(stop, "--stop")
    with open_writing(store) as db:
        db.flush()
        before = db.stats().table_bytes
        began = time.perf_counter()
        db.compact(first, end)
        seconds = time.perf_counter() - began
        after = db.stats().table_bytes
    if as_json:
        write_json({"bytes_before": before, "bytes_after": after, "seconds": round(seconds, 6)})
    else:
        write_line(
            f"compacted in {seconds:.2f} s: {size_text(before)} of tables are {size_text(after)}"
        )
