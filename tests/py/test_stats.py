"""Claim: Stats takes exactly the counters that it knows, computes amplifications, and prints.

Method: one made-up set of counters, complete, with a piece missing, and with a piece too many.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest

from lsmkit.compaction import LazyLeveled
from lsmkit.stats import Stats, shape_of
from lsmkit.version import Version


def policy_of(tree: int) -> LazyLeveled:
    return LazyLeveled()


def table(file: int, size: int, low: bytes, high: bytes) -> tuple[Any, ...]:
    return (file, size, size // 100, 3, low, high, 1, 9, 0, 0, True, 0, 0, 0)


def version() -> Version:
    """Two ranges; table 9 stands in both of them."""
    wide = table(9, 1000, b"a", b"z")
    return Version.from_raw(
        {
            0: (
                (b"", ((0, 9, (wide,)), (15, 1, (table(3, 4000, b"a", b"c"),)))),
                (b"k", ((0, 9, (wide,)), (1, 4, (table(4, 500, b"k", b"l"),)))),
            )
        }
    )


def raw() -> dict[str, Any]:
    return {
        "writes": {"records": 1234, "frames": 100, "bytes": 1000, "syncs": 2, "segments": 1},
        "flushes": {"count": 1, "records": 1234, "bytes": 600, "ns": 1_500_000},
        "compactions": {
            "merges": 2,
            "moves": 3,
            "bytes_in": 2000,
            "bytes_out": 1400,
            "rows": 50,
            "rows_copied": 20,
            "ns": 5,
        },
        "stalls": {"slowed": 1, "slowed_ns": 10, "stopped": 2, "stopped_ns": 20},
        "recovery": {"records": 0, "bytes": 0, "lost_bytes": 0},
        "cache": {
            "used_bytes": 1 << 20,
            "capacity_bytes": 1 << 28,
            "fixed_bytes": 5,
            "fills": 6,
            "evictions": 1,
        },
        "memory": dict.fromkeys(
            ("segments", "pinned", "cache", "tables", "background", "total", "limit"), 1
        ),
        "blobs": {"files": 0, "bytes": 0, "live_bytes": 0},
        **shape_of(version(), policy_of, {}),
        "disk_bytes": 6000,
        "range_tombstones": 0,
        "history_bytes": 0,
        "pressure": 0.25,
        "background_errors": 0,
        "last_error": "",
    }


def test_levels_count_a_table_once_and_ranges_count_its_runs() -> None:
    shape = shape_of(version(), policy_of, {})
    assert [(x["name"], x["tables"], x["bytes"]) for x in shape["levels"]] == [
        ("flushed", 1, 1000),
        ("tier 1", 1, 500),
        ("last", 1, 4000),
    ]
    assert (shape["ranges"], shape["runs_mean"], shape["runs_max"]) == (2, 2.0, 2)


def test_an_empty_store_has_no_levels() -> None:
    shape = shape_of(Version.from_raw({}), policy_of, {})
    assert shape == {
        "levels": [],
        "keyspaces": [],
        "ranges": 0,
        "runs_mean": 0.0,
        "runs_max": 0,
    }
    stats = Stats.from_raw({**raw(), **shape, "writes": {**raw()["writes"], "bytes": 0}})
    assert (stats.write_amplification, stats.space_amplification) == (0.0, 1.0)


def test_amplifications_follow_from_the_counters() -> None:
    stats = Stats.from_raw(raw())
    assert stats.write_amplification == (1000 + 600 + 1400) / 1000
    assert stats.table_bytes == 5500
    assert stats.space_amplification == 5500 / 4000


def test_a_missing_counter_is_named() -> None:
    for name in raw():
        short = raw()
        del short[name]
        with pytest.raises(KeyError, match=f"Stats needs '{name}'"):
            Stats.from_raw(short)
    short = raw()
    del short["cache"]["fills"]
    with pytest.raises(KeyError, match="Cache needs 'fills'"):
        Stats.from_raw(short)


def test_an_unknown_counter_is_named() -> None:
    with pytest.raises(KeyError, match="Stats has no 'hits'"):
        Stats.from_raw({**raw(), "hits": 1})
    with pytest.raises(KeyError, match="Stalls has no 'hits'"):
        Stats.from_raw({**raw(), "stalls": {**raw()["stalls"], "hits": 1}})


def test_it_is_a_frozen_dataclass() -> None:
    stats = Stats.from_raw(raw())
    assert dataclasses.is_dataclass(stats)
    assert dataclasses.asdict(stats)["cache"]["fills"] == 6
    assert dataclasses.replace(stats, pressure=1.0).pressure == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.pressure = 0.0
    assert pickle.loads(pickle.dumps(stats)) == stats == copy.deepcopy(stats)
    assert hash(stats) == hash(Stats.from_raw(raw()))
    assert stats != Stats.from_raw({**raw(), "pressure": 0.5})


def test_its_dict_is_plain_enough_for_json() -> None:
    plain = Stats.from_raw(raw()).to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["levels"][2]["name"] == "last"
    assert plain["write_amplification"] == 3.0


def test_it_prints_as_a_table() -> None:
    lines = str(Stats.from_raw(raw())).split("\n")
    assert lines[0].split() == ["tables", "rows", "deletes", "bytes"]
    assert lines[1].split() == ["flushed", "1", "10", "3", "1000", "B"]
    assert len({len(line) for line in lines[:4]}) == 1, "columns are aligned"
    text = "\n".join(lines)
    assert "1,234 records in 100 frames" in text
    assert "600 B in 1.5 ms" in text
    assert "1 MiB of 256 MiB" in text
    assert "writes 3.00, space 1.38" in text
    assert "errors" not in text
    failed = {**raw(), "background_errors": 2, "last_error": "disk full"}
    assert "2, the last: disk full" in str(Stats.from_raw(failed))
