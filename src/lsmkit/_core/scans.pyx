# scans.pyx: iterators over the rows between two bounds, as pairs, keys, values or columns.
#
# Owns      a C cursor, which pins what it reads, and a reference to the store or snapshot that it
#           came from, which therefore stays open.
# Threads   one at a time: a second thread that steps into a running iterator gets an error, as with
#           a generator. Rows are fetched 32 to 256 at a time without the GIL.
# Errors    ClosedError once the store is closed; what a damaged block says, at the row where it is.

cdef enum:
    FIRST = 32
    PREFETCH = 256

cdef enum scan_what:
    SCAN_PAIRS
    SCAN_KEYS
    SCAN_VALUES


cdef object bound_after(object key):
    """The smallest key that is larger."""
    return bytes(key) + b"\0"


cdef object bound_after_prefix(bytes prefix):
    """The smallest key that is larger than all with this prefix; None when there is none."""
    cdef bytes stripped = prefix.rstrip(b"\xff")
    cdef Py_ssize_t n = len(stripped)
    if n == 0:
        return None
    return stripped[:n - 1] + bytes((stripped[n - 1] + 1,))


def bound(key, str name not None):
    """One end of a range as bytes; None stays None."""
    cdef _Bytes b
    if key is None:
        return None
    b = bytes_of(key, name, LK_KEY_BYTES_MAX)
    return PyBytes_FromStringAndSize(<const char *>b.data, <Py_ssize_t>b.len)


cdef tuple scan_bounds(start, stop, prefix, bint include_start, bint include_stop):
    """(lower inclusive, upper exclusive or None) as bytes."""
    if prefix is not None:
        if start is not None or stop is not None:
            raise TypeError("prefix excludes start and stop")
        lower = bound(prefix, "prefix")
        return lower, bound_after_prefix(lower)
    lower, upper = bound(start, "start") or b"", bound(stop, "stop")
    if start is not None and not include_start:
        lower = bound_after(lower)
    if stop is not None and include_stop:
        upper = bound_after(upper)
    return lower, upper


@cython.no_gc_clear  # the handle is needed to close the cursor
cdef class _Scan:
    """An open cursor."""

    cdef Handle handle
    cdef Reader of
    cdef lk_cursor *cursor
    cdef bint is_running

    def __dealloc__(self):
        if self.cursor != NULL and not lk_store_is_forked(self.handle.s):
            lk_cursor_close(self.cursor)

    def __iter__(self):
        return self

    cdef int start(self, Reader of, bytes lower, upper, bint reverse) except -1:
        cdef lk_bounds bounds
        cdef lk_error err
        cdef lk_status st
        cdef lk_view *v
        cdef uint64_t seq
        cdef bytes end = upper
        memset(&bounds, 0, sizeof(bounds))
        bounds.lower.data = <const uint8_t *>PyBytes_AS_STRING(lower)
        bounds.lower.len = <size_t>PyBytes_GET_SIZE(lower)
        if end is not None:
            bounds.upper.data = <const uint8_t *>PyBytes_AS_STRING(end)
            bounds.upper.len = <size_t>PyBytes_GET_SIZE(end)
        self.handle = of.handle
        self.of = of
        v = of.pin(&seq)
        with nogil:
            st = lk_cursor_open(v, of.tree, seq, &bounds, reverse, &self.cursor, &err)
        of.unpin(v)
        if st != LK_OK:
            raise_error(&err)
        return 0

    cdef int begin(self) except -1:
        """Before the cursor moves; `end` after it."""
        if self.is_running:
            raise RuntimeError("the scan is already being read by another thread")
        self.of.check_tree()
        self.handle.enter()
        self.is_running = True
        return 0

    cdef void end(self) noexcept:
        self.is_running = False
        lk_store_leave(self.handle.s)

    cdef void finish(self) noexcept:
        """Gives back what the cursor pins, as soon as nothing more comes."""
        lk_cursor_close(self.cursor)
        self.cursor = NULL


@cython.final
cdef class Scan(_Scan):
    """Rows in key order: `(key, value)` pairs, keys or values. Made by `scan` and its kin."""

    cdef lk_pair rows[PREFETCH]
    cdef size_t at, count, ask, read
    cdef scan_what what

    def __next__(self):
        if self.at == self.count and not self.fill():
            raise StopIteration
        elif not lk_store_is_open(self.handle.s):
            self.handle.check_open()
        cdef lk_pair *row = &self.rows[self.at]
        self.at += 1
        if self.what == SCAN_PAIRS:
            return (PyBytes_FromStringAndSize(<const char *>row.key.data, <Py_ssize_t>row.key.len),
                    PyBytes_FromStringAndSize(<const char *>row.value.data,
                                              <Py_ssize_t>row.value.len))
        if self.what == SCAN_KEYS:
            return PyBytes_FromStringAndSize(<const char *>row.key.data, <Py_ssize_t>row.key.len)
        return PyBytes_FromStringAndSize(<const char *>row.value.data, <Py_ssize_t>row.value.len)

    cdef bint fill(self) except -1:
        cdef lk_status st
        cdef lk_error err
        cdef lk_cursor *c = self.cursor
        cdef size_t count = 0
        if c == NULL:
            self.handle.check_open()
            return False
        self.begin()
        with nogil:
            st = lk_cursor_next(c, self.rows, self.ask, &count, &err)
        self.end()
        # Nothing else changes before here: another thread may have come and been refused.
        self.at = 0
        self.count = count if st == LK_OK else 0
        # Short ranges are common: the first rows come at once, then as many as have come so far.
        self.read += self.count
        self.ask = min(max(self.read, <size_t>FIRST), <size_t>PREFETCH)
        if st != LK_OK:
            raise_error(&err)
        if count == 0:
            self.finish()
            return False
        return True


cdef Scan scan_open(Reader of, scan_what what, start, stop, prefix, bint reverse,
                    bint include_start, bint include_stop):
    cdef Scan x = Scan.__new__(Scan)
    lower, upper = scan_bounds(start, stop, prefix, include_start, include_stop)
    x.what = what
    x.ask = FIRST
    x.start(of, lower, upper, reverse)
    return x


cdef void *grow_buffer(void *old, size_t old_bytes, size_t new_bytes) noexcept nogil:
    """lk_columns_out.grow over the recycled buffers; NULL when there is no memory."""
    cdef void *fresh = buffer_take(new_bytes)
    if fresh != NULL and old != NULL:
        memcpy(fresh, old, old_bytes)
        buffer_give(old, old_bytes)
    return fresh


@cython.final
cdef class ColumnScan(_Scan):
    """Rows as `Columns`, many at a time. Made by `scan_columns`; pyarrow, Polars and DuckDB read it
    directly through `__arrow_c_stream__`, which may be called again and begins anew."""

    cdef size_t rows
    cdef bytes lower
    cdef object upper
    cdef size_t key_hint, value_hint

    def __next__(self):
        cdef lk_columns_out out
        cdef lk_error err
        cdef lk_status st
        cdef lk_cursor *c = self.cursor
        if c == NULL:
            self.handle.check_open()
            raise StopIteration
        memset(&out, 0, sizeof(out))
        out.grow = grow_buffer
        out.key_width = out.value_width = 0
        self.begin()
        with nogil:
            # As much as the last batch took: then nothing has to grow and be copied.
            if self.key_hint != 0:
                out.keys = <uint8_t *>buffer_take(self.key_hint)
                out.values = <uint8_t *>buffer_take(self.value_hint)
                out.key_capacity = self.key_hint if out.keys != NULL else 0
                out.value_capacity = self.value_hint if out.values != NULL else 0
            st = lk_cursor_next_columns(c, self.rows, &out, &err)
        self.end()
        if st != LK_OK or out.rows == 0:
            buffer_give(out.keys, out.key_capacity)
            buffer_give(out.values, out.value_capacity)
            buffer_give(out.key_offsets, out.offset_capacity * sizeof(int64_t))
            buffer_give(out.value_offsets, out.offset_capacity * sizeof(int64_t))
            if st != LK_OK:
                raise_error(&err)
            self.finish()
            raise StopIteration
        self.key_hint = max(self.key_hint, out.key_capacity)
        self.value_hint = max(self.value_hint, out.value_capacity)
        return columns_of(&out)

    def __arrow_c_stream__(self, requested_schema=None):
        """The rows as a stream of record batches with `key` and `value`, both large_binary."""
        cdef ColumnScan fresh = columns_open(self.of, self.lower, self.upper, self.rows)
        return arrow_stream(fresh)


cdef Columns columns_of(lk_columns_out *out):
    """Takes over the buffers."""
    cdef Py_ssize_t n = <Py_ssize_t>out.rows
    cdef bint key_fixed = out.key_width >= 0, value_fixed = out.value_width >= 0
    if key_fixed and out.key_offsets != NULL:
        buffer_give(out.key_offsets, out.offset_capacity * sizeof(int64_t))
        out.key_offsets = NULL
    if value_fixed and out.value_offsets != NULL:
        buffer_give(out.value_offsets, out.offset_capacity * sizeof(int64_t))
        out.value_offsets = NULL
    cdef Column keys, values
    try:
        keys = column_adopt(out.keys, out.key_offsets, <Py_ssize_t>out.key_width if key_fixed else 0,
                            NULL, n, out.key_capacity)
    except BaseException:
        free(out.values)
        free(out.value_offsets)
        raise
    values = column_adopt(out.values, out.value_offsets,
                          <Py_ssize_t>out.value_width if value_fixed else 0, NULL, n,
                          out.value_capacity)
    return columns_make(keys, values)


cdef ColumnScan columns_open(Reader of, bytes lower, upper, size_t rows):
    cdef ColumnScan x = ColumnScan.__new__(ColumnScan)
    x.lower = lower
    x.upper = upper
    x.rows = rows
    x.start(of, lower, upper, False)
    return x


# The methods stand here, as functions that take the reader, because a cdef class cannot be reopened.

def scan(Reader of not None, start=None, stop=None, *, prefix=None, reverse=False,
         include_start=True, include_stop=False):
    """See lsmkit.tree._Readable.scan."""
    return scan_open(of, SCAN_PAIRS, start, stop, prefix, reverse, include_start, include_stop)


def scan_keys(Reader of not None, start=None, stop=None, *, prefix=None, reverse=False,
              include_start=True, include_stop=False):
    """See lsmkit.tree._Readable.scan_keys."""
    return scan_open(of, SCAN_KEYS, start, stop, prefix, reverse, include_start, include_stop)


def scan_values(Reader of not None, start=None, stop=None, *, prefix=None, reverse=False,
                include_start=True, include_stop=False):
    """See lsmkit.tree._Readable.scan_values."""
    return scan_open(of, SCAN_VALUES, start, stop, prefix, reverse, include_start, include_stop)


def scan_columns(Reader of not None, start=None, stop=None, *, prefix=None, rows=65536):
    """See lsmkit.tree._Readable.scan_columns."""
    cdef Py_ssize_t n = rows
    if n < 1:
        raise ValueError(f"rows is {rows}; it must be 1 or more")
    lower, upper = scan_bounds(start, stop, prefix, True, False)
    return columns_open(of, lower, upper, <size_t>n)


def count_rows(Reader of not None):
    """How many live rows there are; reads every key."""
    cdef _Scan x = _Scan.__new__(_Scan)
    cdef uint64_t n = 0
    cdef lk_error err
    cdef lk_status st
    x.start(of, b"", None, False)
    x.begin()
    with nogil:
        st = lk_cursor_count(x.cursor, &n, &err)
    x.end()
    if st != LK_OK:
        raise_error(&err)
    return n
