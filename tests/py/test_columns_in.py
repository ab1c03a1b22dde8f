"""Every form of a column gives the rows that it means, without a copy where the layout allows.

Method: columns are opened as the store opens them and read back as the core reads them; the
forms are compared with plain lists of bytes, wrong ones with the error that names the place.
"""

from __future__ import annotations

import array
import ctypes
import gc
import struct
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsmkit import encode_key
from lsmkit._core.core import (
    _probe_column,
    _probe_hold,
    _probe_list_sizes,
    _probe_rows,
)

np = pytest.importorskip("numpy")

KEY_BYTES_MAX = 65_535
FIXED, STRIPPED, OFFSET32, OFFSET64, SPANS, INTEGER, FLOAT = range(7)


def keys(column):
    return _probe_rows(column, "keys", True)[0]


def values(column):
    return _probe_rows(column, "values", False)[0]


def is_copied(column, memory):
    """Whether the core would read other memory than this array's."""
    return _probe_rows(column, "values", False)[2] != memory.__array_interface__["data"][0]


# --- Lists and tuples ------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=20), max_size=40))
def test_lists_and_tuples_of_bytes_are_their_rows(rows):
    assert keys(rows) == rows
    assert keys(tuple(rows)) == rows


def test_items_may_be_anything_bytes_like():
    class Named(bytes):
        pass

    items = [b"a", bytearray(b"b"), memoryview(b"xcx")[1:2], np.array([100], "u1"), Named(b"e"),
             np.bytes_(b"f"), array.array("B", b"g"), b""]  # fmt: skip

    assert keys(items) == [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b""]


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("text", TypeError, r"keys\[1\] is str, not bytes-like"),
        (7, TypeError, r"keys\[1\] is int, not bytes-like"),
        (None, ValueError, r"keys\[1\] is null"),
        (memoryview(b"abcd")[::2], BufferError, r"keys\[1\] is not contiguous"),
        (np.zeros(8, "u1")[::2], BufferError, r"keys\[1\] is not contiguous"),
        (bytes(KEY_BYTES_MAX + 1), ValueError, r"keys\[1\] has 65536 bytes.*65535"),
        (bytearray(KEY_BYTES_MAX + 1), ValueError, r"keys\[1\] has 65536 bytes.*65535"),
    ],
)
def test_wrong_item_is_named(item, error, message):
    for column in ([b"a", item], (b"a", item, b"c")):
        with pytest.raises(error, match=message):
            keys(column)


def test_key_of_greatest_length_is_taken():
    assert keys([bytes(KEY_BYTES_MAX)]) == [bytes(KEY_BYTES_MAX)]
    assert values([bytes(KEY_BYTES_MAX + 1)]) == [bytes(KEY_BYTES_MAX + 1)]


def test_list_may_change_while_it_is_open():
    rows = [bytes([i]) * 100 for i in range(50)]
    held = [sys.getrefcount(row) for row in rows]
    column = _probe_hold(rows)

    while_open = [sys.getrefcount(row) for row in rows]
    del column

    assert while_open == [count + 1 for count in held]
    assert [sys.getrefcount(row) for row in rows] == held


def test_buffers_are_locked_while_open_and_free_after():
    item, data, offsets = bytearray(b"abc"), bytearray(b"abc"), array.array("i", [0, 1, 3])
    columns = [_probe_hold([b"x", item]), _probe_hold((data, offsets))]
    for buffer in (item, data):
        with pytest.raises(BufferError):
            buffer.append(1)
    with pytest.raises(BufferError):
        offsets.append(1)

    del columns
    gc.collect()

    item.append(1)
    data.append(1)
    offsets.append(1)


def test_buffers_are_free_after_an_error():
    item, data, offsets = bytearray(b"abc"), bytearray(b"abc"), array.array("i", [0, 9])

    with pytest.raises(ValueError, match="null"):
        keys([item, item, None])
    with pytest.raises(ValueError, match="past the end"):
        keys((data, offsets))

    item.append(1)
    data.append(1)
    offsets.append(1)


def test_sizes_of_bytes_are_measured():
    assert _probe_list_sizes([b"a", b"", b"ccc"], 3) == (3, 4)
    assert _probe_list_sizes((b"a",) * 100, 3) == (100, 100)
    assert _probe_list_sizes([], 3) == (0, 0)


def test_sizes_of_other_objects_are_left_to_the_general_way():
    assert _probe_list_sizes([b"a", bytearray(b"b")], 3)[0] == -1
    assert _probe_list_sizes([None] * 100, 3)[0] == -1


def test_sizes_name_the_item_that_is_too_long():
    with pytest.raises(ValueError, match=r"keys\[1\] has 4 bytes, more than the 3 allowed"):
        _probe_list_sizes([b"a", b"bbbb"], 3)


# --- What is no column -----------------------------------------------------------------------


@pytest.mark.parametrize("column", [b"abc", bytearray(b"abc"), "abc"])
def test_single_string_is_no_column(column):
    with pytest.raises(TypeError, match="keys must be a column of rows, not a single"):
        keys(column)


@pytest.mark.parametrize("column", [None, 5, {b"a": b"b"}, iter([b"a"]), object()], ids=repr)
def test_other_objects_are_no_column(column):
    with pytest.raises(TypeError, match="keys must be a list"):
        keys(column)


@pytest.mark.parametrize(
    "column",
    [
        np.array(["a"]),
        np.array([b"a", None], object),
        np.array([1j]),
        np.array([1.0], "f2"),
        np.zeros((2, 2), "i4"),
        np.zeros((2, 2, 2), "u1"),
        np.zeros((), "i8"),
        np.zeros(2, [("a", "i4"), ("b", "i4")]),
    ],
    ids=lambda column: f"{column.ndim}-{column.dtype}",
)
def test_other_arrays_are_no_column(column):
    with pytest.raises(TypeError, match="is no column"):
        keys(column)


# --- NumPy -----------------------------------------------------------------------------------


def test_strings_lose_zero_bytes_at_their_end_alone():
    column = np.array([b"a", b"ab\0", b"a\0b", b"", b"abcdef"], "S6")

    rows, form, _ = _probe_rows(column)

    assert rows == column.tolist() == [b"a", b"ab", b"a\0b", b"", b"abcdef"]
    assert form == STRIPPED
    assert not is_copied(column, column)


@pytest.mark.parametrize("step", [1, 2, -1, -3])
def test_strided_arrays_are_their_rows(step):
    strings = np.array([b"%d" % i for i in range(10)])[::step]
    rows = np.arange(60, dtype="u1").reshape(10, 6)[::step, 1:5]
    integers = np.arange(-5, 5, dtype="i8")[::step]

    assert keys(strings) == strings.tolist()
    assert keys(rows) == [row.tobytes() for row in rows]
    assert keys(integers) == [encode_key(i) for i in integers.tolist()]
    assert values(integers) == [struct.pack("<q", i) for i in integers.tolist()]
    for column in (strings, rows, integers):
        assert is_copied(column, column) == (step < 0)


def test_broadcast_array_is_one_row_many_times():
    assert keys(np.broadcast_to(np.arange(3, dtype="u1"), (4, 3))) == [b"\0\1\2"] * 4


def test_byte_rows_keep_all_bytes():
    rows, form, _ = _probe_rows(np.array([[1, 0], [0, 0]], "u1"))

    assert (rows, form) == ([b"\1\0", b"\0\0"], FIXED)


def test_rows_whose_bytes_lie_apart_are_a_buffer_error():
    for column in (np.zeros((4, 6), "u1")[:, ::2], np.zeros((4, 6), "u1", order="F")):
        with pytest.raises(BufferError, match="keys: the bytes of a row"):
            keys(column)


def test_raw_elements_and_arrays_of_other_libraries_are_rows():
    assert keys(np.array([b"ab", b"c"], "V2")) == [b"ab", b"c\0"]
    assert keys((ctypes.c_ubyte * 2 * 2)((1, 2), (3, 4))) == [b"\1\2", b"\3\4"]
    assert keys((ctypes.c_char * 2)(b"a", b"b")) == [b"a", b"b"]
    assert keys(array.array("h", [-1, 1])) == [b"\x7f\xff", b"\x80\x01"]
    assert keys((ctypes.c_uint32 * 2)(1, 2)) == [b"\0\0\0\1", b"\0\0\0\2"]


INTEGERS = [order + kind + width for order in "<>" for kind in "iu" for width in "1248"]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_sort_as_numbers_in_their_own_width(dtype):
    info = np.iinfo(dtype)
    some = {info.min, info.min + 1, -1, 0, 1, 100, info.max - 1, info.max}
    numbers = sorted(n for n in some if info.min <= n <= info.max)
    column = np.array(numbers, dtype)

    rows = keys(column)

    bias = -info.min
    assert rows == [(n + bias).to_bytes(column.itemsize, "big") for n in numbers]
    assert rows == sorted(rows)
    assert b"".join(values(column)) == column.astype("<" + dtype[1:]).tobytes()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_floats_sort_as_numbers(dtype):
    tiny = np.finfo(dtype).tiny
    column = np.array([-np.inf, -1.5, -tiny, -0.0, 0.0, tiny, 1.5, np.inf, np.nan, -np.nan], dtype)

    rows = keys(column)

    assert rows == sorted(rows)
    assert {len(row) for row in rows} == {column.itemsize}
    assert rows[3] == rows[4], "-0.0 and 0.0 are equal and must be one key"
    assert rows[8] == rows[9], "one NaN, behind infinity"
    assert len(set(rows)) == 8
    if dtype.endswith("f8"):
        assert rows == [encode_key(x) for x in column.tolist()]
    assert b"".join(values(column)) == column.astype(column.dtype.newbyteorder("<")).tobytes()


def test_floats_without_oddities_are_not_copied():
    column = np.array([1.5, -2.0])

    assert _probe_rows(column)[2] == column.__array_interface__["data"][0]


def test_floats_of_the_caller_are_not_changed():
    column = np.array([-0.0, np.nan])
    before = column.tobytes()

    keys(column)

    assert column.tobytes() == before


def test_booleans_are_one_byte():
    column = np.array([True, False])

    assert keys(column) == values(column) == [b"\1", b"\0"]


@pytest.mark.parametrize("dtype", ["M8[us]", ">m8[s]"])
def test_times_are_integers(dtype):
    integers = np.array([-1, 0, 5])

    assert keys(integers.astype(dtype)) == keys(integers)


def test_wide_strings_are_measured_without_their_zero_bytes():
    column = np.array([b"a", b"b" * KEY_BYTES_MAX], f"S{KEY_BYTES_MAX + 5}")

    assert keys(column) == column.tolist()
    column[1] = b"b" * (KEY_BYTES_MAX + 1)
    with pytest.raises(ValueError, match=r"keys\[1\] has 65536 bytes"):
        keys(column)


def test_rows_that_are_too_wide_are_refused():
    with pytest.raises(ValueError, match=r"keys\[0\] has 65536 bytes"):
        keys(np.zeros((2, 65536), "u1"))
    assert keys(np.zeros((0, 65536), "u1")) == []


@pytest.mark.parametrize(
    "column",
    [[], (), np.empty(0, "S4"), np.empty((0, 4), "u1"), np.empty(0, "i8"), np.empty(0, ">f8"),
     (b"", np.zeros(1, "i4")), (b"", np.zeros(0, "i8"))],
    ids=repr,
)  # fmt: skip
def test_empty_columns_have_no_rows(column):
    assert keys(column) == values(column) == []


def test_rows_of_no_bytes():
    assert keys(np.empty((3, 0), "u1")) == [b""] * 3


# --- (data, offsets) -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i4", "i8", "u4", "u8", "i2", "u2", ">i4", ">u8"])
@pytest.mark.parametrize("step", [1, 2])
def test_offsets_of_any_integer_type(dtype, step):
    offsets = np.repeat(np.array([1, 1, 3, 6], dtype), step)[::step]

    rows, form, _ = _probe_rows((b"-abcde", offsets))

    assert rows == [b"", b"ab", b"cde"]
    plain = dtype[0] != ">" and dtype[-1] != "2" and step == 1
    assert form == (OFFSET32 if plain and dtype[-1] == "4" else OFFSET64)


def test_negative_offsets_of_narrow_types_are_seen():
    with pytest.raises(ValueError, match=r"offsets\[1\] is negative.*-1"):
        keys((b"abc", np.array([0, -1], ">i2")))


def test_data_may_be_any_contiguous_buffer():
    offsets = array.array("q", [0, 1, 3])

    for data in (b"abc", bytearray(b"abc"), np.frombuffer(b"abc", "u1"), memoryview(b"abc")):
        assert keys((data, offsets)) == [b"a", b"bc"]
    with pytest.raises(BufferError, match="keys: data is not contiguous"):
        keys((np.zeros(8, "u1")[::2], offsets))


@pytest.mark.parametrize("dtype", ["i4", "i8", "u4", "u8"])
@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2, 1, 3], r"offsets\[2\] is 1, less than the one before it, 2"),
        ([0, 2, 4, 3], r"offsets\[2\] is 4, past the end of the data, 3"),
        ([0, 2, 2**31, 3], r"offsets\[2\] is"),
        ([2**31, 2, 2, 3], r"offsets\[0\] is"),
        ([0, 2, 4], r"offsets\[2\] is 4, past the end"),
    ],
)
def test_wrong_offsets_are_named(dtype, offsets, message):
    offsets = np.array(offsets, "u8").astype(dtype)

    with pytest.raises(ValueError, match=r"keys: " + message):
        keys((b"abc", offsets))


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=6))
def test_offsets_are_taken_only_if_every_row_is_within_the_data(offsets):
    data = bytes(8)
    good = all(0 <= a <= b <= len(data) for a, b in pairwise(offsets))

    try:
        rows = keys((data, np.array(offsets, "i4")))
    except ValueError:
        assert not good
    else:
        assert good
        assert rows == [data[a:b] for a, b in pairwise(offsets)]


@pytest.mark.parametrize("step", [2**29, 2**30])
def test_offsets_that_go_once_around_are_refused(step):
    offsets = np.arange(0, 2**32 + 1, step).astype("u4").view("i4")

    with pytest.raises(ValueError, match=r"values: offsets\[\d\] is \d+, past the end"):
        values((b"abc", offsets))


def test_rows_between_offsets_may_not_be_too_long():
    with pytest.raises(ValueError, match=r"keys\[1\] has 65536 bytes"):
        keys((bytes(70_000), np.array([0, 1, 65_537, 65_538])))


def test_pair_of_bytes_is_two_rows():
    assert keys((b"a", b"b")) == [b"a", b"b"]
    assert keys((b"a", np.frombuffer(b"bc", "u1"))) == [b"a", b"bc"]
    assert keys((b"a", bytearray(b"b"))) == [b"a", b"b"]


# --- Columns of the store's own --------------------------------------------------------------


@given(st.lists(st.binary(min_size=3, max_size=3), max_size=10), st.slices(10))
def test_columns_are_taken_without_a_copy(rows, part):
    for column in (_probe_column(rows), _probe_column(rows, 3)):
        assert keys(column) == rows
        assert values(column[part]) == rows[part]


def test_absent_row_is_named_within_the_slice():
    column = _probe_column([b"a", b"b", None])

    with pytest.raises(ValueError, match=r"values\[1\] is null"):
        values(column[1:])


# --- Arrow -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pa():
    return pytest.importorskip("pyarrow")


BINARY_TYPES = ["binary", "large_binary", "binary_view", "string", "large_string", "string_view"]


@pytest.mark.parametrize("name", BINARY_TYPES)
@pytest.mark.parametrize("part", [slice(None), slice(2, 5), slice(4, None), slice(3, 3)], ids=repr)
def test_arrow_binary_and_text_are_their_rows(pa, name, part):
    rows = [b"a", b"", b"thirteen bytes", b"d" * 40, b"twelve bytes", b"f"]
    column = pa.array(rows, pa.binary()).cast(getattr(pa, name)())

    assert keys(column[part]) == rows[part]


def test_arrow_memory_is_not_copied(pa):
    column = pa.array([b"abc", b"de"])

    assert _probe_rows(column)[2] == column.buffers()[2].address


@pytest.mark.parametrize("part", [slice(None), slice(1, 3), slice(3, 3)], ids=repr)
def test_arrow_rows_of_fixed_size(pa, part):
    rows = [b"ab", b"c\0", b"ef"]

    assert keys(pa.array(rows, pa.binary(2))[part]) == rows[part]


@pytest.mark.parametrize(
    "name", [f"{sign}int{8 * width}" for sign in ("", "u") for width in (1, 2, 4, 8)]
)
def test_arrow_integers_are_those_of_numpy(pa, name):
    numbers = np.array([0, 1, 100, 7, 3], name)
    column = pa.array(numbers)

    assert keys(column[1:4]) == keys(numbers[1:4])
    assert values(column[1:4]) == values(numbers[1:4])


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_arrow_floats_are_those_of_numpy(pa, name):
    numbers = np.array([0, -0.0, 1.5, -2.5, np.nan], name)
    column = pa.array(numbers)

    assert keys(column[1:]) == keys(numbers[1:])
    assert values(column[1:]) == values(numbers[1:])


def test_arrow_booleans_and_times(pa):
    flags = [i % 3 == 0 for i in range(20)]

    assert keys(pa.array(flags)[3:]) == values(pa.array(flags)[3:]) == keys(np.array(flags)[3:])
    for kind in (pa.date32(), pa.time32("s"), pa.date64(), pa.time64("us"), pa.duration("ms"),
                 pa.timestamp("ns"), pa.timestamp("s", "UTC")):  # fmt: skip
        integers = np.array([1, 86_400_000], f"i{kind.bit_width // 8}")
        assert keys(pa.array(integers).cast(kind)) == keys(integers)


@pytest.mark.parametrize("name", ["binary", "large_string", "string_view", "int32", "bool_"])
def test_arrow_null_is_named_within_the_slice(pa, name):
    rows = {"int32": [1, 2, 3], "bool_": [True, True, False]}.get(name, ["a", "b", "c"])
    column = pa.array([*rows, None], getattr(pa, name)())

    with pytest.raises(ValueError, match=r"values\[3\] is null"):
        values(column)
    with pytest.raises(ValueError, match=r"values\[1\] is null"):
        values(column[2:])
    assert len(values(column[:3])) == 3


def test_arrow_array_of_nulls_alone(pa):
    with pytest.raises(ValueError, match=r"values\[0\] is null"):
        values(pa.nulls(3))


@pytest.mark.parametrize("make", [
    lambda pa: pa.array([[1]]),
    lambda pa: pa.array([{"a": 1}]),
    lambda pa: pa.array(["a", "b", "a"]).dictionary_encode(),
    lambda pa: pa.array([1.0], pa.float16()),
    lambda pa: pa.array([1], pa.decimal128(5)),
], ids=["list", "struct", "dictionary", "half", "decimal"])  # fmt: skip
def test_other_arrow_types_are_no_column(pa, make):
    with pytest.raises(TypeError, match=r"keys: an? .*is no column"):
        keys(make(pa))


def test_arrow_row_that_is_too_long_is_named(pa):
    for name in BINARY_TYPES:
        column = pa.array([b"a", bytes(65536)]).cast(getattr(pa, name)())
        with pytest.raises(ValueError, match=r"keys\[1\] has 65536 bytes"):
            keys(column)
    with pytest.raises(ValueError, match=r"keys\[0\] has 65536 bytes"):
        keys(pa.array([bytes(65536)], pa.binary(65536)))


def test_arrow_offsets_that_run_backwards_are_refused(pa):
    data = pa.py_buffer(b"abc")
    offsets = pa.py_buffer(struct.pack("<3i", 0, 2, 1))
    column = pa.Array.from_buffers(pa.binary(), 2, [None, offsets, data])

    with pytest.raises(ValueError, match=r"offsets\[2\] is 1, less than"):
        keys(column)


@pytest.mark.parametrize(
    "view", [(13, 0, 5, 0), (13, 0, -1, 0), (13, 0, 0, 1), (13, 0, 0, -1), (-1, 0, 0, 0)]
)
def test_arrow_views_that_point_outside_are_refused(pa, view):
    views, data = pa.py_buffer(struct.pack("<4i", *view)), pa.py_buffer(bytes(13))
    column = pa.Array.from_buffers(pa.binary_view(), 1, [None, views, data])

    with pytest.raises(ValueError, match=r"keys\[0\]: the Arrow view"):
        keys(column)


def test_arrow_memory_is_released(pa):
    before = pa.total_allocated_bytes()
    column = pa.array([b"x" * 1000] * 100)

    keys(column)
    keys(pa.chunked_array([column]))
    with pytest.raises(ValueError, match="null"):
        keys(pa.array([b"x" * 100] * 100 + [None]))
    with pytest.raises(ValueError, match="chunks"):
        keys(pa.chunked_array([column, column, column]))
    del column
    gc.collect()

    assert pa.total_allocated_bytes() == before


def test_series_are_read_from_their_stream(pa):
    pl = pytest.importorskip("polars")

    rows = [b"a", b"a row of more than twelve bytes"]
    assert keys(pl.Series(rows)) == rows
    assert keys(pl.Series(["a", "b"])) == [b"a", b"b"]
    assert keys(pl.Series([1, 2])) == keys(np.array([1, 2]))
    assert keys(pl.Series([], dtype=pl.Binary)) == []
    assert keys(pa.chunked_array([[], ["a"], []], "string")) == [b"a"]


def test_series_in_several_chunks_is_refused(pa):
    with pytest.raises(ValueError, match="keys is in several Arrow chunks: combine them"):
        keys(pa.chunked_array([["a"], ["b"]]))


def test_failing_stream_is_a_value_error(pa):
    schema = pa.schema([("a", pa.int64())])

    def fail():
        raise OSError("lost connection")
        yield

    reader = pa.RecordBatchReader.from_batches(schema, fail())
    with pytest.raises(ValueError, match=r"keys: the Arrow stream failed: .*lost connection"):
        keys(reader)


def test_many_columns_leave_no_memory(pa):
    rows = [b"x" * 1000] * 200
    columns = [
        rows,
        tuple(map(bytearray, rows)),
        np.array(rows),
        np.array([-0.0] * 9000),
        (bytes(4000), np.arange(0, 4000, 2, "i2")),
        pa.array(rows),
        pa.array(rows, pa.binary_view()),
    ]

    def open_all():
        for column in columns:
            keys(column)

    for _ in range(20):
        open_all()
    before = resident_bytes()
    for _ in range(300):
        open_all()

    assert resident_bytes() - before < 4_000_000


def resident_bytes():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except FileNotFoundError:
        pytest.skip("this system does not tell the size of a process in /proc")
