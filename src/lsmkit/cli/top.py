"""``lsmkit top``: a store while another process works on it, look after look.

What is shown is what can be known from outside: which tables there are, and which came and went
between two looks. Counters, cache and memory are the owner's own and are not shown; a table that
came and went between two looks is not seen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

import lsmkit
from lsmkit.cli.opening import open_reading
from lsmkit.cli.output import size_text, write_json, write_line


class Look:
    """The tables of a moment, by file: (level, bytes, rows, newest sequence)."""

    def __init__(self, db: lsmkit.DB) -> None:
        self.at = time.monotonic()
        self.tables = {
            table[0]: (level, table[1], table[2], table[7])
            for ranges in db._handle.version().values()
            for _, runs in ranges
            for level, _, tables in runs
            for table in tables
        }
        self.stats = db.stats()

    def since(self, before: Look | None) -> dict[str, Any]:
        """What is there, and, a second, what came and went since the look before."""
        s = self.stats
        found: dict[str, Any] = {
            "table_bytes": s.table_bytes,
            "tables": len(self.tables),
            "ranges": s.ranges,
            "runs_mean": s.runs_mean,
            "runs_max": s.runs_max,
            "range_tombstones": s.range_tombstones,
            "space_amplification": s.space_amplification,
            "levels": [level.to_dict() for level in s.levels],
        }
        if before is not None:
            seconds = max(self.at - before.at, 1e-9)
            came = [t for file, t in self.tables.items() if file not in before.tables]
            went = [t for file, t in before.tables.items() if file not in self.tables]
            found["seconds"] = seconds
            found["written_bytes_per_second"] = sum(t[1] for t in came) / seconds
            found["removed_bytes_per_second"] = sum(t[1] for t in went) / seconds
            newest = [
                max((t[3] for t in look.tables.values()), default=0) for look in (before, self)
            ]
            found["flushed_records_per_second"] = max(newest[1] - newest[0], 0) / seconds
        return found


def as_lines(found: dict[str, Any]) -> list[str]:
    """A table of levels, and what happens a second."""
    lines = [f"{'':<10}{'tables':>10}{'rows':>14}{'deletes':>12}{'bytes':>12}"]
    lines += [
        f"{level['name']:<10}{level['tables']:>10,}{level['rows']:>14,}{level['tombstones']:>12,}"
        f"{size_text(level['bytes']):>12}"
        for level in found["levels"]
    ]
    lines += [
        "",
        f"{found['tables']:,} tables, {size_text(found['table_bytes'])} in {found['ranges']} "
        f"ranges; runs a read {found['runs_mean']:.1f}, at most {found['runs_max']}",
    ]
    if "seconds" in found:
        lines.append(as_line(found))
    return lines


def as_line(found: dict[str, Any]) -> str:
    text = f"{found['tables']:,} tables  {size_text(found['table_bytes'])}"
    if "seconds" not in found:
        return text
    return (
        f"{text}  written {size_text(found['written_bytes_per_second'])}/s  "
        f"removed {size_text(found['removed_bytes_per_second'])}/s  "
        f"flushed {found['flushed_records_per_second']:,.0f} records/s"
    )


@click.command()
@click.argument("store")
@click.option("--interval", default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--count", default=0, show_default=True, help="So many looks; 0: until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a look.")
def top(store: str, interval: float, count: int, as_json: bool) -> None:
    """Watch a store, also one that another process is writing to.

    Shows the tables of each level, and what came and went between two looks: bytes of tables that
    were written and removed, and records that were flushed. What only the owner knows, such as its
    cache, its memory and what its log still holds, is not shown.
    """
    if not 0 < interval <= 86_400:
        raise click.BadParameter(
            "it must be more than 0 and at most a day", param_hint="--interval"
        )
    if count < 0:
        raise click.BadParameter("it must be 0 or more", param_hint="--count")
    with open_reading(store) as db:
        if as_json or not sys.stdout.isatty():
            for found in looks(db, interval, count):
                if as_json:
                    write_json(found)
                else:
                    write_line(as_line(found))
            return
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False) as live:
            for found in looks(db, interval, count):
                live.update(Text("\n".join(as_lines(found))), refresh=True)


def looks(db: lsmkit.DB, interval: float, count: int) -> Iterator[dict[str, Any]]:
    before: Look | None = None
    made = 0
    while True:
        look = Look(db)
        yield look.since(before)
        sys.stdout.flush()
        made += 1
        if made == count:
            return
        before = look
        time.sleep(interval)
        db.refresh()
