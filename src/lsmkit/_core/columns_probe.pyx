# columns_probe.pyx: the border as the core sees it, for the tests of columns and errors.
#
# Callers   tests/py/test_columns.py, test_columns_in.py, test_arrow.py and test_errors.py alone.
#           They reach what no public method shows: whether memory was copied, columns of every
#           form, errors that only a broken disk would give.

cdef extern from "column.h" nogil:
    lk_bytes lk_column_row(const lk_column *col, size_t i, uint8_t *scratch)

cdef extern from "status.h" nogil:
    lk_status lk_fail(lk_error *err, lk_status code, int sys_errno, const char *path,
                      uint64_t offset, uint64_t expected, uint64_t found, const char *format, ...)


cdef extern from * nogil:
    """
    #define lk_store_volatile(p, v) ((void)(*(volatile uint64_t *)(p) = (v)))
    #define lk_load_volatile(p) (*(volatile uint64_t *)(p))
    """
    void lk_store_volatile(uint64_t *p, uint64_t v)
    uint64_t lk_load_volatile(uint64_t *p)


def _probe_rows(obj, role="keys", is_key=True):
    """Opens a column: its rows as the core reads them, its form, and where its data begins."""
    cdef _ColumnIn column = column_in(obj, role, is_key)
    cdef uint8_t[8] scratch
    cdef lk_bytes row
    cdef size_t i
    cdef list rows = []
    for i in range(column.col.count):
        row = lk_column_row(&column.col, i, scratch)
        rows.append(PyBytes_FromStringAndSize(<const char *>row.data, <Py_ssize_t>row.len))
    return rows, <int>column.col.form, <size_t>column.col.data


def _probe_open(obj, role, is_key):
    """Opens a column and drops it: what a call pays before its first row."""
    column_in(obj, role, is_key)


def _probe_hold(obj, role="keys", is_key=True):
    """Opens a column and keeps it open for as long as the result lives."""
    return column_in(obj, role, is_key)


def _probe_list_sizes(items, limit):
    cdef uint64_t total = 0
    return list_sizes(items, limit, &total), total


def _probe_column(rows, width=-1):
    """A Column of these rows (bytes or None), with offsets, or of fixed `width`."""
    cdef Py_ssize_t count = len(rows), row_width = width, total = 0, i
    cdef bint absent = None in rows
    cdef size_t data_bytes = (sum([len(row or b"") for row in rows]) if row_width < 0
                              else count * row_width)
    cdef uint8_t *data = <uint8_t *>buffer_take(data_bytes)
    cdef uint8_t *validity = <uint8_t *>buffer_take(count) if absent else NULL
    cdef int64_t *offsets = NULL
    if row_width < 0:
        offsets = <int64_t *>buffer_take(<size_t>(count + 1) * sizeof(int64_t))
    cdef Column column = column_adopt(data, offsets, row_width, validity, count, data_bytes)
    for i in range(count):
        if offsets != NULL:
            offsets[i] = total
        if absent:
            validity[i] = rows[i] is not None
        row = b"\0" * max(row_width, 0) if rows[i] is None else rows[i]
        memcpy(data + total, PyBytes_AS_STRING(row), len(row))
        total += len(row)
    if offsets != NULL:
        offsets[count] = total
    return column


def _probe_columns(Column keys, Column values):
    return columns_make(keys, values)


def _probe_stream(batches):
    return arrow_stream(batches)


def _probe_buffers(bytes, times):
    """Takes and gives back a buffer some times without the GIL: what the pool holds then (buffers,
    bytes), and how often somebody else wrote into the buffer meanwhile."""
    cdef size_t size = max(bytes, sizeof(uint64_t))
    cdef int rounds = times, shared = 0
    cdef uint64_t *data
    cdef uint64_t own = <uint64_t><size_t>&size  # no other thread has this address
    with nogil:
        while rounds > 0:
            rounds -= 1
            data = <uint64_t *>buffer_take(size)
            if data == NULL:
                break
            lk_store_volatile(data, own + rounds)
            if lk_load_volatile(data) != own + rounds:
                shared += 1
            buffer_give(data, size)
    return BUFFERS.count, BUFFERS.bytes, shared


def _probe_error(code, sys_errno, path, offset, expected, found, message):
    """Raises what an lk_error of this content becomes."""
    cdef lk_error err
    cdef bytes text = message
    lk_fail(&err, <lk_status><int>code, sys_errno, path, offset, expected, found, b"%s",
            <char *>text)
    raise_error(&err)
