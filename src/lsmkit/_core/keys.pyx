# keys.pyx: keys of several parts, encoded so that they sort as tuples of the parts do.
#
#   int        8 bytes   big-endian two's complement with the sign bit flipped
#   float      8 bytes   IEEE 754 big-endian; negative: all bits flipped, else the sign bit;
#                        -0.0 is 0.0, and every NaN is the same one, after infinity
#   bool       1 byte    0 or 1
#   str        UTF-8, as bytes
#   bytes      last part: as they are; else each 00 becomes 00 FF, and 00 01 ends the part
#
# The terminator sorts before the escaped zero and before every other continuation, so a part
# sorts before the parts that it begins. encode_keys() gives every row the same width: an S<n>
# array becomes n bytes, filled up with 00, and, unless last, 00 01 behind them. 00 00 can stand
# nowhere else, so decode_key() knows the filling from what was written.
#
# Callers   users. The column border turns single columns of numbers by the same rules (column.h),
#           in the width of their own type.
# Threads   encode_keys() writes without the GIL.

from cpython.bytearray cimport PyByteArray_Check
from cpython.bytes cimport PyBytes_Check, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_STRIDED_RO
from cpython.memoryview cimport PyMemoryView_Check
from libc.string cimport memchr

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *out_bytes) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *out_overflow) except? -1
    double PyFloat_AS_DOUBLE(object number)

cdef extern from * nogil:
    """
    static inline void lk_store_big(uint8_t *out, uint64_t v)
    {
        v = __builtin_bswap64(v);
        memcpy(out, &v, 8);
    }
    static inline uint64_t lk_load_big(const uint8_t *p)
    {
        uint64_t v;
        memcpy(&v, p, 8);
        return __builtin_bswap64(v);
    }
    /* The number whose unsigned order is the order of the floats. */
    static inline uint64_t lk_float_to_order(const void *p)
    {
        uint64_t v, sign = UINT64_C(1) << 63;
        memcpy(&v, p, 8);
        if (v << 1 > UINT64_C(0x7ff) << 53) v = UINT64_C(0x7ff8) << 48;
        if (v == sign) v = 0;
        return v ^ ((v & sign) != 0 ? ~UINT64_C(0) : sign);
    }
    static inline double lk_float_from_order(uint64_t v)
    {
        double number;
        uint64_t sign = UINT64_C(1) << 63;
        v ^= (v & sign) != 0 ? sign : ~UINT64_C(0);
        memcpy(&number, &v, 8);
        return number;
    }
    """
    void lk_store_big(uint8_t *out, uint64_t v)
    uint64_t lk_load_big(const uint8_t *p)
    uint64_t lk_float_to_order(const void *p)
    double lk_float_from_order(uint64_t v)

cdef enum:
    KEY_INLINE_BYTES = 256  # most keys are shorter, and then nothing is allocated but the result

cdef uint64_t SIGN_BIT = <uint64_t>1 << 63


# --- One key ---------------------------------------------------------------------------------

cdef struct key_writer:
    uint8_t *data
    size_t length
    size_t capacity
    uint8_t inline_data[KEY_INLINE_BYTES]


def encode_key(*parts):
    """One key of several parts, such that keys sort as the tuples of their parts do.

    A part is an int (-2**63 to 2**63 - 1, 8 bytes), a float (8 bytes; -0.0 counts as 0.0, and
    NaN sorts behind infinity), a bool (1 byte), a str (as UTF-8), a bytes-like object, or a NumPy
    scalar of these or of a time. Parts at one place must be of one type to sort by value. str and
    bytes are taken as they are at the end and are escaped and terminated before it, so
    `encode_key("a", b"")` begins every key whose first part is "a", and none other: it is the
    `prefix` to scan for.

    Raises ValueError, naming the part, for an int out of range, and for a key of more than 65,535
    bytes; TypeError for another type. The encoding follows FoundationDB's tuple layer in its
    escaping of zero bytes, but carries no type codes.
    """
    cdef key_writer writer
    cdef Py_ssize_t i, last = len(parts) - 1
    writer.data = writer.inline_data
    writer.length = 0
    writer.capacity = KEY_INLINE_BYTES
    try:
        for i in range(last + 1):
            write_part(&writer, parts[i], i, i == last)
        if writer.length > LK_KEY_BYTES_MAX:
            raise ValueError(f"the key would have {writer.length} bytes, more than the "
                             f"{LK_KEY_BYTES_MAX} allowed")
        return PyBytes_FromStringAndSize(<const char *>writer.data, <Py_ssize_t>writer.length)
    finally:
        if writer.data != writer.inline_data:
            free(writer.data)


cdef uint8_t *writer_extend(key_writer *writer, size_t more) except NULL:
    """Room for `more` bytes, which count as written."""
    cdef size_t needed = writer.length + more
    cdef uint8_t *grown
    if needed > writer.capacity:
        grown = <uint8_t *>malloc(2 * needed)
        if grown == NULL:
            raise MemoryError()
        memcpy(grown, writer.data, writer.length)
        if writer.data != writer.inline_data:
            free(writer.data)
        writer.data = grown
        writer.capacity = 2 * needed
    grown = writer.data + writer.length
    writer.length = needed
    return grown


cdef int write_part(key_writer *writer, object part, Py_ssize_t at, bint last) except -1:
    cdef Py_ssize_t length = 0
    cdef const char *text
    cdef Py_buffer view
    cdef double number
    if isinstance(part, bool):
        writer_extend(writer, 1)[0] = part is True
    elif isinstance(part, int):
        return write_int(writer, part, at)
    elif isinstance(part, float):
        number = PyFloat_AS_DOUBLE(part)
        lk_store_big(writer_extend(writer, 8), lk_float_to_order(&number))
    elif isinstance(part, str):
        text = PyUnicode_AsUTF8AndSize(part, &length)
        write_bytes(writer, <const uint8_t *>text, length, last)
    elif PyBytes_Check(part):
        write_bytes(writer, <const uint8_t *>PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part), last)
    elif PyByteArray_Check(part) or PyMemoryView_Check(part):
        bytes_buffer(part, &view, f"part {at}")
        try:
            write_bytes(writer, <const uint8_t *>view.buf, view.len, last)
        finally:
            PyBuffer_Release(&view)
    else:
        return write_other(writer, part, at, last)
    return 0


cdef int write_int(key_writer *writer, object part, Py_ssize_t at) except -1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(part, &overflow)
    if overflow != 0:
        raise ValueError(f"part {at} is {part}: an int in a key lies between -2**63 and 2**63 - 1")
    lk_store_big(writer_extend(writer, 8), <uint64_t>number ^ SIGN_BIT)
    return 0


cdef int write_other(key_writer *writer, object part, Py_ssize_t at, bint last) except -1:
    """NumPy scalars, told by their dtype, and whatever else is an integer by __index__."""
    kind = getattr(getattr(part, "dtype", None), "kind", "")
    if getattr(part, "ndim", 0) == 0:
        if kind == "b":
            return write_part(writer, bool(part), at, last)
        if kind == "f":
            return write_part(writer, float(part), at, last)
        if kind == "m" or kind == "M":
            return write_part(writer, int(part.astype("i8")), at, last)
        if hasattr(part, "__index__"):
            return write_int(writer, part.__index__(), at)
    raise TypeError(f"part {at} is {type(part).__name__}; a part of a key is an int, float, bool, "
                    f"str or bytes-like")


cdef int write_bytes(key_writer *writer, const uint8_t *data, Py_ssize_t length,
                     bint last) except -1:
    cdef const uint8_t *end = data + length
    cdef const uint8_t *zero
    cdef uint8_t *out
    while not last:
        zero = <const uint8_t *>memchr(data, 0, end - data) if data != end else NULL
        if zero == NULL:
            break
        length = zero - data
        out = writer_extend(writer, length + 2)
        memcpy(out, data, length)
        out[length] = 0
        out[length + 1] = 0xFF
        data = zero + 1
    length = end - data
    out = writer_extend(writer, length + (0 if last else 2))
    if length > 0:
        memcpy(out, data, length)
    if not last:
        out[length] = 0
        out[length + 1] = 1
    return 0


# --- One key back ----------------------------------------------------------------------------

cdef struct key_reader:
    const uint8_t *data
    Py_ssize_t left
    Py_ssize_t length


def decode_key(key, *types):
    """The parts of a key as a tuple; `types` names them: int, float, bool, str or bytes each.

    It reads what `encode_key` and `encode_keys` write. The zero bytes with which `encode_keys`
    fills up short `S<n>` rows are dropped, as NumPy does, except in the last part, where they
    cannot be told from bytes that were meant: use `.rstrip(b"\\0")` there. A time is an int.

    Raises ValueError for a key of another length than the types have together, for a bool that
    is neither 0 nor 1, for a part that is not terminated, and for a str that is not UTF-8;
    TypeError for a type that is none of the five.
    """
    cdef key_reader reader
    cdef Py_buffer view
    cdef Py_ssize_t i, last = len(types) - 1
    cdef list parts = []
    bytes_buffer(key, &view, "key")
    try:
        reader.data = <const uint8_t *>view.buf
        reader.left = view.len
        reader.length = view.len
        for i in range(last + 1):
            parts.append(read_part(&reader, types[i], i, i == last))
        if reader.left > 0:
            raise ValueError(f"the key has {reader.left} bytes more than its {last + 1} parts")
    finally:
        PyBuffer_Release(&view)
    return tuple(parts)


cdef object read_part(key_reader *reader, object kind, Py_ssize_t at, bint last):
    cdef const uint8_t *data
    if kind is int:
        data = reader_take(reader, 8, at)
        return <long long>(lk_load_big(data) ^ SIGN_BIT)
    if kind is float:
        data = reader_take(reader, 8, at)
        return lk_float_from_order(lk_load_big(data))
    if kind is bool:
        data = reader_take(reader, 1, at)
        if data[0] > 1:
            raise ValueError(f"part {at} of the key is {data[0]}, which is no bool")
        return data[0] == 1
    if kind is bytes:
        return read_last(reader) if last else read_terminated(reader, at)
    if kind is str:
        return (read_last(reader) if last else read_terminated(reader, at)).decode()
    raise TypeError(f"type {at} is {kind!r}; the parts of a key are int, float, bool, str or bytes")


cdef const uint8_t *reader_take(key_reader *reader, Py_ssize_t count, Py_ssize_t at) except NULL:
    if reader.left < count:
        raise ValueError(f"the key ends in part {at}: {count} bytes are needed and {reader.left} "
                         f"are left of {reader.length}")
    cdef const uint8_t *data = reader.data
    reader.data += count
    reader.left -= count
    return data


cdef bytes read_last(key_reader *reader):
    cdef bytes part = PyBytes_FromStringAndSize(<const char *>reader.data, reader.left)
    reader.data += reader.left
    reader.left = 0
    return part


cdef bytes read_terminated(key_reader *reader, Py_ssize_t at):
    """Bytes up to 00 01, with 00 FF as a zero byte and the filling (00 before 00) left out."""
    cdef const uint8_t *start = reader.data
    cdef const uint8_t *end = start + reader.left
    cdef const uint8_t *p = start
    cdef const uint8_t *zero
    cdef bytes part = b""
    cdef bint filling = False
    while True:
        zero = <const uint8_t *>memchr(p, 0, end - p) if p != end else NULL
        if zero == NULL or zero + 1 == end:
            raise ValueError(f"part {at} of the key is not terminated")
        part += PyBytes_FromStringAndSize(<const char *>p, zero - p)
        p = zero + 2
        if zero[1] == 1:
            reader.data = p
            reader.left = end - p
            return part
        if zero[1] == 0:
            filling = True
            p = zero + 1  # the second zero goes on with the filling, or begins the terminator
        elif zero[1] == 0xFF and not filling:
            part += b"\0"
        else:
            raise ValueError(f"part {at} of the key has {zero[1]:#04x} behind a zero byte")


# --- Many keys -------------------------------------------------------------------------------

cdef enum key_column_kind:
    KEY_INT
    KEY_UNSIGNED   # 64 bits: the upper half does not fit an int
    KEY_FLOAT
    KEY_BOOL
    KEY_BYTES      # not last: followed by the terminator
    KEY_BYTES_LAST

cdef struct key_column:
    key_column_kind kind
    const uint8_t *data
    Py_ssize_t stride
    Py_ssize_t width   # of the source
    Py_ssize_t at      # where it goes in the row

cdef enum:
    KEY_ROWS_AT_A_TIME = 512  # so that the rows being put together stay in the nearest cache


def encode_keys(*columns):
    """Many keys at once: arrays of one length in, an (n, width) uint8 array out, a key a row.

    A column is a NumPy array of integers, floats or booleans of any width, `datetime64` or
    `timedelta64` (as int64), or `S<n>`, or what NumPy makes one of. Row i equals `encode_key` of
    the i-th elements, integers and floats in 8 bytes whatever their width. The one exception:
    rows of `S<n>` that are shorter than n bytes are filled up with zero bytes, because all rows
    have one width; an `S<n>` column takes n + 2 bytes, and n as the last one. Such keys sort as
    the tuples do among the keys of `encode_keys`, and `decode_key` reads them.

    Raises ValueError for arrays of different lengths or more than one dimension, for an unsigned
    integer above 2**63 - 1 and for a zero byte inside an `S<n>` element that is not in the last
    column (it would need escaping, which changes the width), each named by column and row;
    TypeError for other types. It costs one to eight nanoseconds a row, without the GIL.
    """
    import numpy
    if not columns:
        raise TypeError("encode_keys needs at least one column")
    cdef list arrays = [key_array(numpy, columns[i], i) for i in range(len(columns))]
    cdef Py_ssize_t count = len(arrays[0]), parts = len(arrays), width = 0, opened = 0, i
    for i in range(parts):
        if len(arrays[i]) != count:
            raise ValueError(f"column {i} has {len(arrays[i])} rows, and column 0 has {count}")
    cdef Py_buffer *views = <Py_buffer *>malloc(<size_t>parts * sizeof(Py_buffer))
    cdef key_column *plan = <key_column *>malloc(<size_t>parts * sizeof(key_column))
    cdef Py_ssize_t bad_column = 0, bad_row = -1
    cdef uint8_t *out
    try:
        if views == NULL or plan == NULL:
            raise MemoryError()
        for i in range(parts):
            PyObject_GetBuffer(arrays[i], &views[i], PyBUF_STRIDED_RO)
            opened += 1
            width += plan_column(&plan[i], &views[i], arrays[i].dtype.kind, width, i == parts - 1)
        if width > <Py_ssize_t>LK_KEY_BYTES_MAX:
            raise ValueError(f"the keys would have {width} bytes, more than the {LK_KEY_BYTES_MAX} "
                             f"allowed")
        keys = numpy.empty((count, width), numpy.uint8)
        out = array_memory(keys)
        with nogil:
            bad_row = encode_rows(plan, parts, out, width, count, &bad_column)
        if bad_row >= 0:
            refuse_key(arrays[bad_column][bad_row], bad_column, bad_row)
        return keys
    finally:
        for i in range(opened):
            PyBuffer_Release(&views[i])
        free(views)
        free(plan)


cdef object key_array(object numpy, object column, Py_ssize_t at):
    """The column as int64, uint64, float64, uint8 or S<n>, copied only where its type differs."""
    array = numpy.asarray(column)
    if array.ndim != 1:
        raise ValueError(f"column {at} has {array.ndim} dimensions; a column of keys has one")
    cdef str kind = array.dtype.kind
    if kind == "S":
        return array
    if kind == "b":
        return array.view("?")
    if kind == "u" and array.dtype.itemsize == 8:
        return array.astype("<u8", copy=False)
    if kind == "i" or kind == "u":
        return array.astype("<i8", copy=False)
    if kind == "f" and array.dtype.itemsize <= 8:
        with numpy.errstate(invalid="ignore"):  # a signalling NaN is a NaN like any other
            return array.astype("<f8", copy=False)
    if kind == "m" or kind == "M":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).view("<i8")
    raise TypeError(f"column {at} is of type {array.dtype}; a column of keys holds integers, "
                    f"floats, booleans, times or S<n>")


cdef Py_ssize_t plan_column(key_column *column, Py_buffer *view, str kind, Py_ssize_t at,
                            bint last) except -1:
    """Describes one column; returns the bytes that it takes of a row."""
    column.data = <const uint8_t *>view.buf
    column.stride = view.strides[0]
    column.width = view.itemsize
    column.at = at
    if kind == "S":
        column.kind = KEY_BYTES_LAST if last else KEY_BYTES
        return column.width + (0 if last else 2)
    if kind == "b":
        column.kind = KEY_BOOL
        return 1
    column.kind = KEY_INT if kind == "i" else KEY_FLOAT if kind == "f" else KEY_UNSIGNED
    return 8


cdef int refuse_key(object value, Py_ssize_t column, Py_ssize_t row) except -1:
    if isinstance(value, bytes):
        raise ValueError(f"column {column}, row {row}: {value!r} has a zero byte inside, which "
                         f"only the last column may have")
    raise ValueError(f"column {column}, row {row}: {value} is more than 2**63 - 1")


cdef Py_ssize_t encode_rows(const key_column *plan, Py_ssize_t parts, uint8_t *out,
                            Py_ssize_t width, Py_ssize_t count,
                            Py_ssize_t *out_column) noexcept nogil:
    """Writes all rows; returns the first row that cannot be encoded in its block, or -1."""
    cdef Py_ssize_t start = 0, rows, i, bad
    while start < count:
        rows = min(count - start, <Py_ssize_t>KEY_ROWS_AT_A_TIME)
        for i in range(parts):
            bad = encode_part(&plan[i], start, rows, out + start * width + plan[i].at, width)
            if bad >= 0:
                out_column[0] = i
                return start + bad
        start += rows
    return -1


cdef Py_ssize_t encode_part(const key_column *column, Py_ssize_t start, Py_ssize_t rows,
                            uint8_t *out, Py_ssize_t width) noexcept nogil:
    """One column's part of a block of rows; returns the row that cannot be encoded, or -1."""
    cdef const uint8_t *at = column.data + start * column.stride
    cdef Py_ssize_t i
    cdef uint64_t number = 0
    if column.kind == KEY_INT:
        for i in range(rows):
            memcpy(&number, at + i * column.stride, 8)
            lk_store_big(out + i * width, number ^ SIGN_BIT)
    elif column.kind == KEY_UNSIGNED:
        for i in range(rows):
            memcpy(&number, at + i * column.stride, 8)
            if number >= SIGN_BIT:
                return i
            lk_store_big(out + i * width, number ^ SIGN_BIT)
    elif column.kind == KEY_FLOAT:
        for i in range(rows):
            lk_store_big(out + i * width, lk_float_to_order(at + i * column.stride))
    elif column.kind == KEY_BOOL:
        for i in range(rows):
            out[i * width] = at[i * column.stride]
    elif column.kind == KEY_BYTES_LAST:
        for i in range(rows):
            memcpy(out + i * width, at + i * column.stride, column.width)
    else:
        for i in range(rows):
            memcpy(out + i * width, at + i * column.stride, column.width)
            out[i * width + column.width] = 0
            out[i * width + column.width + 1] = 1
            if has_inner_zero(at + i * column.stride, column.width):
                return i
    return -1


cdef inline bint has_inner_zero(const uint8_t *data, Py_ssize_t width) noexcept nogil:
    """Whether a zero byte is followed by one that is none."""
    cdef const uint8_t *zero = <const uint8_t *>memchr(data, 0, width)
    if zero == NULL:
        return False
    while zero < data + width:
        if zero[0] != 0:
            return True
        zero += 1
    return False
