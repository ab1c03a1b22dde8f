"""A Column is its rows, however it is read: by index, slice, iteration, list, NumPy.

Method: columns with offsets and of fixed width, with and without absent rows, against the list
that they were made from; and the memory behind them, which must live as long as any view of it.
"""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsmkit import Column, Columns
from lsmkit._core.core import _probe_buffers, _probe_column, _probe_columns

np = pytest.importorskip("numpy")

MIB = 1 << 20


@st.composite
def rows_and_columns(draw, max_size=12):
    """A list of bytes or None, and a Column of it with offsets or of fixed width."""
    width = draw(st.none() | st.integers(0, 5))
    row = st.binary(max_size=6) if width is None else st.binary(min_size=width, max_size=width)
    if draw(st.booleans()):
        row = row | st.none()
    rows = draw(st.lists(row, max_size=max_size))
    return rows, _probe_column(rows, -1 if width is None else width)


# --- As a sequence ---------------------------------------------------------------------------


@given(rows_and_columns())
def test_column_is_its_rows(drawn):
    rows, column = drawn

    assert isinstance(column, Column)
    assert len(column) == len(rows)
    assert list(column) == rows
    assert column.to_pylist() == rows
    assert [column[i] for i in range(len(rows))] == rows
    assert [column[i] for i in range(-len(rows), 0)] == rows


@given(rows_and_columns(), st.slices(12), st.slices(12))
def test_slices_are_columns_of_the_rows(drawn, first, second):
    rows, column = drawn

    part = column[first][second]

    assert isinstance(part, Column)
    assert part.to_pylist() == rows[first][second]


@pytest.mark.parametrize("index", [3, -4, 2**62])
def test_index_outside_is_an_index_error(index):
    with pytest.raises(IndexError, match=f"row {index} of a Column of 3 rows"):
        _probe_column([b"a", b"b", b"c"])[index]


def test_index_of_another_type_is_a_type_error():
    with pytest.raises(TypeError):
        _probe_column([b"a"])["0"]


def test_repr_is_short_and_says_what_it_is():
    assert repr(_probe_column([b"a", b"bc"])) == "<lsmkit.Column of 2 rows, 3 bytes>"
    assert repr(_probe_column([b"ab", None], 2)) == (
        "<lsmkit.Column of 2 rows, 2 bytes each, 1 absent>"
    )
    columns = _probe_columns(_probe_column([b"a"]), _probe_column([b"b"]))
    assert repr(columns) == "<lsmkit.Columns of 1 rows>"


@pytest.mark.parametrize("cls", [Column, Columns])
def test_columns_are_not_made_by_hand(cls):
    with pytest.raises(TypeError, match="made by"):
        cls()
    with pytest.raises(AttributeError):
        _probe_columns(_probe_column([]), _probe_column([])).keys = None


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy])
def test_columns_refuse_to_be_pickled(take):
    with pytest.raises(TypeError):
        take(_probe_column([b"a"]))


# --- As NumPy --------------------------------------------------------------------------------


@given(rows_and_columns(), st.slices(12))
def test_data_offsets_and_validity_describe_the_rows(drawn, part):
    rows, column = drawn
    rows, column = rows[part], column[part]

    data, offsets, validity = column.data, column.offsets, column.validity

    assert (data.dtype, offsets.dtype) == (np.uint8, np.int64)
    assert len(offsets) == len(rows) + 1
    present = [True] * len(rows) if validity is None else validity.tolist()
    assert present == [row is not None for row in rows]
    bounds = offsets.tolist()
    for i, row in enumerate(rows):
        if row is not None:
            assert data[bounds[i] : bounds[i + 1]].tobytes() == row


def test_arrays_are_views_and_read_only():
    column = _probe_column([b"abc", None, b"de"])

    for name in ("data", "offsets", "validity"):
        first, second = getattr(column, name), getattr(column, name)
        assert first.__array_interface__["data"] == second.__array_interface__["data"]
        assert not first.flags.writeable
    assert column.validity.dtype == np.bool_
    assert _probe_column([b"a"]).validity is None


def test_offsets_of_fixed_rows_are_counted_once():
    column = _probe_column([b"ab"] * 100, 2)

    assert column.offsets.tolist() == list(range(0, 202, 2))
    assert column[10:20].offsets.tolist() == list(range(0, 22, 2))
    assert column.offsets.__array_interface__ == column.offsets.__array_interface__


@given(rows_and_columns())
def test_numpy_array_has_an_element_for_each_row(drawn):
    rows, column = drawn

    array = column.to_numpy()

    assert array.shape == (len(rows),)
    if array.dtype == object:
        assert array.tolist() == rows
    else:
        assert array.tolist() == [row.rstrip(b"\0") for row in rows]
        assert array.tobytes() == b"".join(rows)


def test_fixed_rows_become_an_s_array_without_a_copy():
    column = _probe_column([b"abc", b"de\0"], 3)

    array = column.to_numpy()

    assert array.dtype == "S3"
    address = column.data.__array_interface__["data"]
    assert array.__array_interface__["data"] == address
    assert _probe_column([b"abc", None], 3).to_numpy().dtype == object


@pytest.mark.parametrize("width", [-1, 8])
def test_rows_are_seen_as_numbers_without_a_copy(width):
    numbers = np.arange(-3, 4, dtype="<i8")
    column = _probe_column([n.tobytes() for n in numbers], width)

    array = column[2:].to_numpy("<i8")

    assert array.tolist() == numbers[2:].tolist()
    assert (
        column.to_numpy("<i8").__array_interface__["data"]
        == (column.data.__array_interface__["data"])
    )
    assert column.to_numpy([("a", "<i4"), ("b", "<i4")])["a"].tolist() == [-3, -2, -1, 0, 1, 2, 3]


def test_rows_of_other_widths_or_absent_ones_are_no_numbers():
    with pytest.raises(ValueError, match="row 1 has 7 bytes, and int64 has 8"):
        _probe_column([bytes(8), bytes(7)]).to_numpy("i8")
    with pytest.raises(ValueError, match="row 0 has 4 bytes, and int64 has 8"):
        _probe_column([bytes(4)], 4).to_numpy("i8")
    with pytest.raises(ValueError, match="row 1 is absent and cannot be read as int64"):
        _probe_column([bytes(8), None], 8).to_numpy("i8")
    with pytest.raises(ValueError, match="cannot be read as"):
        _probe_column([bytes(8)], 8).to_numpy([("a", object)])


def test_rows_of_any_width_are_filled_up_for_s():
    column = _probe_column([b"a", b"", b"ccc"])

    assert column.to_numpy("S").dtype == "S3"
    assert column.to_numpy("S5").tolist() == [b"a", b"", b"ccc"]
    assert column.to_numpy("S5").dtype == "S5"
    assert column.to_numpy(object).tolist() == [b"a", b"", b"ccc"]
    assert _probe_column([]).to_numpy("S").shape == (0,)
    with pytest.raises(ValueError, match=r"row 2 has 3 bytes, and \|S2 has 2"):
        column.to_numpy("S2")


def test_asarray_is_to_numpy():
    column = _probe_column([b"ab", b"cd"], 2)

    assert np.asarray(column).dtype == "S2"
    assert np.array(column).flags.writeable
    assert np.asarray(column, "<u2").tolist() == [0x6261, 0x6463]
    assert np.asarray(_probe_column([b"a", None])).tolist() == [b"a", None]


# --- Memory ----------------------------------------------------------------------------------


def test_views_outlive_their_column():
    rows = [b"%05d" % i for i in range(40_000)]
    column = _probe_column(rows)
    views = column.data, column.offsets, column[5:], column[5:].to_numpy("S5")

    del column
    gc.collect()
    _probe_buffers(200_000, 8)  # would write into the memory, if it had been given back

    data, offsets, part, strings = views
    assert data[offsets[7] : offsets[8]].tobytes() == rows[7]
    assert part.to_pylist() == rows[5:]
    assert strings.tolist() == rows[5:]


def test_large_memory_is_taken_again():
    addresses = set()
    for _ in range(10):
        column = _probe_column([bytes(1000)] * 1000)
        addresses.add(column.data.__array_interface__["data"][0])
        del column

    assert len(addresses) == 1


def test_pool_is_bounded():
    columns = [_probe_column([bytes(MIB)] * 10) for _ in range(12)]
    del columns

    count, total, _ = _probe_buffers(1, 1)

    assert 0 < total <= 64 * MIB
    assert count <= 64
    _probe_buffers(100 * MIB, 2)
    assert _probe_buffers(1, 1)[1] <= 64 * MIB


def test_pool_serves_threads():
    sizes = [70_000, 200_000, 500_000, 1_500_000]
    results = []
    threads = [
        threading.Thread(target=lambda size=size: results.append(_probe_buffers(size, 100_000)))
        for size in sizes * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [shared for _, _, shared in results] == [0] * 8
    count, total, _ = _probe_buffers(1, 1)
    assert count <= 64
    assert total <= 64 * MIB


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_pool_works_in_a_child_of_a_busy_parent():
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            _probe_buffers(100_000, 1000)

    busy = threading.Thread(target=churn)
    busy.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                rows = [bytes(1000)] * 1000
                os._exit(0 if _probe_column(rows).to_pylist() == rows else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        busy.join()
