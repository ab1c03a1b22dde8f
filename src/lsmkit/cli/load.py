"""``lsmkit load``: a file's rows into a store, in batches."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

import lsmkit
from lsmkit.cli.columns import BadRow
from lsmkit.cli.opening import keyspace_option, writing
from lsmkit.cli.output import CommandError, note, size_text, write_json, write_line
from lsmkit.cli.rows import open_rows
from lsmkit.cli.source import FORMATS, InputError, Source

BAD_LISTED = 10
BATCH_BYTES = 64 << 20  # a batch of long rows ends here, so that it fits into memory
PLAIN_SECONDS = 5.0  # between two lines of progress in a pipe


@click.command()
@click.argument("store")
@click.argument("file", metavar="FILE|-")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    help="Guessed from the name, before .gz .bz2 .xz .zst. pairs: the lines that scan prints.",
)
@click.option(
    "--key",
    multiple=True,
    metavar="COL[:TYPE][,...]",
    help="Columns that make the key; a type (int, float, bool) makes one sort as such.",
)
@keyspace_option
@click.option("--value", metavar="COL", help="The value's column; without it, the whole row.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=5000,
    show_default=True,
    help="Rows written at once, all or none; fewer when they are long.",
)
@click.option(
    "--on-error",
    type=click.Choice(("stop", "skip")),
    default="stop",
    show_default=True,
    help="At a bad row.",
)
@click.option("--no-header", is_flag=True, help="CSV, TSV: no names; columns are 1, 2, ...")
@click.option("--no-quotes", is_flag=True, help="CSV, TSV: a quote is a character like any other.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON object.")
def load(
    store: str,
    file: str,
    format_name: str | None,
    key: tuple[str, ...],
    value: str | None,
    keyspace: str | None,
    batch: int,
    on_error: str,
    no_header: bool,
    no_quotes: bool,
    as_json: bool,
) -> None:
    """Load the rows of a file.

    A STORE that is not there is made. The key is the text of one column, or lsmkit.encode_key of
    several; the value is the row as it stood in the file (of Parquet: a JSON object), or one
    column. Of rows with equal keys the last one stays. What was loaded is on the disk when the
    command ends.

    At a bad row, `--on-error stop` writes nothing of the batch in hand, says how many rows are
    stored, and exits with 2; `skip` leaves such rows out, and lists the first ones.
    """
    with Source(file) as source:
        name = format_name or source.format()
        if name == "pairs" and (key or value is not None):
            raise click.UsageError("pairs have a key and a value; --key and --value say nothing")
        if name != "pairs" and not key:
            raise click.UsageError("--key is needed: the columns that make the key")
        chunks = open_rows(source, name, key, value, header=not no_header, quotes=not no_quotes)
        with writing(store, keyspace, create=True) as db:
            loader = Loader(db, batch, source, on_error)
            with show_progress(source, loader):
                loader.run(chunks)
        report(loader, source, as_json)


class Loader:
    """Gathers rows into batches of `batch`, or of `BATCH_BYTES` if that is less; writes them."""

    def __init__(
        self,
        db: lsmkit.DB | lsmkit.Keyspace,
        batch: int,
        source: Source,
        on_error: str,
    ) -> None:
        self.stored = 0
        self.bytes = 0
        self.skipped = 0
        self.bad: list[BadRow] = []
        self.error: str | None = None
        self.seconds = 0.0
        self.tick: Any = lambda: None
        self._db = db
        self._batch = batch
        self._source = source
        self._stops = on_error == "stop"
        self._keys: list[bytes] = []
        self._values: list[bytes] = []

    def run(self, chunks: Iterator[Any]) -> None:
        began = time.perf_counter()
        try:
            for chunk in chunks:
                if chunk.bad and self._stops:
                    self._stop(chunk)
                    break
                self.skipped += len(chunk.bad)
                self.bad += chunk.bad[: BAD_LISTED - len(self.bad)]
                self._take(chunk.keys, chunk.values)
                self.tick()
            else:
                self._write_all()
            self._db.sync()
        except InputError as error:
            # The file ends in the middle: what was gathered is not written, as at a bad row.
            self.error = str(error)
            self._db.sync()
        except BaseException:
            note(f"lsmkit load: {self.stored:,} rows were stored before")
            raise
        finally:
            self.seconds = time.perf_counter() - began

    def _stop(self, chunk: Any) -> None:
        first = chunk.bad[0]
        self._take(chunk.keys[: first.before], chunk.values[: first.before])
        self.bad = [first]
        self.error = bad_text(self._source, first)

    def _take(self, keys: list[bytes], values: list[bytes]) -> None:
        self._keys += keys
        self._values += values
        whole = len(self._keys) // self._batch * self._batch
        for at in range(0, whole, self._batch):
            self._put(self._keys[at : at + self._batch], self._values[at : at + self._batch])
        del self._keys[:whole]
        del self._values[:whole]
        if sum(map(len, self._values)) >= BATCH_BYTES:
            self._write_all()

    def _write_all(self) -> None:
        if self._keys:
            self._put(self._keys, self._values)
            self._keys.clear()
            self._values.clear()

    def _put(self, keys: list[bytes], values: list[bytes]) -> None:
        self._db.put_many(keys, values)
        self.stored += len(keys)
        self.bytes += sum(map(len, keys)) + sum(map(len, values))


def bad_text(source: Source, bad: BadRow) -> str:
    return f"{source.name}:{bad.line}: {bad.reason}"


def report(loader: Loader, source: Source, as_json: bool) -> None:
    for bad in loader.bad if loader.error is None else ():
        note(bad_text(source, bad))
    if loader.skipped > len(loader.bad):
        note(f"... and {loader.skipped - len(loader.bad):,} more bad rows")
    if as_json:
        write_json(
            {
                "file": source.name,
                "rows": loader.stored,
                "bytes": loader.bytes,
                "skipped": loader.skipped,
                "bad": [{"line": bad.line, "reason": bad.reason} for bad in loader.bad],
                "seconds": round(loader.seconds, 6),
                "error": loader.error,
            }
        )
    if loader.error is not None:
        raise CommandError(f"{loader.error} ({loader.stored:,} rows were stored before)")
    if not as_json:
        rate = loader.stored / loader.seconds if loader.seconds else 0
        skipped = f", {loader.skipped:,} bad rows left out" if loader.skipped else ""
        write_line(
            f"{loader.stored:,} rows ({size_text(loader.bytes)}) in {loader.seconds:.2f} s, "
            f"{rate:,.0f} a second{skipped}"
        )


@contextlib.contextmanager
def show_progress(source: Source, loader: Loader) -> Iterator[None]:
    """A bar on a terminal, now and then a line elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        loader.tick = PlainProgress(source, loader).tick
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(source.name, total=source.size, rows=0)
        loader.tick = lambda: progress.update(task, completed=source.position, rows=loader.stored)
        yield
        loader.tick()


class PlainProgress:
    def __init__(self, source: Source, loader: Loader) -> None:
        self._source = source
        self._loader = loader
        self._next = time.monotonic() + PLAIN_SECONDS

    def tick(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PLAIN_SECONDS
        share = ""
        if self._source.size is not None:
            share = f", {self._source.position / self._source.size:.0%} of the file"
        note(f"{self._source.name}: {self._loader.stored:,} rows{share}")
