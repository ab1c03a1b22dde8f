"""Columns leave as Arrow data, by the C interface, and pyarrow and Polars read what was there.

Method: exports of every form are compared with the rows; the memory is followed by its address
and by views that outlive their column; a stream ends, fails and is dropped half-read.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsmkit._core.core import _probe_buffers, _probe_column, _probe_columns, _probe_stream

pa = pytest.importorskip("pyarrow")

ROWS = st.lists(st.binary(max_size=5) | st.none(), max_size=20)
WIDE_ROWS = st.lists(st.binary(min_size=3, max_size=3) | st.none(), max_size=20)


class Stream:
    """What the iterator of a scan in columns is to a consumer."""

    def __init__(self, batches):
        self.batches = batches

    def __arrow_c_stream__(self, requested_schema=None):
        return _probe_stream(self.batches)


def columns_of(keys, values, key_width=-1, value_width=-1):
    return _probe_columns(_probe_column(keys, key_width), _probe_column(values, value_width))


# --- Columns ---------------------------------------------------------------------------------


@given(ROWS, st.slices(20))
def test_rows_with_offsets_are_large_binary(rows, part):
    array = pa.array(_probe_column(rows)[part])

    array.validate(full=True)
    assert array.type == pa.large_binary()
    assert array.to_pylist() == rows[part]
    assert array.null_count == rows[part].count(None)


@given(WIDE_ROWS, st.slices(20))
def test_rows_of_one_width_are_fixed_size_binary(rows, part):
    array = pa.array(_probe_column(rows, 3)[part])

    array.validate(full=True)
    assert array.type == pa.binary(3)
    assert array.to_pylist() == rows[part]


@pytest.mark.parametrize("width", [-1, 3])
@pytest.mark.parametrize("name", ["large_binary", "binary"])
def test_consumer_may_ask_for_offsets(width, name):
    rows = [b"abc", None, b"def"]
    wanted = getattr(pa, name)()

    array = pa.array(_probe_column(rows, width)[1:], wanted)

    array.validate(full=True)
    assert array.type == wanted
    assert array.to_pylist() == rows[1:]


def test_request_that_cannot_be_met_is_answered_with_the_own_type():
    column = _probe_column([b"abc"], 3)

    schema, _ = column.__arrow_c_array__(pa.int64().__arrow_c_schema__())

    assert pa.DataType._import_from_c_capsule(schema) == pa.binary(3)


def test_rows_of_no_bytes_are_exported():
    assert pa.array(_probe_column([b"", b""], 0)).to_pylist() == [b"", b""]
    assert pa.array(_probe_column([])).to_pylist() == []


def test_schema_is_the_type_of_the_array():
    for column in (_probe_column([b"a"]), _probe_column([b"ab"], 2), _probe_column([b""], 0)):
        schema = pa.DataType._import_from_c_capsule(column.__arrow_c_schema__())
        assert schema == pa.array(column).type


@pytest.mark.parametrize("width", [-1, 2])
def test_memory_is_not_copied(width):
    column = _probe_column([b"ab", b"cd"], width)

    array = pa.array(column)

    assert array.buffers()[-1].address == column.data.__array_interface__["data"][0]


def test_arrays_outlive_their_column():
    rows = [b"%05d" % i for i in range(40_000)]
    column = _probe_column(rows)
    array, part = pa.array(column), pa.array(column[100:])

    del column
    gc.collect()
    _probe_buffers(200_000, 8)  # would write into the memory, if it had been given back

    assert array.to_pylist() == rows
    assert part.to_pylist() == rows[100:]


def test_memory_is_given_back_when_the_last_view_goes():
    addresses = set()
    for _ in range(5):
        array = pa.array(_probe_column([bytes(1000)] * 1000))
        addresses.add(array.buffers()[2].address)
        del array
        gc.collect()

    assert len(addresses) == 1


def test_capsules_that_nobody_reads_release_what_they_hold():
    rows = [bytes(1000)] * 1000
    address = pa.array(_probe_column(rows)).buffers()[2].address
    gc.collect()

    _probe_column(rows).__arrow_c_array__()

    assert pa.array(_probe_column(rows)).buffers()[2].address == address


# --- Pairs of columns ------------------------------------------------------------------------


@pytest.mark.parametrize(("key_width", "value_width"), [(-1, -1), (2, -1), (2, 3)])
def test_record_batch_has_key_and_value(key_width, value_width):
    columns = columns_of([b"k1", b"k2"], [b"one", b"two"], key_width, value_width)

    batch = pa.record_batch(columns)

    batch.validate(full=True)
    assert batch.schema == pa.schema(columns)
    assert batch.to_pydict() == {"key": [b"k1", b"k2"], "value": [b"one", b"two"]}
    assert pa.types.is_large_binary(batch.schema.field("key").type) == (key_width < 0)


def test_record_batch_may_ask_for_its_schema():
    schema = pa.schema([("key", pa.binary()), ("value", pa.large_binary())])

    batch = pa.record_batch(columns_of([b"k"], [b"v"], 1, 1), schema)

    assert batch.schema == schema
    assert batch.to_pydict() == {"key": [b"k"], "value": [b"v"]}


@pytest.mark.parametrize("width", [-1, 2])
def test_polars_takes_columns(width):
    pl = pytest.importorskip("polars")
    columns = columns_of([b"k1", b"k2"], [b"v1", b"v2"], width, width)
    rows = {"key": [b"k1", b"k2"], "value": [b"v1", b"v2"]}

    assert pl.DataFrame(columns).to_dict(as_series=False) == rows
    assert pl.from_arrow(columns).struct.unnest().to_dict(as_series=False) == rows
    assert pl.Series(columns.keys).to_list() == rows["key"]
    assert pl.Series(_probe_column([b"a", None])).to_list() == [b"a", None]


# --- Streams ---------------------------------------------------------------------------------


def test_batches_of_any_form_have_one_schema():
    batches = [
        columns_of([b"k1"], [b"one"]),
        columns_of([b"k2", b"k3"], [b"two", b"xyz"], 2, 3),
        columns_of([], []),
        columns_of([b"k4"], [b"4"], 2, -1),
    ]

    table = pa.RecordBatchReader.from_stream(Stream(batches)).read_all()

    table.validate(full=True)
    assert table.schema == pa.schema([("key", pa.large_binary()), ("value", pa.large_binary())])
    assert table.to_pydict() == {
        "key": [b"k1", b"k2", b"k3", b"k4"],
        "value": [b"one", b"two", b"xyz", b"4"],
    }


def test_stream_without_batches_has_its_schema():
    table = pa.table(Stream([]))

    assert table.column_names == ["key", "value"]
    assert table.num_rows == 0


def test_polars_takes_a_stream():
    pl = pytest.importorskip("polars")
    batches = [columns_of([b"k%d" % i], [b"v"], 2, 1) for i in range(3)]

    frame = pl.DataFrame(Stream(batches))

    assert frame["key"].to_list() == [b"k0", b"k1", b"k2"]


def test_error_of_the_iterator_is_the_error_of_the_stream():
    def batches():
        yield columns_of([b"k"], [b"v"])
        raise LookupError("the store was closed")

    reader = pa.RecordBatchReader.from_stream(Stream(batches()))

    assert reader.read_next_batch().num_rows == 1
    with pytest.raises(Exception, match="LookupError: the store was closed"):
        reader.read_next_batch()


def test_batch_of_another_kind_is_an_error_of_the_stream():
    reader = pa.RecordBatchReader.from_stream(Stream([b"no columns"]))

    with pytest.raises(Exception, match="TypeError"):
        reader.read_next_batch()


def test_object_that_is_no_iterator_is_refused_at_once():
    with pytest.raises(TypeError, match="not iterable"):
        _probe_stream(5)


def test_stream_drops_its_iterator():
    class Batches:
        def __iter__(self):
            return self

        def __next__(self):
            return columns_of([b"k"], [b"v"])

    unread, half_read = Batches(), Batches()
    gone = [weakref.ref(unread), weakref.ref(half_read)]
    capsule = _probe_stream(unread)
    reader = pa.RecordBatchReader.from_stream(Stream(half_read))
    reader.read_next_batch()

    del unread, half_read, capsule, reader
    gc.collect()

    assert [ref() for ref in gone] == [None, None]


def test_stream_is_read_by_a_thread_without_the_gil():
    batches = (columns_of([b"%d" % i], [b"v" * i]) for i in range(100))
    reader = pa.RecordBatchReader.from_stream(Stream(batches))
    tables = []
    thread = threading.Thread(target=lambda: tables.append(reader.read_all()))
    thread.start()
    thread.join()

    assert tables[0]["key"].to_pylist() == [b"%d" % i for i in range(100)]


def test_arrays_that_outlive_the_interpreter_do_no_harm():
    program = (
        "import sys, pyarrow as pa, builtins\n"
        "from lsmkit._core.core import _probe_column, _probe_columns, _probe_stream\n"
        "class S:\n"
        "    def __arrow_c_stream__(self, requested_schema=None):\n"
        "        return _probe_stream(iter([]))\n"
        "column = _probe_column([b'x' * 100] * 1000)\n"
        "builtins.kept = [pa.array(column), pa.RecordBatchReader.from_stream(S())]\n"
        "sys.modules['kept'] = builtins.kept\n"
        "print('done')\n"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")
