# arrow_in.pyx: Arrow arrays and streams of others, opened as a column without a copy.
#
# Owns      nothing: the capsules, or the chunk of a stream, belong to the _ColumnIn and are
#           released with it.
# Callers   column_in().
# Always    the length, the offsets' order and the views are checked; the sizes of the other
#           buffers are the producer's word, because the C interface does not tell them.

cdef int open_arrow_capsules(_ColumnIn column, object capsules) except -1:
    schema_capsule, array_capsule = capsules
    # The capsules release what they hold when the column drops them.
    column.owner = capsules
    return open_arrow(column,
                      <ArrowSchema *>PyCapsule_GetPointer(schema_capsule, b"arrow_schema"),
                      <ArrowArray *>PyCapsule_GetPointer(array_capsule, b"arrow_array"))


cdef int open_arrow_stream(_ColumnIn column, object capsule) except -1:
    """A stream (a Polars or pandas Series, a ChunkedArray) that consists of one chunk."""
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>PyCapsule_GetPointer(
        capsule, b"arrow_array_stream")
    cdef ArrowSchema schema
    cdef ArrowArray more
    schema.release = NULL
    more.release = NULL
    try:
        check_stream(column, stream, stream.get_schema(stream, &schema))
        check_stream(column, stream, stream.get_next(stream, &column.arrow))
        while column.arrow.release != NULL:
            check_stream(column, stream, stream.get_next(stream, &more))
            if more.release == NULL:
                break
            if more.length > 0 and column.arrow.length > 0:
                raise ValueError(f"{column.role} is in several Arrow chunks: combine them first "
                                 f"(rechunk or combine_chunks)")
            if more.length > 0:
                column.arrow.release(&column.arrow)
                column.arrow = more
            else:
                more.release(&more)
            more.release = NULL
        return open_arrow(column, &schema, &column.arrow)
    finally:
        if more.release != NULL:
            more.release(&more)
        if schema.release != NULL:
            schema.release(&schema)


cdef int check_stream(_ColumnIn column, ArrowArrayStream *stream, int code) except -1:
    cdef const char *text
    if code != 0:
        text = stream.get_last_error(stream)
        reason = text.decode("utf-8", "replace") if text != NULL else _strerror(code)
        raise ValueError(f"{column.role}: the Arrow stream failed: {reason}")
    return 0


cdef int open_arrow(_ColumnIn column, ArrowSchema *schema, ArrowArray *array) except -1:
    cdef const char *form = schema.format
    cdef Py_ssize_t first = array.offset
    cdef Py_ssize_t width
    if array.release != NULL and (array.length < 0 or array.offset < 0):
        raise ValueError(f"{column.role}: the Arrow array has a negative length or offset")
    column.col.count = <size_t>array.length if array.release != NULL else 0
    if schema.dictionary != NULL:
        raise TypeError(f"{column.role}: a dictionary-encoded Arrow array is no column: decode it")
    if column.col.count == 0:
        first = 0
    cdef const void **buffers = array.buffers
    if form[0] == c'n' and form[1] == 0 and column.col.count > 0:
        refuse_null(column, 0)
    if column.col.count > 0 and array.null_count != 0:
        refuse_arrow_nulls(column, <const uint8_t *>buffers[0], first)
    if form[0] in (c'z', c'u', c'Z', c'U') and form[1] == 0:
        width = 4 if form[0] in (c'z', c'u') else 8
        if column.col.count > 0:
            column.col.data = <const uint8_t *>buffers[2]
        # The C interface does not say how large a buffer is.
        open_offsets(column, <const uint8_t *>buffers[1] + first * width if column.col.count > 0
                     else NULL, width, -1)
        return 0
    if form[0] == c'v' and (form[1] == c'z' or form[1] == c'u') and form[2] == 0:
        return open_arrow_views(column, array, first)
    width = arrow_width(form)
    if width < 0:
        raise TypeError(f"{column.role}: an Arrow array of format '{form.decode()}' is no column; "
                        f"give binary, utf8, integers, floats or times")
    if column.col.count > 0 and width > 0:
        column.col.data = <const uint8_t *>buffers[1] + first * width
    column.col.stride = <size_t>width
    if form[0] == c'w':
        return open_fixed(column, width, width, False)
    if form[0] == c'b':
        return open_arrow_bits(column, <const uint8_t *>buffers[1], first)
    return open_numbers(column, width, width, form[0] not in (c'C', c'S', c'I', c'L'),
                        form[0] in (c'f', c'g'), False)


cdef Py_ssize_t arrow_width(const char *form) noexcept:
    """Bytes an element of a type of fixed width, by its Arrow format; -1 for others."""
    cdef Py_ssize_t width = 0
    if form[0] == c'w' and form[1] == c':':
        form += 2
        while c'0' <= form[0] <= c'9' and width <= UINT32_MAX:
            width = width * 10 + (form[0] - c'0')
            form += 1
        return width if form[0] == 0 else -1
    if form[0] == c't':  # dates and times, stamps, durations: integers of these widths
        if form[1] == c'd':
            return 4 if form[2] == c'D' else 8
        if form[1] == c't':
            return 4 if form[2] in (c's', c'm') else 8
        return 8 if form[1] in (c's', c'D') else -1
    if form[0] == 0 or form[1] != 0:
        return -1
    if form[0] in (c'b', c'c', c'C'):
        return 1
    if form[0] in (c's', c'S'):
        return 2
    if form[0] in (c'i', c'I', c'f'):
        return 4
    return 8 if form[0] in (c'l', c'L', c'g') else -1


cdef int refuse_arrow_nulls(_ColumnIn column, const uint8_t *bits, Py_ssize_t first) except -1:
    cdef Py_ssize_t i
    if bits == NULL:
        return 0
    for i in range(first, first + <Py_ssize_t>column.col.count):
        if not bits[i >> 3] >> (i & 7) & 1:
            refuse_null(column, i - first)
    return 0


cdef int open_arrow_bits(_ColumnIn column, const uint8_t *bits, Py_ssize_t first) except -1:
    """Booleans are bits in Arrow and bytes 0 and 1 in a store."""
    cdef Py_ssize_t count = <Py_ssize_t>column.col.count, i
    cdef uint8_t *out = <uint8_t *>malloc(<size_t>count + 1)
    if out == NULL:
        raise MemoryError()
    column.owned = out
    column.col.form = LK_COLUMN_FIXED
    column.col.width = 1
    column.col.stride = 1
    column.col.data = out
    for i in range(count):
        out[i] = bits[(first + i) >> 3] >> ((first + i) & 7) & 1
    return 0


cdef int open_arrow_views(_ColumnIn column, ArrowArray *array, Py_ssize_t first) except -1:
    """binary_view and utf8_view: 16 bytes a row, the row itself or where to find it.

    A view is its length (int32), then 12 bytes of the row, or 4 of them, the number of a buffer
    and an offset in it (int32 both). The last buffer of the array tells the others' sizes.
    """
    cdef Py_ssize_t count = <Py_ssize_t>column.col.count, i
    cdef int64_t data_buffers = array.n_buffers - 3
    column.col.form = LK_COLUMN_SPANS
    if count == 0:
        return 0
    cdef lk_bytes *spans = <lk_bytes *>malloc(<size_t>count * sizeof(lk_bytes))
    if spans == NULL:
        raise MemoryError()
    column.owned = spans
    column.col.spans = spans
    cdef const uint8_t *at = <const uint8_t *>array.buffers[1] + 16 * first
    cdef const int64_t *sizes = <const int64_t *>array.buffers[array.n_buffers - 1]
    cdef int32_t[4] view
    for i in range(count):
        memcpy(view, at, 16)
        if view[0] < 0:
            raise ValueError(f"{column.role}[{i}]: the Arrow view has a length of {view[0]}")
        if view[0] <= 12:
            spans[i].data = at + 4
        elif not (0 <= view[2] < data_buffers
                  and 0 <= view[3] <= sizes[view[2]] - view[0]):
            raise ValueError(f"{column.role}[{i}]: the Arrow view points outside its buffers")
        else:
            spans[i].data = <const uint8_t *>array.buffers[2 + view[2]] + view[3]
        spans[i].len = <size_t>view[0]
        if spans[i].len > column.row_bytes_max:
            refuse_long(column, i, spans[i].len)
        at += 16
    return 0
