"""Opening a store: after a kill, with 64 MiB of log, 14 times faster than SQLite with its WAL; a
clean one of a million rows, its first get included, under 3 ms.

A child process puts rows one by one until its log has that size, and kills itself. Each turn opens
a copy of what it left, and gets the row that was written last. SQLite's log has the same number of
bytes; LMDB has no log. Files are in the page cache, as they are after a kill.
"""

from __future__ import annotations

import os
import shutil
import time

import pytest

from bench import child
from bench import workloads as w
from bench.engines import BY_NAME, MIB

LOG_BYTES = int(62.5 * MIB * min(w.SCALE, 1))  # just below the size at which a flush would begin
WITH_LOG = [name for name in BY_NAME if name != "lmdb"]


@pytest.fixture(scope="module")
def left(place):
    """For each engine the folder that a killed process left, and what it told."""
    found = {}
    folders = []
    for name in WITH_LOG:
        context = place.folder()
        folder = context.__enter__()
        folders.append(context)
        path = os.path.join(folder, "store")
        found[name] = (path, child.start("killed", name, path, LOG_BYTES))
    yield found
    for context in folders:
        context.__exit__(None, None, None)


def opening(engine, path, key):
    """Milliseconds to open and get one row."""
    start = time.perf_counter()
    store = engine(path)
    value = store.get(key)
    took = time.perf_counter() - start
    store.close()
    assert value is not None
    return took * 1000


def test_recovery_after_kill(compete, place, left, report):
    def turn(name):
        path, told = left[name]
        with place.folder() as folder:
            copy = os.path.join(folder, "store")
            shutil.copytree(path, copy)
            return opening(BY_NAME[name], copy, bytes.fromhex(told["key"]))

    samples = compete({name: lambda name=name: turn(name) for name in WITH_LOG})
    report.race(
        f"reopen after a kill, {LOG_BYTES / MIB:.0f} MiB of log",
        samples,
        14,
        against=["sqlite3"],
        unit="ms",
    )
    told = ", ".join(f"{name} {left[name][1]['rows']:,}" for name in WITH_LOG)
    report.note(f"rows in the log of that size, one a commit: {told}")


def test_recovery_clean(compete, million, report):
    key = million.keys[len(million.keys) // 2]

    def turn(name):
        million.stores[name].close()
        start = time.perf_counter()
        value = million.reopen(name).get(key)
        took = time.perf_counter() - start
        assert value is not None
        return took * 1000

    samples = compete({name: lambda name=name: turn(name) for name in million.stores})
    middle = {name: sorted(figures)[len(figures) // 2] for name, figures in samples.items()}
    report.limit("open a clean store, first get", middle.pop("lsmkit"), 3, "ms", middle)
