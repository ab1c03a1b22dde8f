"""Claim: a scan gives the rows between its bounds, in order, as the store was when it began.

Method: every combination of bounds beside a sorted list, with the rows in the log, in tables, and
in both; then scans that outlive writes, flushes, compactions, the name of their store, and its
closing.
"""

from __future__ import annotations

import gc
import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {
    "segment_bytes": 4096,
    "block_bytes": 256,
    "table_bytes": 4096,
    "cache_bytes": 0,
}
KEYS = [
    b"",
    b"\0",
    b"a",
    b"a\0",
    b"ab",
    b"a\xff",
    b"b",
    b"c\xff",
    b"c\xff\xff",
    b"d",
    b"\xff",
    b"\xff\xff",
]
ENDS = [
    None,
    b"",
    b"a",
    b"aa",
    b"a\xff",
    b"b",
    b"c\xff",
    b"e",
    b"\xff",
    b"\xff\xff",
    b"\xff\xff\xff",
]


def value_of(key: bytes) -> bytes:
    return b"value of " + key


@pytest.fixture(params=["log", "tables", "both"])
def filled(request: pytest.FixtureRequest, store_path: str) -> Iterator[lsmkit.DB]:
    """KEYS with their values, and traces of others that were deleted and overwritten."""
    with lsmkit.open(store_path, **TINY) as db:
        early = KEYS if request.param != "both" else KEYS[::2]
        db.put_many([*KEYS, b"gone"], [b"old"] * (len(KEYS) + 1))
        db.put_many(early, [value_of(key) for key in early])
        if request.param != "log":
            db.flush()
        db.delete(b"gone")
        late = [key for key in KEYS if key not in early]
        db.put_many(late, [value_of(key) for key in late])
        if request.param == "tables":
            db.flush()
        yield db


def between(
    start: bytes | None, stop: bytes | None, include_start: bool, include_stop: bool
) -> list[bytes]:
    def is_in(key: bytes) -> bool:
        above = start is None or key > start or (include_start and key == start)
        return above and (stop is None or key < stop or (include_stop and key == stop))

    return [key for key in KEYS if is_in(key)]


@pytest.mark.parametrize("reverse", [False, True])
def test_every_pair_of_bounds(filled: lsmkit.DB, reverse: bool) -> None:
    for start, stop, with_start, with_stop in itertools.product(
        ENDS, ENDS, (True, False), (True, False)
    ):
        expected = between(start, stop, with_start, with_stop)
        if reverse:
            expected.reverse()
        options: dict[str, Any] = {
            "reverse": reverse,
            "include_start": with_start,
            "include_stop": with_stop,
        }
        assert list(filled.scan_keys(start, stop, **options)) == expected, (start, stop, options)


def test_pairs_keys_and_values_belong_together(filled: lsmkit.DB) -> None:
    for options in ({}, {"reverse": True}, {"start": b"a", "stop": b"c"}, {"prefix": b"a"}):
        keys = list(filled.scan_keys(**options))
        assert list(filled.scan(**options)) == [(key, value_of(key)) for key in keys]
        assert list(filled.scan_values(**options)) == [value_of(key) for key in keys]
        assert keys


@pytest.mark.parametrize(
    "prefix", [b"", b"a", b"a\xff", b"c", b"c\xff", b"\xff", b"\xff\xff", b"z"]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_prefix_selects_what_begins_with_it(
    filled: lsmkit.DB, prefix: bytes, reverse: bool
) -> None:
    expected = [key for key in KEYS if key.startswith(prefix)]

    assert list(filled.scan_keys(prefix=prefix, reverse=reverse)) == (
        expected[::-1] if reverse else expected
    )
    assert [key for part in filled.scan_columns(prefix=prefix) for key in part.keys] == expected


def test_a_prefix_of_highest_bytes_has_no_end(db: lsmkit.DB) -> None:
    keys = [b"\xfe\xff", b"\xff", b"\xff\xff", b"\xff\xff\0", b"\xff\xff\xff\xff"]
    db.put_many(keys, keys)

    assert list(db.scan_keys(prefix=b"\xff\xff")) == keys[2:]
    assert list(db.scan_keys(prefix=b"\xff", reverse=True)) == keys[:0:-1]


@pytest.mark.parametrize("scan", ["scan", "scan_keys", "scan_values", "scan_columns"])
def test_wrong_arguments_are_refused_at_once(db: lsmkit.DB, scan: str) -> None:
    call = getattr(db, scan)
    for bounds in ({"start": b"a"}, {"stop": b"a"}, {"start": b"a", "stop": b"b"}, {"start": b""}):
        with pytest.raises(TypeError, match="prefix excludes start and stop"):
            call(prefix=b"p", **bounds)
    with pytest.raises(TypeError):
        call(b"a", b"b", True)
    with pytest.raises(TypeError):
        call(limit=3)


@pytest.mark.parametrize("rows", [0, -1])
def test_columns_of_no_rows_are_a_value_error(db: lsmkit.DB, rows: int) -> None:
    with pytest.raises(ValueError, match=f"rows is {rows}; it must be 1 or more"):
        db.scan_columns(rows=rows)
    with pytest.raises(TypeError):
        db.scan_columns(rows="many")  # type: ignore[arg-type]


def test_bounds_may_be_any_buffer(filled: lsmkit.DB) -> None:
    start, stop = bytearray(b"a"), memoryview(b"b")
    scan = filled.scan_keys(start, stop)
    start[:] = b"zz"

    assert list(scan) == between(b"a", b"b", True, False)


@pytest.mark.parametrize("rows", [1, 2, 5, 12, 13, 100_000])
def test_columns_hold_all_rows(filled: lsmkit.DB, rows: int) -> None:
    parts = list(filled.scan_columns(rows=rows))

    assert [len(part) for part in parts[:-1]] == [rows] * (len(parts) - 1)
    assert 0 < len(parts[-1]) <= rows
    assert [key for part in parts for key in part.keys] == KEYS
    assert [value for part in parts for value in part.values] == [value_of(key) for key in KEYS]
    for part in parts:
        assert len(part.keys) == len(part.values) == len(part)


def test_columns_of_a_range(filled: lsmkit.DB) -> None:
    [part] = filled.scan_columns(b"a", b"b")
    assert part.keys.to_pylist() == between(b"a", b"b", True, False)
    assert list(filled.scan_columns(b"b", b"a")) == []
    assert list(filled.scan_columns(b"zz", b"zzz")) == []


def test_columns_go_to_arrow_and_polars(filled: lsmkit.DB) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.RecordBatchReader.from_stream(filled.scan_columns(rows=5)).read_all()
    assert table.column("key").to_pylist() == KEYS
    assert table.column("value").to_pylist() == [value_of(key) for key in KEYS]
    [part] = filled.scan_columns()
    assert pa.record_batch(part).column(0).to_pylist() == KEYS
    pl = pytest.importorskip("polars")
    assert pl.DataFrame(filled.scan_columns())["key"].to_list() == KEYS


def test_an_arrow_stream_begins_anew_each_time(filled: lsmkit.DB) -> None:
    pa = pytest.importorskip("pyarrow")
    scan = filled.scan_columns(b"a", b"b")
    next(scan)
    for _ in range(2):
        table = pa.RecordBatchReader.from_stream(scan).read_all()
        assert table.column("key").to_pylist() == between(b"a", b"b", True, False)


def test_a_scan_is_its_own_iterator_and_ends_for_good(filled: lsmkit.DB) -> None:
    for scan in (filled.scan(), filled.scan_keys(reverse=True), filled.scan_columns()):
        assert iter(scan) is scan
        assert len(list(scan)) > 0
        assert list(scan) == []
        with pytest.raises(StopIteration):
            next(scan)


def test_an_empty_store_has_nothing_to_scan(db: lsmkit.DB) -> None:
    assert list(db.scan()) == list(db.scan(reverse=True)) == list(db.scan_columns()) == []
    db[b"a"] = b""
    del db[b"a"]
    assert list(db.scan()) == list(db.scan_columns()) == []
    db.flush()
    assert list(db.scan()) == list(db.scan_columns()) == []


# --- Isolation -------------------------------------------------------------------------------


def numbered(n: int) -> bytes:
    return b"%06d" % n


def fill(db: lsmkit.DB, n: int, value: bytes) -> dict[bytes, bytes]:
    pairs = {numbered(i): value + b"%d" % i for i in range(n)}
    db.put_many(list(pairs), list(pairs.values()))
    return pairs


def churn(db: lsmkit.DB, n: int) -> None:
    """Everything that could disturb a scan: overwrites, deletes, new rows, flush, compaction."""
    fill(db, n, b"other ")
    db.delete_many([numbered(i) for i in range(0, n, 3)])
    db.put_many([numbered(i) + b"new" for i in range(n)], [b"new"] * n)
    db.flush()
    db.compact()
    db.clear()
    db.wait_idle()


@pytest.mark.parametrize("begun", [0, 1, 40, 700])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("place", ["log", "tables"])
def test_a_scan_sees_the_moment_at_which_it_began(
    store_path: str, begun: int, reverse: bool, place: str
) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        pairs = fill(db, 1000, b"first ")
        if place == "tables":
            db.flush()
        expected = sorted(pairs.items(), reverse=reverse)
        scan = db.scan(reverse=reverse)
        taken = list(itertools.islice(scan, begun))
        columns = db.scan_columns(rows=300)
        head = next(columns)

        churn(db, 1000)

        assert len(db) == 0
        assert taken + list(scan) == expected
        rest = [*zip(head.keys, head.values, strict=True)]
        for part in columns:
            rest += zip(part.keys, part.values, strict=True)
        assert rest == sorted(pairs.items())


def test_writing_while_scanning_does_not_change_the_scan(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        pairs = fill(db, 2000, b"v")
        seen = []
        for key, value in db.items():
            seen.append((key, value))
            db[key + b"child"] = value
            del db[key]
        assert seen == sorted(pairs.items())
        assert list(db) == [key + b"child" for key in sorted(pairs)]


def test_a_scan_keeps_its_store_open(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        pairs = fill(db, 1000, b"v")
    found = dict(lsmkit.open(store_path).scan())
    assert found == pairs
    reading = iter(lsmkit.open(store_path).snapshot().items())
    gc.collect()
    assert dict(reading) == pairs
    del reading
    columns = lsmkit.open(store_path).scan_columns(rows=10)
    gc.collect()
    assert sum(len(part) for part in columns) == len(pairs)


@pytest.mark.parametrize("place", ["log", "tables"])
def test_closing_the_store_ends_its_scans(store_path: str, place: str) -> None:
    db = lsmkit.open(store_path, **TINY)
    fill(db, 1000, b"v")
    if place == "tables":
        db.flush()
    scans: list[Iterator[Any]] = [
        db.scan(),
        db.scan_keys(),
        db.scan_values(reverse=True),
        db.scan_columns(rows=7),
        iter(db),
        iter(db.items()),
    ]
    for scan in scans[1:]:
        next(scan)  # rows that were fetched already count as little as those that were not
    part = next(scans[3])
    finished = db.scan(b"x")
    list(finished)

    db.close()

    for scan in [*scans, finished]:
        for _ in range(2):
            with pytest.raises(lsmkit.ClosedError, match="the store is closed"):
                next(scan)
    assert part.keys.to_pylist() == [numbered(i) for i in range(7, 14)], "columns are copies"


def test_an_arrow_stream_of_a_closed_store_is_an_error(store_path: str) -> None:
    pa = pytest.importorskip("pyarrow")
    db = lsmkit.open(store_path)
    fill(db, 100, b"v")
    scan = db.scan_columns(rows=10)
    reader = pa.RecordBatchReader.from_stream(scan)
    reader.read_next_batch()
    db.close()

    with pytest.raises(Exception, match="the store is closed"):
        reader.read_all()
    with pytest.raises(lsmkit.ClosedError):
        scan.__arrow_c_stream__()


def test_a_scan_in_a_cycle_is_collected(store_path: str) -> None:
    class Holder:
        pass

    with lsmkit.open(store_path, **TINY) as db:
        fill(db, 1000, b"v")
        db.flush()
        for make in (db.scan, db.scan_keys, db.scan_columns, db.snapshot):
            holder = Holder()
            holder.me = holder  # type: ignore[attr-defined]
            holder.scan = make()  # type: ignore[attr-defined]
            next(iter(holder.scan))  # type: ignore[attr-defined]
            del holder
            assert gc.collect() > 0
        assert len(db) == 1000


def test_one_scan_read_by_many_threads_gives_each_row_once_or_refuses(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        pairs = fill(db, 20_000, b"v")
        db.flush()
        scan, found, refused = db.scan_keys(), [], []

        def read() -> None:
            while True:
                try:
                    found.append(next(scan))
                except StopIteration:
                    return
                except RuntimeError as error:  # as a generator says it
                    refused.append(error)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted(pairs)
        assert all("another thread" in str(error) for error in refused)


def test_random_ranges_in_many_blocks_and_tables(store_path: str, rng: random.Random) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        model: dict[bytes, bytes] = {}
        for _ in range(3000):
            key = b"%d" % rng.randrange(2000)
            if rng.random() < 0.2:
                db.delete(key)
                model.pop(key, None)
            else:
                db[key] = model[key] = rng.randbytes(rng.randrange(60))
        keys = sorted(model)
        for _ in range(300):
            low, high = (b"%d" % rng.randrange(2000) for _ in range(2))
            inside = [key for key in keys if low <= key < high]
            reverse = rng.random() < 0.5
            assert list(db.scan(low, high, reverse=reverse)) == [
                (key, model[key]) for key in (inside[::-1] if reverse else inside)
            ]
        assert [k for part in db.scan_columns(rows=100) for k in part.keys] == keys
        assert len(db) == len(keys)


def test_the_count_of_a_range_of_versions_is_that_of_live_keys(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        for i in range(300):
            fill(db, 20, b"%d " % i)
        assert len(db) == 20
        db.delete_many([numbered(i) for i in range(15)])
        assert len(db) == len(list(db)) == 5
