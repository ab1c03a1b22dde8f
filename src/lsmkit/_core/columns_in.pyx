# columns_in.pyx: what Python programs hold as a column, seen as an lk_column.
#
# Owns      for the time of a call: references to the objects, locks on their buffers, and the few
#           arrays that had to be made (pointers of a list, numbers of another byte order).
# Callers   handles.pyx: column_in() once for keys and once for values, then the core without the
#           GIL; list_sizes() where a list is copied under the GIL instead.
# Threads   made and dropped under the GIL; the lk_column inside is read without it.
# Always    whoever gets a _ColumnIn may read `col` as column.h says: offsets are monotone and
#           within the data where its size is known, no row is null or longer than allowed.
#
# NumPy is not needed here: its arrays are read through the buffer protocol, and their dtype is
# told by the buffer's format.

from cpython.buffer cimport PyBUF_RECORDS_RO, PyObject_CheckBuffer
from cpython.list cimport PyList_AsTuple
from libc.stdint cimport uint32_t

cdef extern from "stdint.h":
    const int64_t UINT32_MAX

cdef extern from "column.h" nogil:
    ctypedef struct lk_bytes:
        const uint8_t *data
        size_t len

    ctypedef enum lk_column_form:
        LK_COLUMN_FIXED
        LK_COLUMN_STRIPPED
        LK_COLUMN_OFFSET32
        LK_COLUMN_OFFSET64
        LK_COLUMN_SPANS
        LK_COLUMN_INTEGER
        LK_COLUMN_FLOAT

    ctypedef struct lk_column:
        lk_column_form form
        uint32_t width
        size_t count
        size_t stride
        uint64_t flip
        const uint8_t *data
        const void *offsets
        const lk_bytes *spans

    const size_t LK_KEY_BYTES_MAX
    const size_t LK_VALUE_BYTES_MAX

# Macros of the interpreter on borrowed pointers: no reference is counted in loops over items.
cdef extern from "Python.h":
    bint item_is_exact_bytes "PyBytes_CheckExact" (PyObject *item)
    bint item_is_bytes "PyBytes_Check" (PyObject *item)
    Py_ssize_t item_bytes "PyBytes_GET_SIZE" (PyObject *item)
    char *item_data "PyBytes_AS_STRING" (PyObject *item)
    PyObject *tuple_item "PyTuple_GET_ITEM" (PyObject *items, Py_ssize_t i)
    Py_ssize_t list_length "PyList_GET_SIZE" (PyObject *items)
    Py_ssize_t tuple_length "PyTuple_GET_SIZE" (PyObject *items)
    PyObject **sequence_items "PySequence_Fast_ITEMS" (PyObject *items)


@cython.final
@cython.no_gc        # lives for one call, and nothing can refer to it
@cython.freelist(4)
cdef class _ColumnIn:
    cdef lk_column col
    cdef str role            # what errors call it: "keys", "values"
    cdef bint is_key
    cdef char number         # i, u, f: numbers, signed, unsigned, floating; 0: bytes
    cdef size_t row_bytes_max
    cdef object owner        # keeps alive what `col` points into, where a buffer does not
    cdef void *owned         # what had to be made, from malloc()
    cdef Py_buffer view
    cdef Py_buffer offsets_view
    cdef bint has_view
    cdef bint has_offsets_view
    cdef Py_buffer *item_views
    cdef Py_ssize_t item_view_count
    cdef ArrowArray arrow    # the chunk of an Arrow stream

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.has_view:
            PyBuffer_Release(&self.view)
        if self.has_offsets_view:
            PyBuffer_Release(&self.offsets_view)
        for i in range(self.item_view_count):
            PyBuffer_Release(&self.item_views[i])
        free(self.item_views)
        free(self.owned)
        if self.arrow.release != NULL:
            self.arrow.release(&self.arrow)


cdef _ColumnIn column_in(object obj, str role, bint is_key):
    """Opens any column that the API names; `role` is its name in errors.

    Integers and floats become sortable keys where `is_key`, and are taken as they stand in
    little-endian memory where not. Raises TypeError for what is no column, ValueError for a row
    that is null or too long and for wrong offsets, BufferError for rows that are not contiguous.
    """
    cdef _ColumnIn column = _ColumnIn.__new__(_ColumnIn)
    column.role = role
    column.is_key = is_key
    column.row_bytes_max = LK_KEY_BYTES_MAX if is_key else LK_VALUE_BYTES_MAX
    if isinstance(obj, list):
        # A tuple of its own: the list may be changed while the core reads without the GIL.
        open_items(column, PyList_AsTuple(obj))
    elif isinstance(obj, tuple):
        if not open_pair(column, <tuple>obj):
            open_items(column, <tuple>obj)
    elif isinstance(obj, Column):
        open_column(column, <Column>obj)
    elif isinstance(obj, (bytes, bytearray, str)):
        raise TypeError(f"{role} must be a column of rows, not a single {type(obj).__name__}")
    elif PyObject_CheckBuffer(obj):
        open_buffer(column, obj)
    elif hasattr(obj, "__arrow_c_array__"):
        open_arrow_capsules(column, obj.__arrow_c_array__())
    elif hasattr(obj, "__arrow_c_stream__"):
        open_arrow_stream(column, obj.__arrow_c_stream__())
    else:
        raise TypeError(f"{role} must be a list of bytes-like objects, a NumPy or Arrow array, or "
                        f"(data, offsets), not {type(obj).__name__}")
    return column


cdef int refuse_long(_ColumnIn column, Py_ssize_t index, uint64_t length) except -1:
    raise_long(column.role, index, length, column.row_bytes_max)


cdef int raise_long(str role, Py_ssize_t index, uint64_t length, size_t limit) except -1:
    raise ValueError(f"{role}[{index}] has {length} bytes, more than the {limit} allowed")


cdef int refuse_null(_ColumnIn column, Py_ssize_t index) except -1:
    raise ValueError(f"{column.role}[{index}] is null")


# --- Lists and tuples of bytes-like objects --------------------------------------------------

cdef Py_ssize_t list_sizes(object items, size_t limit, uint64_t *out_bytes) except -2:
    """Measures a list or tuple of `bytes`: returns its length, and its items' bytes in out_bytes.

    Returns -1 if an item is not exactly `bytes`; an item longer than `limit` is a ValueError that
    names it. The items may be read with PyBytes_AS_STRING as long as the GIL is held and no
    Python code runs; in a build without a GIL the caller passes a tuple of its own.
    """
    cdef PyObject *sequence = <PyObject *>items
    cdef PyObject **at = sequence_items(sequence)
    cdef Py_ssize_t i, count
    cdef uint64_t total = 0, longest = 0, length
    count = list_length(sequence) if isinstance(items, list) else tuple_length(sequence)
    for i in range(count):
        if not item_is_exact_bytes(at[i]):
            return -1
        length = <uint64_t>item_bytes(at[i])
        total += length
        longest = max(longest, length)
    if longest > limit:
        for i in range(count):
            if <uint64_t>item_bytes(at[i]) > limit:
                raise_long("keys" if limit <= LK_KEY_BYTES_MAX else "values", i,
                           <uint64_t>item_bytes(at[i]), limit)
    out_bytes[0] = total
    return count


cdef int open_items(_ColumnIn column, tuple items) except -1:
    cdef PyObject *sequence = <PyObject *>items
    cdef Py_ssize_t i, count = tuple_length(sequence)
    cdef PyObject *item
    cdef lk_bytes *spans = NULL
    column.owner = items
    if count > 0:
        spans = <lk_bytes *>malloc(<size_t>count * sizeof(lk_bytes))
        if spans == NULL:
            raise MemoryError()
    column.owned = spans
    column.col.form = LK_COLUMN_SPANS
    column.col.count = count
    column.col.spans = spans
    for i in range(count):
        item = tuple_item(sequence, i)
        if item_is_bytes(item):
            spans[i].data = <const uint8_t *>item_data(item)
            spans[i].len = <size_t>item_bytes(item)
        else:
            open_item(column, <object>item, i, count, &spans[i])
        if spans[i].len > column.row_bytes_max:
            refuse_long(column, i, spans[i].len)
    return 0


cdef int open_item(_ColumnIn column, object item, Py_ssize_t i, Py_ssize_t count,
                   lk_bytes *out) except -1:
    """An item that is not bytes; its buffer stays locked until the column is dropped."""
    if item is None:
        refuse_null(column, i)
    if column.item_views == NULL:
        column.item_views = <Py_buffer *>malloc(<size_t>(count - i) * sizeof(Py_buffer))
        if column.item_views == NULL:
            raise MemoryError()
    cdef Py_buffer *view = &column.item_views[column.item_view_count]
    bytes_buffer(item, view, f"{column.role}[{i}]")
    column.item_view_count += 1
    out.data = <const uint8_t *>view.buf
    out.len = <size_t>view.len
    return 0


cdef int bytes_buffer(object item, Py_buffer *view, str name) except -1:
    """Locks the contiguous bytes of one object; `name` is what errors call it."""
    if isinstance(item, str):
        raise TypeError(f"{name} is str, not bytes-like: encode it")
    if not PyObject_CheckBuffer(item):
        raise TypeError(f"{name} is {type(item).__name__}, not bytes-like")
    try:
        PyObject_GetBuffer(item, view, PyBUF_SIMPLE)
    except (BufferError, ValueError) as error:  # NumPy raises the second
        raise BufferError(f"{name} is not contiguous bytes: {error}") from None
    return 0


# --- NumPy arrays and other buffers ----------------------------------------------------------

cdef char format_code(const char *text, bint *out_big) noexcept:
    """The letter of a buffer's format, 0 if it is not a single element of a kind known here."""
    cdef bint repeated = False
    out_big[0] = False
    if text == NULL:
        return c'B'
    if text[0] == c'>' or text[0] == c'!':
        out_big[0] = True
    if text[0] in (c'>', c'!', c'<', c'=', c'@'):
        text += 1
    while c'0' <= text[0] <= c'9':
        repeated = True
        text += 1
    if text[0] == 0 or text[1] != 0:
        return 0
    if repeated and text[0] != c's' and text[0] != c'x':
        return 0
    return text[0]


cdef inline bint is_signed(char code) noexcept:
    return code in (c'b', c'h', c'i', c'l', c'q', c'n')


cdef inline bint is_unsigned(char code) noexcept:
    return code in (c'B', c'H', c'I', c'L', c'Q', c'N', c'?')


cdef Py_ssize_t buffer_stride(const Py_buffer *view) noexcept:
    """Bytes from row to row; ctypes leaves the strides out, although they were asked for."""
    if view.strides != NULL:
        return view.strides[0]
    return view.itemsize if view.ndim == 1 else view.itemsize * view.shape[1]


cdef int open_buffer(_ColumnIn column, object obj) except -1:
    cdef bint big = False
    cdef Py_ssize_t stride
    try:
        PyObject_GetBuffer(obj, &column.view, PyBUF_RECORDS_RO)
    except ValueError:
        # NumPy keeps times out of the buffer protocol; their integers are what is meant.
        if getattr(getattr(obj, "dtype", None), "kind", "") not in ("m", "M"):
            raise
        obj = obj.view(obj.dtype.str.replace("m8", "i8").replace("M8", "i8").partition("[")[0])
        PyObject_GetBuffer(obj, &column.view, PyBUF_RECORDS_RO)
    column.has_view = True
    cdef Py_buffer *view = &column.view
    cdef char code = format_code(view.format, &big)
    column.col.data = <const uint8_t *>view.buf
    if view.ndim == 2 and view.itemsize == 1 and (code == c'B' or code == c'c'):
        return open_byte_rows(column)
    if view.ndim == 1:
        column.col.count = <size_t>view.shape[0]
        stride = buffer_stride(view)
        column.col.stride = <size_t>stride
        if code == c's' or code == c'x' or code == c'c':
            return open_fixed(column, view.itemsize, stride, code == c's')
        if is_signed(code) or is_unsigned(code):
            return open_numbers(column, view.itemsize, stride, is_signed(code), False, big)
        if code == c'f' or code == c'd':
            return open_numbers(column, view.itemsize, stride, True, True, big)
    format = view.format.decode() if view.format != NULL else "B"
    raise TypeError(f"{column.role}: an array of {view.ndim} dimensions and format '{format}' is "
                    f"no column; give S<n>, integers or floats in one, or uint8 in two dimensions")


cdef int open_byte_rows(_ColumnIn column) except -1:
    """(n, width) uint8: rows may lie apart, their bytes may not."""
    cdef Py_buffer *view = &column.view
    column.col.count = <size_t>view.shape[0]
    if view.shape[1] > 1 and view.shape[0] > 0 and view.strides != NULL and view.strides[1] != 1:
        raise BufferError(f"{column.role}: the bytes of a row are not contiguous")
    return open_fixed(column, view.shape[1], buffer_stride(view), False)


cdef int open_fixed(_ColumnIn column, Py_ssize_t width, Py_ssize_t stride, bint stripped) except -1:
    column.col.form = LK_COLUMN_STRIPPED if stripped else LK_COLUMN_FIXED
    if column.col.count > 0 and <size_t>width > column.row_bytes_max:
        if not stripped:
            refuse_long(column, 0, width)
        refuse_long_stripped(column, width, stride)
    column.col.width = <uint32_t>width
    if stride < 0:
        copy_rows(column, width, stride, False)
    else:
        column.col.stride = <size_t>stride
    return 0


cdef int refuse_long_stripped(_ColumnIn column, Py_ssize_t width, Py_ssize_t stride) except -1:
    cdef Py_ssize_t length, i
    cdef const uint8_t *row = column.col.data
    if width > UINT32_MAX:
        refuse_long(column, 0, width)
    for i in range(<Py_ssize_t>column.col.count):
        length = width
        while length > 0 and row[length - 1] == 0:
            length -= 1
        if <size_t>length > column.row_bytes_max:
            refuse_long(column, i, length)
        row += stride
    return 0


cdef int open_numbers(_ColumnIn column, Py_ssize_t width, Py_ssize_t stride, bint signed,
                      bint floating, bint big) except -1:
    column.col.width = <uint32_t>width
    column.number = c'f' if floating else c'i' if signed else c'u'
    if width == 1:
        big = False
    if big and column.is_key and not signed and stride >= 0:
        # Big-endian and unsigned: the memory is the key already.
        column.col.form = LK_COLUMN_FIXED
        return 0
    if big or stride < 0:
        copy_rows(column, width, stride, big)
    if not column.is_key:
        column.col.form = LK_COLUMN_FIXED
        return 0
    if floating:
        column.col.form = LK_COLUMN_FLOAT
        return make_floats_canonical(column)
    column.col.form = LK_COLUMN_INTEGER
    column.col.flip = (<uint64_t>1 << (8 * width - 1)) if signed else 0
    return 0


cdef int copy_rows(_ColumnIn column, Py_ssize_t width, Py_ssize_t stride, bint swapped) except -1:
    """Puts the rows one after another into memory of the column's own, bytes turned if asked."""
    cdef Py_ssize_t count = <Py_ssize_t>column.col.count, i, j
    cdef const uint8_t *row = column.col.data
    cdef uint8_t *out = <uint8_t *>malloc(<size_t>(count * width) + 1)
    if out == NULL:
        raise MemoryError()
    column.owned = out
    column.col.data = out
    column.col.stride = <size_t>width
    with nogil:
        for i in range(count):
            if swapped:
                for j in range(width):
                    out[j] = row[width - 1 - j]
            else:
                memcpy(out, row, width)
            out += width
            row += stride
    return 0


cdef int make_floats_canonical(_ColumnIn column) except -1:
    """-0.0 becomes 0.0 and every NaN the same one, so that equal numbers are equal keys.

    Nearly always there is neither, and the array is used as it is.
    """
    cdef Py_ssize_t i, count = <Py_ssize_t>column.col.count
    cdef Py_ssize_t width = column.col.width
    cdef bint odd
    with nogil:
        odd = floats_are_odd(column.col.data, count, <Py_ssize_t>column.col.stride, width)
    if not odd:
        return 0
    if column.owned == NULL:
        copy_rows(column, width, <Py_ssize_t>column.col.stride, False)
    cdef uint8_t *made = <uint8_t *>column.owned
    for i in range(count):
        float_make_canonical(made + width * i, width)
    return 0


cdef extern from * nogil:
    """
    /* Not zero for NaN and -0.0 alone, by operations that every vector unit has. */
    static inline uint64_t double_oddity(const uint8_t *p)
    {
        double x;
        uint64_t bits;
        memcpy(&x, p, 8);
        memcpy(&bits, p, 8);
        return (x == 0.0 ? bits : 0) | (x != x ? bits : 0);
    }
    static inline uint32_t float_oddity(const uint8_t *p)
    {
        float x;
        uint32_t bits;
        memcpy(&x, p, 4);
        memcpy(&bits, p, 4);
        return (x == 0.0f ? bits : 0) | (x != x ? bits : 0);
    }
    static int floats_are_odd(const uint8_t *p, Py_ssize_t count, Py_ssize_t stride,
                              Py_ssize_t width)
    {
        uint64_t odd = 0;
        uint32_t odd32 = 0;
        if (width == 8 && stride == 8) {
            for (Py_ssize_t i = 0; i < count; i++) odd |= double_oddity(p + 8 * i);
        } else if (width == 8) {
            for (Py_ssize_t i = 0; i < count; i++) odd |= double_oddity(p + stride * i);
        } else if (stride == 4) {
            for (Py_ssize_t i = 0; i < count; i++) odd32 |= float_oddity(p + 4 * i);
        } else {
            for (Py_ssize_t i = 0; i < count; i++) odd32 |= float_oddity(p + stride * i);
        }
        return odd != 0 || odd32 != 0;
    }
    static inline void float_make_canonical(uint8_t *p, Py_ssize_t width)
    {
        const uint64_t nan = UINT64_C(0x7ff8) << 48;
        const uint32_t nan32 = UINT32_C(0x7fc0) << 16;
        double x;
        float x32;
        if (width == 8) {
            memcpy(&x, p, 8);
            if (x == 0.0) memset(p, 0, 8);
            if (x != x) memcpy(p, &nan, 8);
        } else {
            memcpy(&x32, p, 4);
            if (x32 == 0.0f) memset(p, 0, 4);
            if (x32 != x32) memcpy(p, &nan32, 4);
        }
    }
    """
    bint floats_are_odd(const uint8_t *p, Py_ssize_t count, Py_ssize_t stride, Py_ssize_t width)
    void float_make_canonical(uint8_t *p, Py_ssize_t width)


# --- (data, offsets) and columns of our own --------------------------------------------------

cdef bint open_pair(_ColumnIn column, tuple pair) except -1:
    """Opens (data, offsets) and returns True; False if the tuple is two items of bytes."""
    cdef bint big = False
    cdef char code
    if len(pair) != 2 or isinstance(pair[1], bytes) or not PyObject_CheckBuffer(pair[1]):
        return False
    try:
        PyObject_GetBuffer(pair[1], &column.offsets_view, PyBUF_RECORDS_RO)
    except (BufferError, ValueError):
        return False  # as an item of bytes it gets the error that names it
    column.has_offsets_view = True
    cdef Py_buffer *view = &column.offsets_view
    code = format_code(view.format, &big)
    if view.ndim != 1 or view.itemsize == 1 or not (is_signed(code) or is_unsigned(code)):
        return False
    cdef Py_ssize_t count = view.shape[0]
    cdef const uint8_t *offsets = <const uint8_t *>view.buf
    bytes_buffer(pair[0], &column.view, f"{column.role}: data")
    column.has_view = True
    column.owner = pair
    column.col.data = <const uint8_t *>column.view.buf
    column.col.count = <size_t>max(count - 1, 0)
    cdef Py_ssize_t stride = buffer_stride(view)
    cdef bint plain = view.itemsize >= 4 and not big and stride == view.itemsize
    if not plain or (view.itemsize == 4 and column.view.len > INT32_MAX):
        offsets = widen_offsets(column, offsets, count, view.itemsize, stride, is_signed(code), big)
        return open_offsets(column, offsets, 8, column.view.len)
    # Unsigned offsets need no form of their own: one within the data fits the signed type, and
    # one that does not fit is not within the data.
    return open_offsets(column, offsets, view.itemsize, column.view.len)


cdef const uint8_t *widen_offsets(_ColumnIn column, const uint8_t *at, Py_ssize_t count,
                                  Py_ssize_t width, Py_ssize_t stride, bint signed,
                                  bint big) except NULL:
    """A copy as native int64."""
    cdef Py_ssize_t i, j
    cdef uint64_t number
    cdef int64_t *out = <int64_t *>malloc(<size_t>count * sizeof(int64_t) + 1)
    if out == NULL:
        raise MemoryError()
    column.owned = out
    for i in range(count):
        number = 0
        if signed and at[0 if big else width - 1] & 0x80:
            number = ~number
        for j in range(width):
            number = number << 8 | at[j if big else width - 1 - j]
        out[i] = <int64_t>number
        at += stride
    return <const uint8_t *>out


cdef bint open_offsets(_ColumnIn column, const void *offsets, Py_ssize_t width,
                       int64_t data_bytes) except -1:
    """Checks the offsets of all rows; `data_bytes` is -1 where nobody tells the data's size."""
    cdef Py_ssize_t i, count = <Py_ssize_t>column.col.count
    cdef uint64_t bits
    cdef int64_t last, before = 0, after
    column.col.form = LK_COLUMN_OFFSET32 if width == 4 else LK_COLUMN_OFFSET64
    column.col.offsets = offsets
    if count == 0:
        return True
    if width == 4:
        bits = row_length_bits32(<const int32_t *>offsets, count)
        last = (<const int32_t *>offsets)[count]
    else:
        bits = row_length_bits64(<const int64_t *>offsets, count)
        last = (<const int64_t *>offsets)[count]
    if bits <= column.row_bytes_max and (data_bytes < 0 or last <= data_bytes):
        return True
    for i in range(count + 1):
        after = ((<const int32_t *>offsets)[i] if width == 4 else (<const int64_t *>offsets)[i])
        if after < 0:
            raise ValueError(f"{column.role}: offsets[{i}] is negative, or too large: {after}")
        if data_bytes >= 0 and after > data_bytes:
            raise ValueError(f"{column.role}: offsets[{i}] is {after}, past the end of the data, "
                             f"{data_bytes}")
        if i > 0 and after < before:
            raise ValueError(f"{column.role}: offsets[{i}] is {after}, less than the one before "
                             f"it, {before}")
        if i > 0 and <uint64_t>(after - before) > column.row_bytes_max:
            refuse_long(column, i - 1, after - before)
        before = after
    return True


cdef extern from * nogil:
    """
    /* The bits of all lengths together, which are no less than the longest; all bits where a
     * row's end lies before its beginning, or an offset is negative and could hide such an end.
     * A maximum would be exact, but SSE2 has none for 64 bits. */
    static inline uint64_t row_length_bits32(const int32_t *offsets, Py_ssize_t count)
    {
        uint32_t bits = 0;
        int32_t signs = offsets[0];
        for (Py_ssize_t i = 0; i < count; i++) {
            bits |= (uint32_t)offsets[i + 1] - (uint32_t)offsets[i];
            signs |= offsets[i + 1];
        }
        return signs < 0 ? UINT64_MAX : bits;
    }
    static inline uint64_t row_length_bits64(const int64_t *offsets, Py_ssize_t count)
    {
        uint64_t bits = 0;
        int64_t signs = offsets[0];
        for (Py_ssize_t i = 0; i < count; i++) {
            bits |= (uint64_t)offsets[i + 1] - (uint64_t)offsets[i];
            signs |= offsets[i + 1];
        }
        return signs < 0 ? UINT64_MAX : bits;
    }
    """
    uint64_t row_length_bits32(const int32_t *offsets, Py_ssize_t count)
    uint64_t row_length_bits64(const int64_t *offsets, Py_ssize_t count)


cdef int open_column(_ColumnIn column, Column rows) except -1:
    cdef Py_ssize_t i
    if rows._validity != NULL:
        for i in range(rows._count):
            if rows._validity[i] == 0:
                refuse_null(column, i)
    column.owner = rows
    column.col.count = <size_t>rows._count
    column.col.data = rows._data
    if rows._offsets != NULL:
        open_offsets(column, rows._offsets, 8, -1)
        return 0
    return open_fixed(column, rows._width, rows._width, False)
