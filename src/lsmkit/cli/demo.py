"""``lsmkit demo``: a year of flights through the store, each row compared with its source."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any

import click

import lsmkit
from lsmkit.cli import EXIT_FAILED, error_text
from lsmkit.cli.demo_writer import BATCH_ROWS, LINE_BYTES, batch_count
from lsmkit.cli.flights import KEY_TYPES, Flights, read_flights
from lsmkit.cli.form import escape
from lsmkit.cli.output import CommandError, note, write_json

# Small for a store, so that the flights fill several segments, which are flushed and merged.
SEGMENT_BYTES = 8 << 20
ROWS_A_BATCH = 1000
ROWS_A_COLUMN = 10_000
# Shares of the batches after which the writer is killed.
KILL_AFTER = (0.2, 0.45, 0.7)

Rows = Iterable[tuple[bytes, bytes]]


@click.command()
@click.option("--dir", "folder", help="Where the stores are made; a new folder by default.")
@click.option(
    "--rows", type=click.IntRange(min=10_000), help="Only so many of the flights, the first ones."
)
@click.option("--keep", is_flag=True, help="Leave the stores there.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON object.")
def demo(folder: str | None, rows: int | None, keep: bool, as_json: bool) -> int:
    """Write, read, kill and compare a year of flights.

    The 336,776 flights are written one at a time, in batches and as columns, each way into a
    store of its own. Whatever is read is compared with the source row by row; exit code 1 when a
    comparison fails. Needs the demo extra: pip install 'lsmkit[demo]'.
    """
    flights = read_flights(rows)
    with place(folder, keep) as root:
        run = Demo(flights, root, quiet=as_json)
        try:
            run.all()
        except lsmkit.Error as error:
            # A store that refuses to be read has failed the comparison too.
            run.failures.append(error_text(error))
    if as_json:
        write_json(run.outcome())
    else:
        run.print_figures()
        if keep:
            note(f"The stores are in {root}")
    return EXIT_FAILED if run.failures else 0


@contextlib.contextmanager
def place(folder: str | None, keep: bool) -> Iterator[str]:
    """The folder of the stores: empty or new, and gone afterwards unless it is kept."""
    if folder is None:
        root = tempfile.mkdtemp(prefix="lsmkit-demo-")
        made = [root]
    else:
        root = os.path.abspath(folder)
        existed = os.path.isdir(root)
        os.makedirs(root, exist_ok=True)
        if os.listdir(root):
            raise CommandError(f"{folder}: not empty")
        made = [] if existed else [root]
    try:
        yield root
    finally:
        if not keep:
            for path in made or [os.path.join(root, name) for name in os.listdir(root)]:
                shutil.rmtree(path)


class Demo:
    def __init__(self, flights: Flights, root: str, *, quiet: bool) -> None:
        from rich.console import Console

        self.failures: list[str] = []
        self.ways: list[dict[str, Any]] = []
        self.kills: list[dict[str, Any]] = []
        self.aircraft: dict[str, Any] = {}
        self._checks = 0
        self._flights = flights
        self._root = root
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)

    def all(self) -> None:
        flights = self._flights
        without = sum(not aircraft for aircraft, _, _ in flights.parts)
        self._say(
            f"{len(flights):,} flights of 2013, {flights.byte_count / 1e6:.1f} MB, keyed by "
            f"aircraft and time; {without:,} name no aircraft"
        )
        expected = flights.sorted_rows()
        self._way("one at a time", expected, self._put_singly)
        self._way("in batches", expected, self._put_batches)
        self._range_of_aircraft()
        keys, values = flights.columns()
        rows = [key.tobytes() for key in keys]
        self._check(
            "column keys decode to aircraft, time and number",
            difference((lsmkit.decode_key(key, *KEY_TYPES) for key in rows), flights.parts),
        )
        self._way(
            "as columns",
            sorted(zip(rows, flights.values, strict=True)),
            lambda db: put_columns(db, keys, values),
        )
        self._kill_writers()

    # ---- three ways to write ----

    def _put_singly(self, db: lsmkit.DB) -> None:
        put = db.put
        for key, value in zip(self._flights.keys, self._flights.values, strict=True):
            put(key, value)

    def _put_batches(self, db: lsmkit.DB) -> None:
        keys, values = self._flights.keys, self._flights.values
        for at in range(0, len(keys), ROWS_A_BATCH):
            db.put_many(keys[at : at + ROWS_A_BATCH], values[at : at + ROWS_A_BATCH])

    def _way(
        self, name: str, expected: list[tuple[bytes, bytes]], put: Callable[..., None]
    ) -> None:
        """Fills a store, reads it back at once, and again from its tables after reopening."""
        path = self._path(name)
        figures: dict[str, Any] = {"way": name, "rows": len(expected)}
        with lsmkit.open(path, error_if_exists=True, segment_bytes=SEGMENT_BYTES) as db:
            figures["write_seconds"] = timed(put, db)
            self._check(f"{name}: read back by scan", difference(db.scan(), expected))
            figures["flush_seconds"] = timed(settle, db)
            stats = db.stats()
            figures["compact_seconds"] = timed(db.compact)
            figures["write_amplification"] = stats.write_amplification
            figures["space_amplification"] = stats.space_amplification
            figures["flushes"] = stats.flushes.count
            figures["compactions"] = stats.compactions.merges
            figures["levels"] = [level.to_dict() for level in stats.levels]
        figures["disk_bytes"] = folder_bytes(path)
        with lsmkit.open(path, create_if_missing=False) as db:
            self._read_all(name, db, expected, figures)
        for what in ("write", "scan", "column_scan", "get"):
            figures[f"{what}_rows_per_second"] = len(expected) / figures[f"{what}_seconds"]
        self.ways.append(figures)

    def _read_all(
        self,
        name: str,
        db: lsmkit.DB,
        expected: list[tuple[bytes, bytes]],
        figures: dict[str, Any],
    ) -> None:
        rows: list[tuple[bytes, bytes]] = []
        figures["scan_seconds"] = timed(rows.extend, db.scan())
        self._check(f"{name}: reopened, read back by scan", difference(rows, expected))
        chunks: list[Any] = []
        figures["column_scan_seconds"] = timed(chunks.extend, db.scan_columns())
        self._check(
            f"{name}: reopened, read back by scan_columns",
            difference((row for chunk in chunks for row in zip_columns(chunk)), expected),
        )
        keys = [key for key, _ in expected]
        found: list[bytes | None] = []
        figures["get_seconds"] = timed(lambda: found.extend(db.get_many(keys)))
        self._check(
            f"{name}: reopened, read back by get_many",
            difference(zip(keys, found, strict=True), expected),
        )
        self._check(f"{name}: every checksum verified", damage(db))

    # ---- one aircraft ----

    def _range_of_aircraft(self) -> None:
        """Its keys lie side by side, because they begin with the same encoded part."""
        aircraft = self._flights.busiest_aircraft()
        with lsmkit.open(self._path("in batches"), read_only=True) as db:
            for name in (aircraft, ""):
                expected = self._flights.of_aircraft(name)
                # An empty part behind it ends the name, so that no longer name is meant too.
                found = list(db.scan(prefix=lsmkit.encode_key(name, b"")))
                self._check(
                    f"the {len(expected):,} flights of " + (name or "no aircraft, all kept"),
                    difference(found, expected),
                )
                if name:
                    self.aircraft = {"aircraft": name, "flights": len(found)}

    # ---- a writer is killed ----

    def _kill_writers(self) -> None:
        """Kills a writer three times; each one goes on in the same store where the last stood."""
        path = self._path("killed")
        first = 0
        for share in KILL_AFTER:
            began = time.perf_counter()
            target = int(share * batch_count(self._flights))
            acknowledged, killed = kill_writer(path, first, target, len(self._flights))
            reopening = time.perf_counter()
            with lsmkit.open(path, create_if_missing=False) as db:
                seconds = time.perf_counter() - reopening
                found = list(db.scan())
                damaged = damage(db)
            kept, problem = self._judge(found, acknowledged)
            if not killed:
                problem = f"the writer ended by itself after batch {acknowledged - 1:,}"
            problem = problem or damaged
            self.kills.append(
                {
                    "acknowledged_rows": acknowledged * BATCH_ROWS,
                    "found_rows": len(found),
                    "reopen_seconds": seconds,
                    "seconds": reopening - began,
                    "ok": problem is None,
                }
            )
            self._check(
                f"killed after {acknowledged * BATCH_ROWS:,} acknowledged rows, {len(found):,} "
                f"there when reopened {seconds * 1e3:.0f} ms later",
                problem,
            )
            first = kept

    def _judge(self, found: list[tuple[bytes, bytes]], acknowledged: int) -> tuple[int, str | None]:
        """How many batches are there, and what is wrong: all that were acknowledged must be, and
        of the one in hand all rows or none."""
        rows = acknowledged * BATCH_ROWS
        kept = acknowledged + (len(found) > rows)
        source = zip(self._flights.keys, self._flights.values, strict=True)
        expected = sorted(row for row, _ in zip(source, range(kept * BATCH_ROWS), strict=False))
        return kept, difference(found, expected)

    # ---- what is said ----

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name.replace(" ", "-"))

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _check(self, what: str, problem: str | None) -> None:
        self._checks += 1
        if problem is not None:
            self.failures.append(f"{what}: {problem}")
        self._say(f"  {'ok    ' if problem is None else 'FAILED'}  {what}" + _behind(problem))

    def outcome(self) -> dict[str, Any]:
        return {
            "ok": not self.failures,
            "flights": len(self._flights),
            "flights_without_aircraft": sum(not parts[0] for parts in self._flights.parts),
            "bytes": self._flights.byte_count,
            "checks": self._checks,
            "failures": self.failures,
            "ways": self.ways,
            "range": self.aircraft,
            "kills": self.kills,
        }

    def print_figures(self) -> None:
        from rich.table import Table

        table = Table(title=f"{len(self._flights):,} rows, {self._flights.byte_count / 1e6:.1f} MB")
        table.add_column("written", no_wrap=True)
        for way in self.ways:
            table.add_column(way["way"], justify="right")
        megabytes = self._flights.byte_count / 1e6
        for title, text in FIGURES:
            table.add_row(title, *(text(way, megabytes) for way in self.ways))
        names = dict.fromkeys(level["name"] for way in self.ways for level in way["levels"])
        for name in names:
            table.add_row(f"tables, {name}", *(level_text(way, name) for way in self.ways))
        self._console.print(table)
        if self.failures:
            self._say(f"{len(self.failures)} of {self._checks} comparisons failed")
        else:
            self._say(
                f"all {self._checks} comparisons held: every row is as it stood in the source"
            )


def put_columns(db: lsmkit.DB, keys: Any, values: tuple[Any, Any]) -> None:
    data, offsets = values
    for at in range(0, len(keys), ROWS_A_COLUMN):
        upto = min(at + ROWS_A_COLUMN, len(keys))
        db.put_many(keys[at:upto], (data, offsets[at : upto + 1]))


def zip_columns(columns: Any) -> Rows:
    return zip(columns.keys.to_pylist(), columns.values.to_pylist(), strict=True)


def settle(db: lsmkit.DB) -> None:
    db.flush()
    db.wait_idle()


def timed(work: Callable[..., Any], *args: Any) -> float:
    began = time.perf_counter()
    work(*args)
    return time.perf_counter() - began


def difference(found: Iterable[Any], expected: list[Any]) -> str | None:
    """The first row that differs, in words; None when all are the same."""
    rows = list(found)
    if rows == expected:
        return None
    for number, (row, wanted) in enumerate(zip_longest(rows, expected)):
        if row != wanted:
            return f"row {number:,} is {show_row(row)}, expected {show_row(wanted)}"
    raise AssertionError("two lists differ and none of their rows does")


def show_row(row: tuple[Any, ...] | None) -> str:
    if row is None:
        return "missing"
    return ", ".join(escape(part)[:60] if isinstance(part, bytes) else str(part) for part in row)


def _behind(problem: str | None) -> str:
    return "" if problem is None else f": {problem}"


def kill_writer(path: str, first: int, target: int, rows: int) -> tuple[int, bool]:
    """Starts a writer and kills it once batch `target` is acknowledged, while it writes on.

    Returns how many batches, from the first of all, were acknowledged before it died, and whether
    it did die of the signal.
    """
    command = [sys.executable, "-m", "lsmkit.cli.demo_writer", path, str(first), str(rows)]
    acknowledged, read, is_killed = first, 0, False
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        # Large reads keep the pipe empty, so that the kill finds the writer in the store and not
        # waiting to be heard. What it had said before it died still comes out afterwards.
        while data := os.read(writer.stdout.fileno(), 1 << 20):
            read += len(data)
            acknowledged = first + read // LINE_BYTES
            if acknowledged >= target and not is_killed:
                writer.send_signal(signal.SIGKILL)
                is_killed = True
        code = writer.wait()
    if code not in (0, -signal.SIGKILL):
        raise CommandError(f"the writer to be killed failed by itself, with exit code {code}")
    return acknowledged, code == -signal.SIGKILL


def damage(db: lsmkit.DB) -> str | None:
    """The first damage that verifying every checksum finds."""
    report = db.verify()
    if report:
        return None
    return str(report.errors[0])


def folder_bytes(path: str) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())


def level_text(way: dict[str, Any], name: str) -> str:
    for level in way["levels"]:
        if level["name"] == name:
            return f"{level['bytes'] / 1e6:.1f} MB in {level['tables']}"
    return ""


def _rate(what: str) -> Callable[[dict[str, Any], float], str]:
    return lambda way, _: f"{way[f'{what}_rows_per_second'] / 1e6:.2f} M/s"


# The lines of the table: a title, and the text of a way's figure, given the megabytes written.
FIGURES: tuple[tuple[str, Callable[[dict[str, Any], float], str]], ...] = (
    ("rows written", _rate("write")),
    ("bytes written", lambda way, megabytes: f"{megabytes / way['write_seconds']:.0f} MB/s"),
    ("the rest, to tables", lambda way, _: f"{way['flush_seconds']:.2f} s"),
    ("compaction of all", lambda way, _: f"{way['compact_seconds']:.2f} s"),
    ("scan, in pairs", _rate("scan")),
    ("scan, in columns", _rate("column_scan")),
    ("get_many", _rate("get")),
    ("flushes, compactions", lambda way, _: f"{way['flushes']}, {way['compactions']}"),
    ("write amplification", lambda way, _: f"{way['write_amplification']:.2f}"),
    ("space amplification", lambda way, _: f"{way['space_amplification']:.2f}"),
    ("on the disk", lambda way, _: f"{way['disk_bytes'] / 1e6:.1f} MB"),
)
