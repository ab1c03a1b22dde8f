# columns.pyx: Column and Columns, the rows that the store hands out.
#
# Owns      a column's memory, counted, so that NumPy arrays, Arrow consumers and slices share it
#           without a copy and without the GIL.
# Callers   handles.pyx makes them by column_adopt() and columns_make(); users read them.
# Threads   any: nothing changes after a column is made, but the offsets of a fixed-width column,
#           which are made when first asked for and published once.
# Always    row i is data[offsets[i] .. offsets[i + 1]), or `width` bytes at data + i * width where
#           offsets is NULL; validity[i] is 0 where there is no row i, and NULL where all are there.

include "buffers.pyx"

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_WRITABLE
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.string cimport memcpy, memset

cdef struct column_memory:
    int64_t refs            # atomic
    uint8_t *data
    size_t data_bytes       # what buffer_give() is told; 0 for memory that is only freed
    int64_t *offsets
    uint8_t *validity
    Py_ssize_t count
    Py_ssize_t width        # of a row, where offsets is NULL
    int64_t *made_offsets   # atomic: offsets of a fixed-width column, once they were asked for


cdef void memory_unref(column_memory *memory) noexcept nogil:
    if memory == NULL or not lk_unref(&memory.refs):
        return
    cdef size_t offsets_bytes = <size_t>(memory.count + 1) * sizeof(int64_t)
    buffer_give(memory.data, memory.data_bytes)
    buffer_give(memory.offsets, offsets_bytes)
    buffer_give(memory.made_offsets, offsets_bytes)
    buffer_give(memory.validity, <size_t>memory.count)
    free(memory)


cdef Column column_adopt(uint8_t *data, int64_t *offsets, Py_ssize_t width, uint8_t *validity,
                         Py_ssize_t count, size_t capacity_bytes):
    """A Column over memory that it takes over, also when this raises.

    The buffers come from buffer_take() or malloc(). `data` holds `capacity_bytes`, or 0 if it is
    not to be recycled; `offsets` count + 1 numbers, or is NULL, and then every row has `width`
    bytes; `validity` a byte a row, 0 or 1, or is NULL.
    """
    cdef column_memory *memory = <column_memory *>malloc(sizeof(column_memory))
    if memory == NULL:
        free(data)
        free(offsets)
        free(validity)
        raise MemoryError()
    memory.refs = 1
    memory.data = data
    memory.data_bytes = capacity_bytes
    memory.offsets = offsets
    memory.made_offsets = NULL
    memory.validity = validity
    memory.count = count
    memory.width = width
    # From here on the column releases the memory, whatever happens.
    cdef Column column = column_over(memory)
    column._data = data
    column._offsets = offsets
    column._validity = validity
    column._count = count
    column._width = width
    return column


cdef Column column_over(column_memory *memory):
    """An empty column that takes over one reference to `memory`, also when this raises."""
    cdef Column column
    try:
        column = Column.__new__(Column)
    except BaseException:
        memory_unref(memory)
        raise
    column._memory = memory
    return column


cdef const int64_t *column_offsets(Column column) except NULL:
    """The offsets of any column; those of fixed rows are counted out once and kept."""
    if column._offsets != NULL:
        return column._offsets
    cdef column_memory *memory = column._memory
    cdef int64_t *made = <int64_t *>lk_load_pointer(<void **>&memory.made_offsets)
    cdef Py_ssize_t i
    if made == NULL:
        made = <int64_t *>buffer_take(<size_t>(memory.count + 1) * sizeof(int64_t))
        if made == NULL:
            raise MemoryError()
        for i in range(memory.count + 1):
            made[i] = i * memory.width
        made = <int64_t *>lk_publish_pointer(<void **>&memory.made_offsets, made)
    return made


cdef extern from * nogil:
    """
    static inline void *lk_load_pointer(void **at)
    {
        return __atomic_load_n(at, __ATOMIC_ACQUIRE);
    }
    /* Stores `made` unless somebody else was first; returns what is there, and frees the loser. */
    static inline void *lk_publish_pointer(void **at, void *made)
    {
        void *there = NULL;
        if (__atomic_compare_exchange_n(at, &there, made, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            return made;
        }
        free(made);
        return there;
    }
    """
    void *lk_load_pointer(void **at)
    void *lk_publish_pointer(void **at, void *made)


cdef inline const uint8_t *row_at(Column column, Py_ssize_t i, Py_ssize_t *out_bytes) noexcept:
    """Row i and its length, or NULL where there is none."""
    if column._validity != NULL and column._validity[i] == 0:
        return NULL
    if column._offsets != NULL:
        out_bytes[0] = column._offsets[i + 1] - column._offsets[i]
        return column._data + column._offsets[i]
    out_bytes[0] = column._width
    return column._data + i * column._width


cdef inline object row_object(Column column, Py_ssize_t i):
    cdef Py_ssize_t length = 0
    cdef const uint8_t *row = row_at(column, i, &length)
    if row == NULL and (column._validity != NULL and column._validity[i] == 0):
        return None
    return PyBytes_FromStringAndSize(<const char *>row, length)


@cython.final
cdef class Column:
    """Rows of bytes, some of which may be absent, as one block of memory.

    It is what `get_many` returns for arrays, and the `keys` and `values` of `Columns`. It cannot
    be changed. `len(column)` is the number of rows, `column[i]` a row as bytes, or None where
    there is none, and `column[a:b]` a Column again: over the same memory for a step of 1, else
    a copy. Reading it as NumPy arrays or, by `__arrow_c_array__`, as an Arrow array copies
    nothing; such a view keeps the memory alive after the Column is gone.
    """

    cdef column_memory *_memory
    cdef const uint8_t *_data
    cdef const int64_t *_offsets
    cdef const uint8_t *_validity
    cdef Py_ssize_t _count
    cdef Py_ssize_t _width

    def __init__(self):
        raise TypeError("a Column is made by reading a store")

    def __dealloc__(self):
        memory_unref(self._memory)

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return column_slice(self, index)
        cdef Py_ssize_t i = index
        if i < 0:
            i += self._count
        if i < 0 or i >= self._count:
            raise IndexError(f"row {index} of a Column of {self._count} rows")
        return row_object(self, i)

    def __iter__(self):
        cdef Py_ssize_t i
        for i in range(self._count):
            yield row_object(self, i)

    def __repr__(self):
        cdef Py_ssize_t absent = count_absent(self)
        cdef str size = (f"{self._width} bytes each" if self._offsets == NULL
                         else f"{data_length(self)} bytes")
        cdef str missing = f", {absent} absent" if absent else ""
        return f"<lsmkit.Column of {self._count} rows, {size}{missing}>"

    def to_pylist(self):
        """All rows as a list of bytes, with None where there is no row."""
        cdef Py_ssize_t i
        cdef list rows = PyList_New(self._count)
        for i in range(self._count):
            row = row_object(self, i)
            Py_INCREF(row)
            PyList_SET_ITEM(rows, i, row)
        return rows

    def to_numpy(self, dtype=None):
        """The rows as a NumPy array with one element a row.

        Without `dtype`: `S<width>` where all rows have one width and none is absent, without a
        copy (NumPy drops the zero bytes at the end of an `S` element when it is read); else an
        array of objects, bytes or None. With `dtype`: the bytes of the rows seen as elements of
        that type, without a copy, so that integers written as values are read with `"<i8"`.
        Rows of another width, or absent ones, are a ValueError. `object` and `"S<n>"` or `"S"`
        take rows of any length (up to n, or to the longest) and copy.
        """
        import numpy
        if dtype is None:
            if self._offsets != NULL or self._width == 0 or count_absent(self) > 0:
                return column_objects(self, numpy)
            dtype = numpy.dtype(f"S{self._width}")
        else:
            dtype = numpy.dtype(dtype)
        if dtype.hasobject:
            if dtype != object:
                raise ValueError(f"rows of bytes cannot be read as {dtype}")
            return column_objects(self, numpy)
        refuse_absent(self, dtype)
        cdef Py_ssize_t odd = row_of_other_width(self, dtype.itemsize)
        if odd >= 0:
            if dtype.kind == "S":
                return column_padded(self, numpy, dtype)
            raise ValueError(f"row {odd} has {len(self[odd])} bytes, and {dtype} "
                             f"has {dtype.itemsize}")
        if self._count == 0:
            return numpy.empty(0, dtype)
        return numpy.frombuffer(rows_view(self), dtype)

    def __array__(self, dtype=None, copy=None):
        array = self.to_numpy(dtype)
        return array.copy() if copy else array

    @property
    def data(self):
        """The bytes of all rows as a uint8 array, without a copy. Row i lies between
        `offsets[i]` and `offsets[i + 1]`."""
        import numpy
        cdef Py_ssize_t length = data_end(self)
        return array_over(numpy, self, self._data, length, 1, "u1")

    @property
    def offsets(self):
        """Where the rows begin in `data`, and where the last one ends: len + 1 int64 numbers."""
        import numpy
        return array_over(numpy, self, column_offsets(self), self._count + 1, 8, "i8")

    @property
    def validity(self):
        """A boolean array, False where there is no row; None where no row is absent."""
        if self._validity == NULL:
            return None
        import numpy
        return array_over(numpy, self, self._validity, self._count, 1, "?")

    def __arrow_c_schema__(self):
        """The Arrow type: fixed_size_binary where the rows have one width, else large_binary."""
        return column_schema(self, column_form(self, NULL))

    def __arrow_c_array__(self, requested_schema=None):
        """The rows as an Arrow array, without a copy but for the bitmap of absent rows.

        Of `requested_schema` large_binary and binary are understood, for consumers that do not
        take fixed_size_binary; another request is answered with the column's own type.
        """
        cdef char form = column_form(self, asked_format(requested_schema, -1))
        return column_schema(self, form), column_array(self, form)


cdef Py_ssize_t count_absent(Column column) noexcept:
    cdef Py_ssize_t i, present = 0
    if column._validity == NULL:
        return 0
    for i in range(column._count):
        present += column._validity[i]
    return column._count - present


cdef int refuse_absent(Column column, object dtype) except -1:
    cdef Py_ssize_t i
    if column._validity != NULL:
        for i in range(column._count):
            if column._validity[i] == 0:
                raise ValueError(f"row {i} is absent and cannot be read as {dtype}")
    return 0


cdef Py_ssize_t data_end(Column column) noexcept:
    if column._offsets != NULL:
        return column._offsets[column._count] if column._count > 0 else 0
    return column._count * column._width


cdef Py_ssize_t data_length(Column column) noexcept:
    """Bytes of the rows; less than data_end() where the column is a slice."""
    if column._offsets != NULL and column._count > 0:
        return column._offsets[column._count] - column._offsets[0]
    return data_end(column)


cdef Py_ssize_t row_of_other_width(Column column, Py_ssize_t width) noexcept:
    """The first row that has not `width` bytes, or -1."""
    cdef Py_ssize_t i
    if column._offsets == NULL:
        return 0 if column._count > 0 and column._width != width else -1
    for i in range(column._count):
        if column._offsets[i + 1] - column._offsets[i] != width:
            return i
    return -1


cdef object column_objects(Column column, object numpy):
    array = numpy.empty(column._count, object)
    array[:] = column.to_pylist()
    return array


cdef object column_padded(Column column, object numpy, object dtype):
    """An S<n> array, short rows filled up with zero bytes; a longer row is a ValueError."""
    cdef Py_ssize_t i, length = 0, longest = 0
    cdef const uint8_t *row
    for i in range(column._count):
        row_at(column, i, &length)
        if dtype.itemsize > 0 and length > dtype.itemsize:
            raise ValueError(f"row {i} has {length} bytes, and {dtype} has {dtype.itemsize}")
        longest = max(longest, length)
    cdef Py_ssize_t width = dtype.itemsize if dtype.itemsize > 0 else max(longest, 1)
    array = numpy.zeros(column._count, f"S{width}")
    cdef uint8_t *cells = array_memory(array)
    for i in range(column._count):
        row = row_at(column, i, &length)
        if length > 0:
            memcpy(cells + i * width, row, length)
    return array


cdef uint8_t *array_memory(object array) except? NULL:
    """Where a new, contiguous array begins; valid as long as the array lives."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    PyBuffer_Release(&view)
    return <uint8_t *>view.buf


cdef Column column_slice(Column column, slice index):
    cdef Py_ssize_t start, stop, step
    start, stop, step = index.indices(column._count)
    if step != 1:
        return column_gather(column, range(start, stop, step))
    lk_ref(&column._memory.refs)
    cdef Column part = column_over(column._memory)
    part._count = max(stop - start, 0)
    part._width = column._width
    part._data = column._data
    if column._offsets != NULL:
        # The data stays whole, so that the offsets need no copy.
        part._offsets = column._offsets + start
    else:
        part._data += start * column._width
    if column._validity != NULL:
        part._validity = column._validity + start
    return part


cdef Column column_gather(Column column, object rows):
    """A copy of the named rows, in their order."""
    cdef Py_ssize_t count = len(rows), total = 0, length = 0, i
    cdef const uint8_t *row
    cdef int64_t *offsets = NULL
    cdef uint8_t *validity = NULL
    for i in rows:
        length = 0
        row_at(column, i, &length)
        total += length if column._offsets != NULL else column._width
    cdef uint8_t *data = <uint8_t *>buffer_take(total)
    if column._offsets != NULL:
        offsets = <int64_t *>buffer_take((count + 1) * sizeof(int64_t))
    if column._validity != NULL:
        validity = <uint8_t *>buffer_take(count)
    if (data == NULL or (column._offsets != NULL and offsets == NULL)
            or (column._validity != NULL and validity == NULL)):
        free(data)
        free(offsets)
        free(validity)
        raise MemoryError()
    cdef Column part = column_adopt(data, offsets, column._width, validity, count, total)
    count = 0
    total = 0
    for i in rows:
        length = 0
        row = row_at(column, i, &length)
        if column._offsets != NULL:
            offsets[count] = total
        else:
            length = column._width
        if validity != NULL:
            validity[count] = column._validity[i]
        if row != NULL:
            memcpy(data + total, row, length)
        elif length > 0:
            memset(data + total, 0, length)
        total += length
        count += 1
    if offsets != NULL:
        offsets[count] = total
    return part


@cython.final
cdef class _Span:
    """Part of a column's memory as a read-only buffer, which keeps that memory alive."""

    cdef column_memory *memory
    cdef const void *data
    cdef Py_ssize_t bytes
    cdef Py_ssize_t stride

    def __dealloc__(self):
        memory_unref(self.memory)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("the memory of a Column is read-only")
        self.stride = 1
        view.obj = self
        view.buf = <void *>self.data
        view.len = self.bytes
        view.itemsize = 1
        view.readonly = 1
        view.ndim = 1
        view.format = NULL
        if flags & PyBUF_FORMAT:
            view.format = b"B"
        view.shape = &self.bytes
        view.strides = &self.stride
        view.suboffsets = NULL
        view.internal = NULL


cdef _Span span_over(Column column, const void *data, Py_ssize_t length):
    cdef _Span span = _Span.__new__(_Span)
    lk_ref(&column._memory.refs)
    span.memory = column._memory
    span.data = data
    span.bytes = length
    return span


cdef _Span rows_view(Column column):
    """The rows alone: of a slice not what lies before them."""
    cdef Py_ssize_t first = column._offsets[0] if column._offsets != NULL else 0
    return span_over(column, column._data + first, data_length(column))


cdef object array_over(object numpy, Column column, const void *data, Py_ssize_t count,
                       Py_ssize_t width, str dtype):
    if count == 0:  # NumPy refuses to look at nothing
        return numpy.empty(0, dtype)
    return numpy.frombuffer(span_over(column, data, count * width), dtype)


@cython.final
cdef class Columns:
    """Rows of a scan: `keys` and `values`, a `Column` each, of the same length.

    `pyarrow.record_batch(columns)` and `polars.DataFrame(columns)` take it as it is, with the
    columns `key` and `value` and without copying the rows.
    """

    cdef readonly Column keys
    cdef readonly Column values

    def __init__(self):
        raise TypeError("Columns are made by scanning a store")

    def __len__(self):
        return self.keys._count

    def __repr__(self):
        return f"<lsmkit.Columns of {len(self)} rows>"

    def __arrow_c_schema__(self):
        """The Arrow type: a struct of `key` and `value`."""
        return columns_schema(self, column_form(self.keys, NULL), column_form(self.values, NULL))

    def __arrow_c_array__(self, requested_schema=None):
        """A struct array of `key` and `value`, without a copy; see `Column.__arrow_c_array__`."""
        cdef char key = column_form(self.keys, asked_format(requested_schema, 0))
        cdef char value = column_form(self.values, asked_format(requested_schema, 1))
        return columns_schema(self, key, value), columns_array(self, key, value)


cdef Columns columns_make(Column keys, Column values):
    cdef Columns columns = Columns.__new__(Columns)
    columns.keys = keys
    columns.values = values
    return columns


include "arrow.pyx"
include "columns_in.pyx"
include "arrow_in.pyx"
include "columns_probe.pyx"
