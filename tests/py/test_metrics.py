"""Claim: a collector tells prometheus_client what the store's statistics say, when it is asked.

Method: a registry of the test's own is scraped, and its samples compared with `stats()`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lsmkit

prometheus = pytest.importorskip("prometheus_client")


def registry_of(db: lsmkit.DB, **how: str) -> object:
    registry = prometheus.CollectorRegistry()
    registry.register(lsmkit.metrics.collector(db, **how))
    return registry


def value(registry: object, name: str, **labels: str) -> float | None:
    found: float | None = registry.get_sample_value(name, labels)  # type: ignore[attr-defined]
    return found


def test_a_scrape_says_what_stats_says(db: lsmkit.DB) -> None:
    registry = registry_of(db)
    for round in range(3):
        db.put_many([b"%d" % n for n in range(1000)], [b"x" * 100] * 1000)
        db.flush()
        db.compact()
        db.wait_idle()
        stats = db.stats()
        where = {"store": db.path}
        assert value(registry, "lsmkit_writes_records_total", **where) == 1000 * (round + 1)
        assert value(registry, "lsmkit_writes_bytes_total", **where) == stats.writes.bytes
        assert value(registry, "lsmkit_flushes_total", **where) == stats.flushes.count
        seconds = value(registry, "lsmkit_flushes_seconds_total", **where)
        assert seconds == stats.flushes.ns / 1e9
        assert value(registry, "lsmkit_table_bytes", **where) == stats.table_bytes > 0
        assert value(registry, "lsmkit_background_errors_total", **where) == 0
        for level in stats.levels:
            assert value(registry, "lsmkit_level_rows", level=level.name, **where) == level.rows
        parts = stats.memory.to_values()
        cache = value(registry, "lsmkit_memory_bytes", part="cache", **where)
        assert cache == parts["cache"]


def test_every_metric_is_explained_and_has_the_store(db: lsmkit.DB) -> None:
    families = list(lsmkit.metrics.collector(db, prefix="my_store").collect())
    names = [family.name for family in families]
    assert len(names) == len(set(names)) > 20
    for family in families:
        assert family.name.startswith("my_store_")
        assert family.documentation.endswith(".")
        assert all(sample.labels["store"] == db.path for sample in family.samples)


def test_a_text_can_be_exposed(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    text = prometheus.generate_latest(registry_of(db)).decode()
    assert f'lsmkit_writes_records_total{{store="{db.path}"}} 1.0' in text


def test_two_stores_share_a_registry(db: lsmkit.DB, store_path: str) -> None:
    with lsmkit.open(store_path + "-2") as other:
        other[b"a"] = b"1"
        registry = prometheus.CollectorRegistry()
        registry.register(lsmkit.metrics.collector(db))
        registry.register(lsmkit.metrics.collector(other))
        assert value(registry, "lsmkit_writes_records_total", store=db.path) == 0
        assert value(registry, "lsmkit_writes_records_total", store=other.path) == 1


def test_a_closed_store_tells_nothing(store_path: str) -> None:
    db = lsmkit.open(store_path)
    collector = lsmkit.metrics.collector(db)
    assert list(collector.collect())
    db.close()
    assert list(collector.collect()) == []
    del db
    assert list(collector.collect()) == []


def test_a_collector_keeps_no_store_open(store_path: str) -> None:
    collector = lsmkit.metrics.collector(lsmkit.open(store_path))
    lsmkit.open(store_path).close()
    assert list(collector.collect()) == []


def test_the_document_names_every_metric(db: lsmkit.DB) -> None:
    """By its name, or by an end of it behind one that begins alike."""
    document = Path(__file__).resolve().parents[2] / "docs" / "METRICS.md"
    if not document.exists():
        pytest.skip("an installed test suite has no documents beside it")
    named = set(re.findall(r"`(\w+)`", document.read_text(encoding="utf-8")))
    db[b"a"] = b"1"
    for family in lsmkit.metrics.collector(db).collect():
        parts = family.name.split("_")
        ends = {"_" + "_".join(parts[i:]) for i in range(2, len(parts))}
        assert named & {family.name, *ends}, family.name


def test_modules_that_few_need_are_imported_when_they_are_asked_for() -> None:
    source = (
        "import sys, lsmkit\n"
        "late = {'lsmkit.metrics', 'lsmkit.testing'}\n"
        "assert not late & set(sys.modules)\n"
        "assert lsmkit.metrics.collector and lsmkit.testing.FaultyDisk\n"
        "assert late <= set(sys.modules)\n"
        "assert not hasattr(lsmkit, 'nonsense')\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True)
