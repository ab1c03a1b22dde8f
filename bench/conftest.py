"""What the benchmarks share: a place for stores, loaded stores, and the report at the end.

make bench              all of it, about a quarter of an hour
make bench B=put        the files and tests whose name contains a word
BENCH_SCALE=0.05 ...    a quick look
BENCH_JSON=FILE ...     the table as JSON too
BENCH_DIR=FOLDER ...    where the stores are made, on the disk to be measured
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

# `pytest bench` by itself does not put the project's folder on the path, `python -m pytest` does.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from bench import race, workloads  # noqa: E402
from bench.engines import ALL, ENGINES  # noqa: E402
from bench.report import Report  # noqa: E402

TEST_SECONDS_MAX = 1800
REPORT = Report()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Its own table compares the rounds of one test, each of which is a whole race.
    config.option.benchmark_quiet = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.hasplugin("timeout"):
        for item in items:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS_MAX))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not REPORT.lines:
        return
    terminalreporter.section("figures, medians of five interleaved rounds")
    terminalreporter.write_line(machine())
    terminalreporter.write_line("")
    terminalreporter.write_line(str(REPORT))
    where = os.environ.get("BENCH_JSON")
    if where:
        with open(where, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "lines": REPORT.to_json()}, file, indent=1)


def machine() -> str:
    versions = [f"{engine.name} {version_of(engine.package)}" for engine in ENGINES]
    missing = [engine.name for engine in ALL if engine not in ENGINES]
    parts = [
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"{os.cpu_count()} cores",
        ", ".join(versions),
    ]
    if missing:
        parts.append(f"not installed: {', '.join(missing)}")
    if workloads.SCALE != 1:
        parts.append(f"scale {workloads.SCALE:g}: a quick look, not a result")
    return "; ".join(parts)


def version_of(package: str) -> str:
    if package == "sqlite3":
        import sqlite3

        return sqlite3.sqlite_version
    from importlib import import_module

    module = import_module(package)
    version = getattr(module, "__version__", None)
    if version is None:
        from importlib.metadata import version as installed

        version = installed(package)
    return str(version)


@pytest.fixture(scope="session", autouse=True)
def _no_collector() -> Iterator[None]:
    """The cyclic collector would walk through millions of rows in the middle of a measurement."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> race.Place:
    root = os.environ.get("BENCH_DIR")
    return race.Place(root or str(tmp_path_factory.mktemp("stores")))


@pytest.fixture
def compete(benchmark: Any) -> Callable[[Mapping[str, race.Turn]], race.Samples]:
    """Runs the turns in rounds; once a test."""
    return lambda turns: race.run(benchmark, turns)


@pytest.fixture(scope="session")
def report() -> Report:
    return REPORT


@pytest.fixture(scope="session")
def million(place: race.Place) -> Iterator[race.Loaded]:
    """A million rows in tables; tests only read from it."""
    count = workloads.rows(1_000_000, multiple=10_000)
    loaded = race.Loaded(place, workloads.keys(count), workloads.values(count))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def changing(place: race.Place) -> Iterator[race.Loaded]:
    """A million rows in tables, for the tests of one file to write to."""
    count = workloads.rows(1_000_000, multiple=10_000)
    loaded = race.Loaded(place, workloads.keys(count), workloads.values(count))
    yield loaded
    loaded.close()
