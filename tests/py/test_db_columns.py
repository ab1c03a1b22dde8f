"""Claim: put_many, get_many and delete_many take every form of a column, in order and atomically.

Method: each form of keys and of values, written and read back as single rows; each kind of wrong
column, after which the store is as it was. What a form means byte by byte is test_columns_in.py's.
"""

from __future__ import annotations

import array
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lsmkit

np = pytest.importorskip("numpy")

ROWS = [b"k%02d" % i for i in (3, 1, 2, 0, 7)]
VALUES = [b"value %d" % i * i for i in range(5)]


def offsets_of(rows: list[bytes], kind: str) -> tuple[bytes, Any]:
    ends = [0]
    for row in rows:
        ends.append(ends[-1] + len(row))
    return b"".join(rows), np.array(ends, kind)


def arrow(make: Callable[[Any], Any]) -> Callable[[list[bytes]], Any]:
    def column(rows: list[bytes]) -> Any:
        return make(pytest.importorskip("pyarrow"))(rows)

    return column


def polars(rows: list[bytes]) -> Any:
    pl = pytest.importorskip("polars")
    return pl.Series(rows, dtype=pl.Binary)


def read_back(rows: list[bytes]) -> Any:
    """A Column, as a store hands it out."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, lsmkit.open(folder) as other:
        keys = [b"%04d" % i for i in range(len(rows))]
        other.put_many(keys, rows)
        return other.get_many((b"".join(keys), np.arange(0, 4 * len(rows) + 1, 4)))


# Forms that hold rows of any length.
FORMS: dict[str, Callable[[list[bytes]], Any]] = {
    "list": list,
    "tuple": tuple,
    "list of bytearray": lambda rows: [bytearray(row) for row in rows],
    "list of memoryview": lambda rows: [memoryview(row) for row in rows],
    "mixed list": lambda rows: [bytearray(row) if i % 2 else row for i, row in enumerate(rows)],
    "data and int32 offsets": lambda rows: offsets_of(rows, "i4"),
    "data and int64 offsets": lambda rows: offsets_of(rows, "i8"),
    "data and uint64 offsets": lambda rows: offsets_of(rows, "u8"),
    "data and array.array": lambda rows: (
        offsets_of(rows, "i8")[0],
        array.array("q", offsets_of(rows, "i8")[1].tolist()),
    ),
    "objects of NumPy": lambda rows: list(np.array(rows, object)),
    "Column": read_back,
    "arrow binary": arrow(lambda pa: lambda rows: pa.array(rows, pa.binary())),
    "arrow large_binary": arrow(lambda pa: lambda rows: pa.array(rows, pa.large_binary())),
    "arrow binary_view": arrow(lambda pa: lambda rows: pa.array(rows, pa.binary_view())),
    "arrow utf8": arrow(lambda pa: lambda rows: pa.array([row.decode() for row in rows])),
    "arrow slice": arrow(lambda pa: lambda rows: pa.array([b"x", *rows, b"y"]).slice(1, len(rows))),
    "arrow chunked": arrow(lambda pa: lambda rows: pa.chunked_array([pa.array(rows, pa.binary())])),
    "polars": polars,
}
# Forms for rows of one length, without zero bytes at their ends.
FIXED_FORMS: dict[str, Callable[[list[bytes]], Any]] = {
    "S": lambda rows: np.array(rows, "S"),
    "wider S": lambda rows: np.array(rows, "S20"),
    "S with a stride": lambda rows: np.repeat(np.array(rows, "S"), 2)[::2],
    "S backwards": lambda rows: np.array(rows[::-1], "S")[::-1],
    "rows of uint8": lambda rows: np.frombuffer(b"".join(rows), "u1").reshape(len(rows), -1),
    "arrow fixed": arrow(
        lambda pa: lambda rows: pa.array(rows, pa.binary(len(rows[0]) if rows else 1))
    ),
}


@pytest.mark.parametrize("form", [*FORMS, *FIXED_FORMS])
def test_keys_of_every_form_are_written_read_and_deleted(db: lsmkit.DB, form: str) -> None:
    column = {**FORMS, **FIXED_FORMS}[form](ROWS)

    db.put_many(column, VALUES)

    assert dict(db) == dict(zip(ROWS, VALUES, strict=True))
    assert list(db.get_many(column)) == VALUES
    db.flush()
    assert list(db.get_many(column)) == VALUES
    db.delete_many(column)
    assert not db


@pytest.mark.parametrize("form", FORMS)
def test_values_of_every_form_are_written(db: lsmkit.DB, form: str) -> None:
    db.put_many(ROWS, FORMS[form](VALUES))

    assert dict(db) == dict(zip(ROWS, VALUES, strict=True))


@pytest.mark.parametrize("form", FIXED_FORMS)
def test_values_of_one_width_are_written(db: lsmkit.DB, form: str) -> None:
    values = [b"%06d" % i for i in range(1, 6)]

    db.put_many(np.array(ROWS), FIXED_FORMS[form](values))

    assert dict(db) == dict(zip(ROWS, values, strict=True))


@pytest.mark.parametrize(
    "dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i8", "f4", "f8"]
)
def test_numbers_as_keys_sort_and_as_values_stand(db: lsmkit.DB, dtype: str) -> None:
    numbers = np.array([5, 0, 100, 3], dtype)
    if np.dtype(dtype).kind != "u":
        numbers[1] = -7

    db.put_many(numbers, numbers)

    little = np.sort(numbers).astype(numbers.dtype.newbyteorder("<"))
    assert [*db.values()] == [x.tobytes() for x in little]
    assert [*db.get_many(numbers)] == [x.tobytes() for x in numbers.astype(little.dtype)]
    if dtype == "i8":
        assert db[lsmkit.encode_key(-7)] == struct.pack("<q", -7)
    db.delete_many(numbers[:2])
    assert len(db) == 2


@pytest.mark.parametrize("name", ["int64", "float32", "date32", "timestamp"])
def test_arrow_primitives_are_numbers(db: lsmkit.DB, name: str) -> None:
    pa = pytest.importorskip("pyarrow")
    kind = pa.timestamp("us") if name == "timestamp" else getattr(pa, name)()
    numbers = pa.array([4, 1, 3], pa.int64() if name == "timestamp" else pa.int32()).cast(kind)

    db.put_many(numbers, numbers)

    assert [*db.values()] == [
        bytes(numbers.take([i]).buffers()[1])[: kind.bit_width // 8] for i in (1, 2, 0)
    ]


def test_encoded_keys_are_a_column(db: lsmkit.DB) -> None:
    names, times = np.array([b"b", b"a"], "S4"), np.array([1, 2], "datetime64[us]")

    db.put_many(lsmkit.encode_keys(names, times), [b"1", b"2"])

    assert [*db.values()] == [b"2", b"1"]


def test_the_last_of_equal_keys_wins(db: lsmkit.DB) -> None:
    db.put_many([b"a", b"b", b"a"], [b"1", b"2", b"3"])
    db.put_many(np.array([b"b", b"b"]), [b"4", b"5"])

    assert dict(db) == {b"a": b"3", b"b": b"5"}
    db.flush()
    assert dict(db) == {b"a": b"3", b"b": b"5"}


def test_a_list_gives_a_list_and_an_array_a_column(db: lsmkit.DB) -> None:
    db.put_many([b"a", b"c"], [b"1", b""])

    assert db.get_many([b"a", b"b", b"c"]) == [b"1", None, b""]
    assert db.get_many((b"a", b"b", b"c"), default=b"-") == [b"1", b"-", b""]
    assert db.get_many([b"a", b"b"], b"-") == [b"1", b"-"]
    column = db.get_many(np.array([b"a", b"b", b"c"]))
    assert isinstance(column, lsmkit.Column)
    assert column.to_pylist() == [b"1", None, b""]
    assert column.validity.tolist() == [True, False, True]
    pair = db.get_many(offsets_of([b"a", b"b"], "i8"))
    assert isinstance(pair, lsmkit.Column)
    assert pair.to_pylist() == [b"1", None]


def test_a_tuple_of_two_bytes_is_two_keys(db: lsmkit.DB) -> None:
    db.put_many((b"a", b"b"), (b"1", b"2"))

    assert db.get_many((b"a", b"b")) == [b"1", b"2"]
    assert db.get_many((b"b", memoryview(b"a"))) == [b"2", b"1"]
    assert db.get_many((b"b", bytearray(b"a"))) == [b"2", b"1"]
    db.delete_many((b"a", b"b"))
    assert not db


def test_numbers_are_read_back_as_numbers(db: lsmkit.DB) -> None:
    keys = np.arange(100)
    db.put_many(keys, keys * 2)

    assert db.get_many(keys).to_numpy("<i8").tolist() == (keys * 2).tolist()


@pytest.mark.parametrize("empty", [[], (), "S", "int", "rows", "pair"], ids=str)
def test_nothing_is_written_by_an_empty_column(db: lsmkit.DB, empty: Any) -> None:
    column = {
        "S": np.array([], "S4"),
        "int": np.array([], "i8"),
        "rows": np.zeros((0, 4), "u1"),
        "pair": (b"", np.zeros(1, "i8")),
    }.get(str(empty), empty)

    db.put_many(column, [])
    db.put_many([], column)
    db.delete_many(column)

    assert len(db.get_many(column)) == 0
    assert db.stats().writes.frames == 0


@pytest.mark.parametrize("form", ["list", "S", "int"])
@pytest.mark.parametrize(("keys", "values"), [(3, 2), (2, 3), (1, 0), (0, 1)])
def test_lengths_that_differ_are_a_value_error(
    db: lsmkit.DB, form: str, keys: int, values: int
) -> None:
    make = {
        "list": lambda n: [b"x%d" % i for i in range(n)],
        "S": lambda n: np.array([b"x%d" % i for i in range(n)], "S2"),
        "int": np.arange,
    }[form]
    with pytest.raises(ValueError, match=f"{keys} keys and {values} values"):
        db.put_many(make(keys), make(values))
    with pytest.raises(ValueError, match=f"{keys} keys and {values} values"):
        db.put_many(make(keys), [b""] * values)
    assert not db


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "None": (None, TypeError, r"column of rows|must be"),
    "bytes": (b"abc", TypeError, "single bytes"),
    "str": ("abc", TypeError, "single str"),
    "a null": ([b"a", None, b"c"], ValueError, r"\[1\] is null"),
    "a str in it": ([b"a", "b", b"c"], TypeError, r"\[1\] is str"),
    "a number in it": ([b"a", b"b", 3], TypeError, r"\[2\] is int"),
    "a set": ({b"a", b"b", b"c"}, TypeError, "must be a list"),
    "an iterator": (iter([b"a", b"b", b"c"]), TypeError, "must be a list"),
    "complex numbers": (np.zeros(3, "c16"), TypeError, "is no column"),
    "text": (np.array(["a", "b", "c"]), TypeError, "is no column"),
    "objects": (np.array([b"a", b"b", b"c"], object), TypeError, "is no column"),
    "two dimensions": (np.zeros((3, 2), "i4"), TypeError, "is no column"),
    "rows apart": (np.zeros((3, 4), "u1")[:, ::2], BufferError, "not contiguous"),
    "an item apart": (
        [b"a", memoryview(b"abcd")[::2], b"c"],
        BufferError,
        r"\[1\].*not contiguous",
    ),
    "offsets too far": ((b"abc", np.array([0, 1, 2, 9])), ValueError, "past the end"),
    "offsets backwards": ((b"abc", np.array([0, 2, 1, 3])), ValueError, "less than the one before"),
    "offsets below zero": ((b"abc", np.array([-1, 0, 1, 2])), ValueError, "negative"),
    "data that is text": (("abc", np.array([0, 1, 2, 3])), TypeError, "str"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("call", ["keys", "values", "delete_many", "get_many"])
def test_what_is_no_column_is_named_and_changes_nothing(
    db: lsmkit.DB, name: str, call: str
) -> None:
    column, error, message = WRONG[name]
    db.put_many([b"a", b"b", b"c"], [b"1", b"2", b"3"])
    before = dict(db)
    with pytest.raises(error, match=message) as caught:  # noqa: PT012
        if call == "keys":
            db.put_many(column, [b"x", b"y", b"z"])
        elif call == "values":
            db.put_many([b"a", b"b", b"c"], column)
        elif call == "delete_many":
            db.delete_many(column)
        else:
            db.get_many(column)
    if "[" in message:
        assert ("values" if call == "values" else "keys") in str(caught.value)
    assert dict(db) == before
    assert db.stats().writes.frames == 1


@pytest.mark.parametrize("form", ["pyarrow", "polars", "Column"])
def test_an_arrow_null_is_named_within_its_slice(db: lsmkit.DB, form: str) -> None:
    rows = [b"x", b"a", b"b", None, b"c"]
    if form == "pyarrow":
        column = pytest.importorskip("pyarrow").array(rows).slice(1)
    elif form == "polars":
        pl = pytest.importorskip("polars")
        column = pl.Series(rows, dtype=pl.Binary).slice(1).rechunk()
    else:
        db.put_many([b"x", b"a", b"b", b"c"], [b"x", b"a", b"b", b"c"])
        column = db.get_many(np.array([b"x", b"a", b"b", b"absent", b"c"]))[1:]
        db.clear()

    for write in (
        lambda: db.put_many(column, [b""] * 4),
        lambda: db.put_many([b"1", b"2", b"3", b"4"], column),
        lambda: db.delete_many(column),
        lambda: db.get_many(column),
    ):
        with pytest.raises(ValueError, match=r"\[2\] is null"):
            write()
    assert not db


def test_a_row_that_is_too_long_is_named_and_changes_nothing(db: lsmkit.DB) -> None:
    long = b"x" * 65536
    for column in ([b"a", long], (b"a" + long, np.array([0, 1, 65537])), np.array([b"a", long])):
        with pytest.raises(ValueError, match=r"keys\[1\] has 65536 bytes"):
            db.put_many(column, [b"", b""])
        with pytest.raises(ValueError, match=r"keys\[1\] has 65536 bytes"):
            db.get_many(column)
    with pytest.raises(ValueError, match=r"keys\[0\] has 65536 bytes"):
        db.put_many(np.zeros((2, 65536), "u1"), [b"", b""])
    assert not db


def test_columns_larger_than_a_segment_stay_whole(store_path: str) -> None:
    keys, values = np.arange(20_000), np.arange(20_000)[::-1]
    with lsmkit.open(store_path, segment_bytes=8192) as db:
        db.put_many(keys, values)
        assert db.stats().writes.frames == 1
        assert db.get_many(keys).to_numpy("<i8").tolist() == values.tolist()
        db.put_many(keys.tolist() and [b"%d" % i for i in keys], [b"v"] * len(keys))
        assert len(db) == 40_000
        db.delete_many(keys)
        assert len(db) == 20_000


def test_a_list_that_is_changed_by_an_item_is_read_as_it_was(db: lsmkit.DB) -> None:
    """Items may run code when their buffer is asked for; the rows must not move under the store."""

    class Sly:
        def __buffer__(self, flags: int) -> memoryview:
            rows.clear()
            return memoryview(b"sly")

    if not hasattr(memoryview, "__buffer__"):
        pytest.skip("classes of Python have buffers from 3.12 on")
    rows: list[Any] = [b"a", Sly(), b"c"]
    db.put_many(rows, [b"1", b"2", b"3"])

    assert dict(db) == {b"a": b"1", b"sly": b"2", b"c": b"3"}


ROW = st.binary(max_size=12)


@given(st.lists(st.tuples(ROW, ROW), max_size=30), st.lists(ROW, max_size=10), st.data())
def test_forms_are_interchangeable(pairs: Any, absent: list[bytes], data: st.DataObject) -> None:
    """One store written through a drawn form for each column holds what a dict does."""
    import tempfile

    forms = [name for name in FORMS if name != "arrow utf8"]
    key_form, value_form, read_form = (FORMS[data.draw(st.sampled_from(forms))] for _ in range(3))
    model = dict(pairs)
    keys = [key for key, _ in pairs]
    with tempfile.TemporaryDirectory() as folder, lsmkit.open(folder) as db:
        db.put_many(key_form(keys), value_form([value for _, value in pairs]))
        assert dict(db) == model
        asked = keys + absent
        assert list(db.get_many(read_form(asked))) == [model.get(key) for key in asked]
        db.delete_many(read_form(absent))
        assert dict(db) == {k: v for k, v in model.items() if k not in absent}
