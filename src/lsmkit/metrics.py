"""A store's statistics for Prometheus.

    from prometheus_client import REGISTRY
    REGISTRY.register(lsmkit.metrics.collector(db))

Needs prometheus_client (``pip install lsmkit[metrics]``), imported when a collector is made.
Figures are read when they are scraped: a store that is not scraped pays nothing.
"""

from __future__ import annotations

from weakref import ref

from .errors import ClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .db import DB

__all__ = ["collector"]

# Name, part of the statistics, field, what it is. Times are nanoseconds there and seconds here.
_COUNTERS = (
    ("writes_records", "writes", "records", "Records written to the log."),
    ("writes_frames", "writes", "frames", "Atomic writes: a put, a batch, a column."),
    ("writes_bytes", "writes", "bytes", "Bytes written to the log."),
    ("writes_syncs", "writes", "syncs", "Syncs of the log."),
    ("flushes", "flushes", "count", "Flushes of log segments into tables."),
    ("flushes_bytes", "flushes", "bytes", "Bytes of tables that flushes wrote."),
    ("flushes_seconds", "flushes", "ns", "Time spent in flushes."),
    ("compactions_merges", "compactions", "merges", "Compactions that merged tables."),
    ("compactions_moves", "compactions", "moves", "Compactions that moved tables unread."),
    ("compactions_in_bytes", "compactions", "bytes_in", "Bytes of tables that compactions read."),
    ("compactions_out_bytes", "compactions", "bytes_out", "Bytes that compactions wrote."),
    ("compactions_seconds", "compactions", "ns", "Time spent in compactions."),
    ("stalls_slowed", "stalls", "slowed", "Writes that were slowed."),
    ("stalls_slowed_seconds", "stalls", "slowed_ns", "Time for which writes were slowed."),
    ("stalls_stopped", "stalls", "stopped", "Writes that waited for flush or compaction."),
    ("stalls_stopped_seconds", "stalls", "stopped_ns", "Time for which writes waited."),
    ("cache_fills", "cache", "fills", "Blocks read into the cache."),
    ("cache_evictions", "cache", "evictions", "Blocks evicted from the cache."),
)
_GAUGES = (
    ("table_bytes", "table_bytes", "Bytes of live tables."),
    ("disk_bytes", "disk_bytes", "Bytes of live tables and of the log that is in none yet."),
    ("ranges", "ranges", "Key ranges that are compacted by themselves."),
    ("runs_max", "runs_max", "Sorted runs in the range that has most."),
    ("pressure", "pressure", "How far flush and compaction are behind, 0 to 1."),
    ("write_amplification", "write_amplification", "Bytes written to tables a byte of user data."),
    ("space_amplification", "space_amplification", "Bytes of tables a byte of the last level."),
)


class _Collector:
    """What a registry of prometheus_client asks; see `collector`."""

    def __init__(self, db: DB, prefix: str) -> None:
        from prometheus_client import core

        self._families = core
        self._db = ref(db)
        self._path = db.path
        self._prefix = prefix

    def describe(self) -> Iterator[Any]:
        """Nothing: names are told by `collect`, and a registry need not ask a store for them."""
        return iter(())

    def collect(self) -> Iterator[Any]:
        """The figures of now; none once the store is closed or gone."""
        db = self._db()
        try:
            stats = None if db is None or db.closed else db.stats()
        except ClosedError:
            stats = None
        if stats is not None:
            yield from self._counters(stats)
            yield from self._gauges(stats)

    def _counters(self, stats: Any) -> Iterator[Any]:
        for name, part, field, text in _COUNTERS:
            value = getattr(getattr(stats, part), field)
            if field.endswith("ns"):
                value /= 1e9
            yield self._one(self._families.CounterMetricFamily, name, text, value)
        yield self._one(
            self._families.CounterMetricFamily,
            "background_errors",
            "Flushes and compactions that failed.",
            stats.background_errors,
        )

    def _gauges(self, stats: Any) -> Iterator[Any]:
        for name, field, text in _GAUGES:
            yield self._one(self._families.GaugeMetricFamily, name, text, getattr(stats, field))
        memory = self._families.GaugeMetricFamily(
            f"{self._prefix}_memory_bytes", "Memory held.", labels=["store", "part"]
        )
        for part, value in stats.memory.to_values().items():
            if part != "total":
                memory.add_metric([self._path, part], value)
        yield memory
        for field in ("tables", "bytes", "rows", "tombstones"):
            family = self._families.GaugeMetricFamily(
                f"{self._prefix}_level_{field}",
                f"{field.capitalize()} of a level.",
                labels=["store", "level"],
            )
            for level in stats.levels:
                family.add_metric([self._path, level.name], getattr(level, field))
            yield family

    def _one(self, kind: Any, name: str, text: str, value: float) -> Any:
        family = kind(f"{self._prefix}_{name}", text, labels=["store"])
        family.add_metric([self._path], value)
        return family


def collector(db: DB, *, prefix: str = "lsmkit") -> _Collector:
    """A collector for a registry of prometheus_client: `stats()` of the store, read at each scrape.

    Each metric begins with `prefix` and has the store's path as its label ``store``. The collector
    does not keep the store open; of one that is closed it tells nothing.
    """
    return _Collector(db, prefix)
