"""What the package costs before it has done anything for you: memory, import, size.

Memory: what a process grows by is at most the segments and the cache, and a tenth more. Importing
takes under 10 ms and does not load NumPy. A wheel, where one has been built, has under 1.5 MB.
"""

from __future__ import annotations

import glob
import os
import statistics

import pytest

from bench import child
from bench import workloads as w
from bench.engines import ENGINES, MIB


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_memory_resident(benchmark, place, report):
    """Four million rows: more than the cache holds, so that it is full at the end."""
    rows = w.rows(4_000_000, multiple=10_000)
    with place.folder() as folder:
        told = benchmark.pedantic(
            lambda: child.start("memory", os.path.join(folder, "store"), rows), rounds=1
        )
    benchmark.extra_info.update(told)
    for phase, figures in told.items():
        limit = (figures["segments"] + figures["cache"]) * 1.1
        report.limit(f"memory while {phase}", figures["peak"] / MIB, limit / MIB, "MiB")
        parts = ", ".join(f"{part} {figure / MIB:.0f} MiB" for part, figure in figures.items())
        report.note(f"memory while {phase}, and what stats() says of it: {parts}")


def test_memory_import(compete, place, report):
    """Of modules that are compiled already, as installed ones are."""
    seen = []
    with place.folder() as compiled:
        environment = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}

        def turn(package):
            told = child.start("import", package, **environment)
            if package == "lsmkit":
                seen.append(told["numpy"])
            return told["ms"]

        for engine in ENGINES:
            turn(engine.package)
        samples = compete({e.name: lambda package=e.package: turn(package) for e in ENGINES})
    middle = {name: statistics.median(figures) for name, figures in samples.items()}
    report.limit("import", middle.pop("lsmkit"), 10, "ms", middle)
    report.limit("  NumPy loaded by it", float(any(seen)), 0, "times")


def test_memory_wheel(report):
    wheels = glob.glob(os.path.join(child.ROOT, "dist", "lsmkit-*.whl"))
    if not wheels:
        report.note("wheel: none in dist/ (`make wheel` builds one)")
        pytest.skip("no wheel in dist/")
    newest = max(wheels, key=os.path.getmtime)
    report.limit("wheel", os.path.getsize(newest) / 1e6, 1.5, "MB")
