# btree.pyx: the B+tree beside the store: its handle, reads, writes, scans and cursors.
#
# Owns      BTreeHandle owns the C tree; scans and cursors hold a reference to it, so that the tree is
#           freed last.
# Callers   lsmkit.btree.BTree is a Python subclass that overrides none of the hot methods.
# Threads   any. A row that is in memory is read and written under the GIL, with locks that are only
#           tried; what would wait goes on without the GIL, bracketed by lk_btree_enter and _leave.

cdef extern from "btree.h" nogil:
    const uint32_t LK_BTREE_ROWS
    ctypedef struct lk_btree:
        pass
    ctypedef struct lk_btree_options:
        uint64_t cache_bytes, lock_timeout_ns
        uint32_t log_bytes, page_bytes, sync_interval_ms
        lk_durability durability
        bint create_if_missing, error_if_exists
    ctypedef struct lk_btree_counters:
        uint64_t records, frames, log_bytes, syncs, user_bytes, splits, merges
        uint64_t checkpoints, checkpoint_ns, page_writes, journal_bytes, extent_bytes, home_bytes
        uint64_t page_reads, evictions, recovered_records
    ctypedef struct lk_btree_sizes:
        uint64_t rows, file_pages, free_pages, cached_pages, dirty_pages, cache_pages
        uint32_t levels, page_bytes
        uint64_t log_used, log_capacity
    ctypedef struct lk_btree_row:
        lk_bytes key, value
    ctypedef struct lk_btree_scan:
        lk_btree *t
        uint32_t count
        bint at_end
    ctypedef struct lk_btree_write:
        lk_durability durability
        lk_kind kind
        const lk_column *keys
        const lk_column *values
        const uint8_t *body
        uint64_t body_bytes, records
    ctypedef struct lk_btree_report:
        uint64_t pages, rows, extents, bytes, free_pages, faults
        lk_error error
    void lk_btree_options_init(lk_btree_options *o)
    lk_status lk_btree_open(lk_env *env, const char *dir, const lk_btree_options *options,
                            lk_btree **out, lk_error *err)
    lk_status lk_btree_close(lk_btree *t, lk_error *err)
    void lk_btree_free(lk_btree *t)
    bint lk_btree_is_forked(const lk_btree *t)
    bint lk_btree_is_open(lk_btree *t)
    lk_status lk_btree_closed_error(lk_btree *t, lk_error *err)
    lk_status lk_btree_enter(lk_btree *t, lk_error *err)
    void lk_btree_leave(lk_btree *t)
    lk_status lk_btree_read_try(lk_btree *t)
    void lk_btree_read_begin(lk_btree *t)
    void lk_btree_read_end(lk_btree *t)
    lk_status lk_btree_peek(lk_btree *t, lk_bytes key, lk_bytes *out, lk_error *err)
    lk_status lk_btree_get(lk_btree *t, lk_bytes key, uint8_t **out, uint32_t *out_len,
                           lk_error *err)
    uint64_t lk_btree_rows(lk_btree *t)
    lk_status lk_btree_scan_init(lk_btree_scan *s, lk_btree *t, lk_bytes lower, lk_bytes upper,
                                 bint reverse, lk_error *err)
    void lk_btree_scan_deinit(lk_btree_scan *s)
    lk_status lk_btree_scan_fill(lk_btree_scan *s, uint32_t rows, lk_error *err)
    lk_btree_row lk_btree_scan_row(const lk_btree_scan *s, uint32_t i)
    lk_status lk_btree_try(lk_btree *t, lk_kind kind, lk_bytes key, lk_bytes value,
                           lk_durability durability, lk_error *err)
    lk_status lk_btree_write_all(lk_btree *t, const lk_btree_write *w, lk_error *err)
    lk_status lk_btree_exchange(lk_btree *t, lk_kind kind, lk_bytes key, lk_bytes value,
                                lk_durability durability, uint8_t **out, uint32_t *out_len,
                                lk_error *err)
    lk_status lk_btree_sync(lk_btree *t, lk_error *err)
    void lk_btree_stats(lk_btree *t, lk_btree_counters *counters, lk_btree_sizes *sizes)
    lk_status lk_btree_verify(lk_btree *t, lk_btree_report *out, lk_error *err)


cdef inline lk_bytes bytes_span(object b) noexcept:
    """Of a bytes object, which must outlive it."""
    cdef lk_bytes span
    span.data = <const uint8_t *>PyBytes_AS_STRING(b)
    span.len = <size_t>PyBytes_GET_SIZE(b)
    return span


cdef inline bint is_key_bytes(object key) noexcept:
    return PyBytes_CheckExact(key) and PyBytes_GET_SIZE(key) <= <Py_ssize_t>LK_KEY_BYTES_MAX


cdef class BTreeHandle:
    """An open B+tree in C: point reads and writes."""

    cdef lk_btree *t
    cdef lk_durability durability
    cdef readonly str path
    cdef Disk disk               # None: the real machine's

    def __init__(self, *args, **kwargs):
        raise TypeError(f"{type(self).__name__} is made by lsmkit.open_btree")

    def _open(self, bytes path, str shown, *, str durability, bint create_if_missing,
              bint error_if_exists, timeout, cache_bytes, log_bytes, page_bytes, sync_interval_ms,
              Disk disk=None):
        cdef lk_btree_options o
        cdef lk_error err
        cdef lk_status st
        cdef const char *dir = path
        cdef lk_env *env = env_of(disk)
        self.disk = disk
        self.path = shown
        lk_btree_options_init(&o)
        o.cache_bytes = cache_bytes
        o.log_bytes = log_bytes
        o.page_bytes = page_bytes
        o.sync_interval_ms = sync_interval_ms
        o.durability = self.durability = durability_of(durability)
        o.create_if_missing = create_if_missing
        o.error_if_exists = error_if_exists
        cdef uint64_t left = 0 if timeout is None else timeout_ns(timeout)
        while True:
            o.lock_timeout_ns = min(left, LOCK_WAIT_NS)
            with nogil:
                st = lk_btree_open(env, dir, &o, &self.t, &err)
            if st != LK_LOCKED or left == 0:
                break
            PyErr_CheckSignals()
            left -= o.lock_timeout_ns
        if st != LK_OK:
            raise_error(&err)

    def __dealloc__(self):
        if self.t == NULL or lk_btree_is_forked(self.t):
            return
        with nogil:
            lk_btree_close(self.t, NULL)
            lk_btree_free(self.t)

    def close(self):
        """Waits for calls under way, writes what memory alone holds into the tree's pages, and gives
        the tree up. May be called again; scans and cursors raise ClosedError from then on.

        A StorageError means that the pages could not be written: the log has it all, and the next
        `open_btree` reads it back.
        """
        cdef lk_error err
        cdef lk_status st
        with nogil:
            st = lk_btree_close(self.t, &err)
        if st != LK_OK:
            raise_error(&err)

    @property
    def closed(self):
        """Whether `close` was called, or this is a child of the process that opened the tree."""
        return not lk_btree_is_open(self.t)

    cdef int check_open(self) except -1:
        cdef lk_error err
        if not lk_btree_is_open(self.t):
            lk_btree_closed_error(self.t, &err)
            raise_error(&err)
        return 0

    def _check(self):
        self.check_open()

    cdef int enter(self) except -1:
        cdef lk_error err
        if lk_btree_enter(self.t, &err) != LK_OK:
            raise_error(&err)
        return 0

    def __len__(self):
        self.enter()
        cdef uint64_t rows
        with nogil:
            rows = lk_btree_rows(self.t)
            lk_btree_leave(self.t)
        return rows

    # --- Reading.

    def get(self, key, default=None):
        """The value of `key` as bytes, or `default` when there is none.

        Costs a binary search in one page a level; a page that is not in memory is read without the
        GIL. Raises TypeError for a `str`, CorruptionError for damaged bytes, ClosedError after
        close().
        """
        value = self.find(key)
        return default if value is None else value

    def __getitem__(self, key):
        value = self.find(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key):
        return self.find(key) is not None

    cdef object find(self, key):
        cdef _Bytes b
        cdef lk_bytes span
        if is_key_bytes(key):
            return self.find_span(bytes_span(key))
        b = key_of(key)
        span.data = b.data
        span.len = b.len
        return self.find_span(span)

    cdef object find_span(self, lk_bytes key):
        cdef lk_bytes found
        cdef lk_error err
        cdef PyObject *value = NULL
        cdef lk_status st = lk_btree_read_try(self.t)
        if st == LK_OK:
            st = lk_btree_peek(self.t, key, &found, &err)
            if st == LK_OK and found.data != NULL:
                value = bytes_from(<const char *>found.data, <Py_ssize_t>found.len)
            lk_btree_read_end(self.t)
            if st == LK_OK:
                return None if found.data == NULL else owned(value)
            if st != LK_MISS:
                raise_error(&err)
        return self.fetch(key)

    cdef object fetch(self, lk_bytes key):
        """The same where a page must be read, or a writer waited for."""
        cdef uint8_t *value
        cdef uint32_t n
        cdef lk_error err
        cdef lk_status st
        self.enter()
        with nogil:
            st = lk_btree_get(self.t, key, &value, &n, &err)
            lk_btree_leave(self.t)
        if st != LK_OK:
            raise_error(&err)
        if value == NULL:
            return None
        try:
            return PyBytes_FromStringAndSize(<const char *>value, <Py_ssize_t>n)
        finally:
            free(value)

    def get_many(self, keys, default=None):
        """The values of many keys, each as it is when its turn comes: a list for a list or tuple of
        keys, with `default` where there is none; a `Column` for any other column, null where there
        is none."""
        cdef _ColumnIn column
        cdef list out
        if not isinstance(keys, list):
            column = column_in(keys, "keys", True)
            if not (isinstance(keys, tuple) and column.col.form == LK_COLUMN_SPANS):
                return self.get_column(column)
        out = []
        for key in keys:
            value = self.find(key)
            out.append(default if value is None else value)
        return out

    cdef Column get_column(self, _ColumnIn keys):
        cdef _Gather g = _Gather.__new__(_Gather)
        cdef lk_status st
        cdef lk_error err
        g.reserve(<Py_ssize_t>keys.col.count)
        self.enter()
        with nogil:
            st = btree_gather(self.t, &keys.col, g, &err)
            lk_btree_leave(self.t)
        if st != LK_OK:
            raise_error(&err)
        return g.column()

    # --- Writing.

    def put(self, key, value, *, durability=None):
        """Stores `value` under `key`, replacing what was there.

        `durability` is "process", "periodic" or "sync", the tree's by default: what the write
        survives once this returns. Costs a search and a frame in the log; now and then a checkpoint,
        which writes what has changed since the last one.
        """
        if (durability is None and PyBytes_CheckExact(key) and PyBytes_CheckExact(value)
                and self.write_fast(LK_KIND_PUT, key, value)):
            return
        self.write_row(LK_KIND_PUT, key_of(key), bytes_of(value, "value", LK_VALUE_BYTES_MAX),
                       durability)

    def __setitem__(self, key, value):
        self.put(key, value)

    def delete(self, key, *, durability=None):
        """Removes `key`; no error when it is not there. `durability` as for `put`."""
        if (durability is None and PyBytes_CheckExact(key)
                and self.write_fast(LK_KIND_DELETE, key, b"")):
            return
        self.write_row(LK_KIND_DELETE, key_of(key), key_of(b""), durability)

    def __delitem__(self, key):
        if self.exchange(LK_KIND_DELETE, key, b"", None) is None:
            raise KeyError(key)

    def setdefault(self, key, default=None, *, durability=None):
        """The value of `key`; where there is none, stores `default`, which is bytes-like, and
        returns that. Atomic."""
        value = self.exchange(LK_KIND_PUT, key, default, durability)
        if value is not None:
            return value
        return default if PyBytes_CheckExact(default) else bytes(default)

    def pop(self, key, *default, durability=None):
        """Removes `key` and returns its value; where there is none, `default`, or a KeyError.
        Atomic."""
        if len(default) > 1:
            raise TypeError(f"pop takes a key and at most one default, not {len(default)}")
        value = self.exchange(LK_KIND_DELETE, key, b"", durability)
        if value is not None:
            return value
        if default:
            return default[0]
        raise KeyError(key)

    cdef bint write_fast(self, lk_kind kind, object key, object value) except -1:
        cdef lk_error err
        cdef lk_status st
        if (self.durability == LK_DURABILITY_SYNC or not is_key_bytes(key)
                or PyBytes_GET_SIZE(value) > <Py_ssize_t>LK_VALUE_BYTES_MAX):
            return False
        st = lk_btree_try(self.t, kind, bytes_span(key), bytes_span(value), self.durability, &err)
        if st == LK_OK:
            return True
        if st == LK_BUSY or st == LK_MISS:
            return False
        raise_error(&err)

    cdef int write_row(self, lk_kind kind, _Bytes k, _Bytes v, durability) except -1:
        cdef lk_bytes key_span, value_span
        cdef lk_column keys, values
        cdef lk_btree_write w
        one_row(&keys, &key_span, k)
        one_row(&values, &value_span, v)
        self.prepare(&w, durability)
        w.kind = kind
        w.keys = &keys
        if kind == LK_KIND_PUT:
            w.values = &values
        return self.write_now(&w)

    cdef int prepare(self, lk_btree_write *w, durability) except -1:
        memset(w, 0, sizeof(w[0]))
        w.durability = self.durability if durability is None else durability_of(durability)
        return 0

    cdef int write_now(self, const lk_btree_write *w) except -1:
        cdef lk_error err
        cdef lk_status st
        self.enter()
        with nogil:
            st = lk_btree_write_all(self.t, w, &err)
            lk_btree_leave(self.t)
        if st != LK_OK:
            raise_error(&err)
        return 0

    cdef object exchange(self, lk_kind kind, key, value, durability):
        """What was there; a put is made where there is nothing, a delete where there is."""
        cdef _Bytes k = key_of(key), v
        cdef lk_bytes key_span, value_span
        cdef uint8_t *found = NULL
        cdef uint32_t n = 0
        cdef lk_error err
        cdef lk_status st
        cdef lk_durability how = self.durability if durability is None else durability_of(durability)
        if kind == LK_KIND_PUT and value is None:
            there = self.find(key)
            if there is not None:
                return there
        v = bytes_of(value, "value", LK_VALUE_BYTES_MAX)
        key_span.data = k.data
        key_span.len = k.len
        value_span.data = v.data
        value_span.len = v.len
        self.enter()
        with nogil:
            st = lk_btree_exchange(self.t, kind, key_span, value_span, how, &found, &n, &err)
            lk_btree_leave(self.t)
        if st != LK_OK:
            raise_error(&err)
        if found == NULL:
            return None
        try:
            return PyBytes_FromStringAndSize(<const char *>found, <Py_ssize_t>n)
        finally:
            free(found)

    def put_many(self, keys, values, *, durability=None):
        """Stores many rows at once: of equal keys the last one stays.

        `keys` and `values` are columns as for `DB.put_many`. They go in in the order of their keys,
        which is what a B-tree likes best, and rows behind the last key fill pages to nine tenths:
        sorted input into an empty tree is a bulk load. One frame in the log, so after a crash all
        of them are there or none; a reader beside the call may see some before others. Without the
        GIL.
        """
        self.write_columns(LK_KIND_PUT, keys, values, durability)

    def delete_many(self, keys, *, durability=None):
        """Removes many keys at once; `keys` is a column as for `put_many`, and atomic as that is."""
        self.write_columns(LK_KIND_DELETE, keys, None, durability)

    cdef int write_columns(self, lk_kind kind, keys, values, durability) except -1:
        cdef _ColumnIn k = column_in(keys, "keys", True)
        cdef _ColumnIn v = None
        cdef lk_btree_write w
        self.prepare(&w, durability)
        w.kind = kind
        w.keys = &k.col
        if kind == LK_KIND_PUT:
            v = column_in(values, "values", False)
            if v.col.count != k.col.count:
                raise ValueError(f"{k.col.count} keys and {v.col.count} values")
            w.values = &v.col
        if k.col.count == 0:
            return self.check_open()
        return self.write_now(&w)

    def delete_range(self, start, stop, *, durability=None):
        """Removes all keys from `start` up to `stop`, which stays; None is the beginning, the end.
        One record in the log; in the tree row after row. A range that ends before it starts is
        empty."""
        cdef WriteBatch batch = WriteBatch.__new__(WriteBatch)
        batch.delete_range(start, stop)
        self.write(batch, durability=durability)

    def batch(self, *, durability=None):
        """A context manager that collects writes and applies them at its end, as `write` does; an
        exception inside discards them."""
        cdef _BTreeBatch b = _BTreeBatch.__new__(_BTreeBatch)
        cdef lk_btree_write w
        self.prepare(&w, durability)  # refuses wrong arguments now
        self.check_open()
        b.target = self
        b.durability = durability
        return b

    def write(self, WriteBatch batch not None, *, durability=None):
        """Applies a `lsmkit.WriteBatch` in its order; the batch stays as it is. Atomic as `put_many`
        is. A batch with operands or deadlines is an OptionsError: a B-tree has neither."""
        cdef lk_btree_write w
        if batch.has_merge or batch.has_ttl:
            raise _errors.OptionsError(f"{self.path}: a B-tree has no merge operator and no ttl")
        self.prepare(&w, durability)
        if batch.records == 0:
            self.check_open()
            return
        w.body = batch.data
        w.body_bytes = batch.used
        w.records = batch.records
        batch.locked += 1
        try:
            self.write_now(&w)
        finally:
            batch.locked -= 1

    def sync(self):
        """Returns when all that was written before the call is on the disk."""
        cdef lk_error err
        cdef lk_status st
        self.enter()
        with nogil:
            st = lk_btree_sync(self.t, &err)
            lk_btree_leave(self.t)
        if st != LK_OK:
            raise_error(&err)

    # --- Reports.

    def _stats(self):
        cdef lk_btree_counters c
        cdef lk_btree_sizes z
        self.enter()
        with nogil:
            lk_btree_stats(self.t, &c, &z)
            lk_btree_leave(self.t)
        return {**c, **z}

    def _verify(self):
        """Counts, and the errors that were found."""
        cdef lk_btree_report r
        cdef lk_error err
        cdef lk_status st
        self.enter()
        with nogil:
            st = lk_btree_verify(self.t, &r, &err)
            lk_btree_leave(self.t)
        if st != LK_OK:
            raise_error(&err)
        errors = []
        if r.faults != 0:
            message = PyUnicode_DecodeUTF8(r.error.message, strlen(r.error.message), "replace")
            errors.append(corruption_error(&r.error, message,
                                           PyUnicode_DecodeFSDefault(r.error.path)))
        return {"pages": r.pages, "rows": r.rows, "bytes": r.bytes}, errors


cdef lk_status btree_gather(lk_btree *t, const lk_column *keys, _Gather g,
                            lk_error *err) noexcept nogil:
    """Reads every key of a column, a few under the latch at a time."""
    cdef uint8_t scratch[8]
    cdef lk_bytes key, found
    cdef size_t i
    cdef uint8_t *value
    cdef uint32_t n
    cdef lk_status st = LK_OK
    cdef bint room = True, is_there
    g.offsets[0] = 0
    lk_btree_read_begin(t)
    for i in range(keys.count):
        if i % 64 == 63:
            lk_btree_read_end(t)  # writers get a turn
            lk_btree_read_begin(t)
        key = lk_column_row(keys, i, scratch)
        st = lk_btree_peek(t, key, &found, err)
        is_there = st == LK_OK and found.data != NULL
        if is_there:
            room = g.add(<Py_ssize_t>i, found.data, found.len)
        elif st == LK_MISS:
            lk_btree_read_end(t)
            st = lk_btree_get(t, key, &value, &n, err)
            is_there = st == LK_OK and value != NULL
            if is_there:
                room = g.add(<Py_ssize_t>i, value, n)
            free(value)
            lk_btree_read_begin(t)
        if not room:
            st = lk_fail(err, LK_NOMEM, 0, NULL, 0, 0, 0, b"no memory for the values")
        if st != LK_OK:
            break
        g.validity[i] = is_there
        if not is_there:
            g.offsets[i + 1] = g.offsets[i]
    lk_btree_read_end(t)
    return st


@cython.final
cdef class _BTreeBatch(WriteBatch):
    """What `batch()` of a B+tree gives: a WriteBatch that is applied when its block ends well."""

    cdef BTreeHandle target
    cdef object durability

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self.target.write(self, durability=self.durability)
        self.clear()
        return False


# --- Rows in order -----------------------------------------------------------------------------

cdef class _BTreeRows:
    """Rows that were fetched, and where to go on."""

    cdef BTreeHandle of
    cdef lk_btree_scan scan
    cdef bint is_running

    def __dealloc__(self):
        lk_btree_scan_deinit(&self.scan)

    cdef int start(self, bytes lower, upper, bint reverse) except -1:
        cdef lk_error err
        cdef lk_bytes low = bytes_span(lower), high
        cdef bytes end = upper
        high.data = NULL
        high.len = 0
        if end is not None:
            high = bytes_span(end)
        self.check_idle()
        lk_btree_scan_deinit(&self.scan)
        if lk_btree_scan_init(&self.scan, self.of.t, low, high, reverse, &err) != LK_OK:
            raise_error(&err)
        return 0

    cdef int check_idle(self) except -1:
        if self.is_running:
            raise RuntimeError("it is already being read by another thread")
        return 0

    cdef bint fetch(self, uint32_t rows) except -1:
        """The next rows; False at the end."""
        cdef lk_error err
        cdef lk_status st
        self.check_idle()
        self.of.enter()
        self.is_running = True
        with nogil:
            st = lk_btree_scan_fill(&self.scan, rows, &err)
            lk_btree_leave(self.of.t)
        self.is_running = False
        if st != LK_OK:
            raise_error(&err)
        return self.scan.count != 0


@cython.final
cdef class BTreeScan(_BTreeRows):
    """Rows in key order: `(key, value)` pairs, keys or values. Made by `scan` and its kin."""

    cdef uint32_t at, count, ask
    cdef scan_what what

    def __init__(self, *args, **kwargs):
        raise TypeError("BTreeScan is made by scan() of a B-tree")

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == self.count:
            self.at = self.count = 0
            if not self.fetch(self.ask):
                raise StopIteration
            self.count = self.scan.count
            self.ask = LK_BTREE_ROWS
        elif not lk_btree_is_open(self.of.t):
            self.of.check_open()
        cdef lk_btree_row row = lk_btree_scan_row(&self.scan, self.at)
        self.at += 1
        if self.what == SCAN_VALUES:
            return PyBytes_FromStringAndSize(<const char *>row.value.data,
                                             <Py_ssize_t>row.value.len)
        key = PyBytes_FromStringAndSize(<const char *>row.key.data, <Py_ssize_t>row.key.len)
        if self.what == SCAN_KEYS:
            return key
        return key, PyBytes_FromStringAndSize(<const char *>row.value.data,
                                              <Py_ssize_t>row.value.len)


def btree_scan(BTreeHandle of not None, str what not None, start=None, stop=None, *, prefix=None,
               bint reverse=False, bint include_start=True, bint include_stop=False):
    """See lsmkit.btree.BTree.scan; `what` is "pairs", "keys" or "values"."""
    cdef BTreeScan x = BTreeScan.__new__(BTreeScan)
    lower, upper = scan_bounds(start, stop, prefix, include_start, include_stop)
    of.check_open()
    x.of = of
    x.what = {"pairs": SCAN_PAIRS, "keys": SCAN_KEYS, "values": SCAN_VALUES}[what]
    x.ask = 32
    x.start(lower, upper, reverse)
    return x


@cython.final
cdef class BTreeCursor(_BTreeRows):
    """A place among the rows of a B-tree; it moves both ways.

    Made by `cursor()` of a B-tree, and then stands nowhere until it seeks. Moves return whether it
    stands at a row, which is also `valid`; where it does not, `key`, `value`, `next` and `prev` are
    a ValueError, and it can seek again. It stands at a copy: what is written meanwhile, it sees with
    the rows that it fetches next, up to 256 at a time. A context manager; one thread at a time.
    """

    cdef uint32_t at
    cdef bint is_valid, is_reverse

    def __init__(self, *args, **kwargs):
        raise TypeError("BTreeCursor is made by cursor() of a B-tree")

    def seek(self, key):
        """To the first key that is not less than `key`; returns whether there is one."""
        return self.go(bound(key, "key"), None, False, 1)

    def seek_for_prev(self, key):
        """To the last key that is not greater than `key`; returns whether there is one."""
        return self.go(b"", bound_after(bound(key, "key")), True, 1)

    def seek_to_first(self):
        """To the first key of all; returns whether there is one."""
        return self.go(b"", None, False, 1)

    def seek_to_last(self):
        """To the last key of all; returns whether there is one."""
        return self.go(b"", None, True, 1)

    def next(self):
        """To the next key; returns whether there is one. ValueError unless it is `valid`."""
        return self.step(False)

    def prev(self):
        """To the key before; returns whether there is one. ValueError unless it is `valid`."""
        return self.step(True)

    @property
    def valid(self):
        """Whether it stands at a row."""
        self.check_cursor()
        return self.is_valid

    @property
    def key(self):
        """The key of the row that it stands at; a ValueError unless it is `valid`."""
        return self.row_key()

    @property
    def value(self):
        """The value of the row that it stands at; a ValueError unless it is `valid`."""
        self.check_valid()
        cdef lk_bytes value = lk_btree_scan_row(&self.scan, self.at).value
        return PyBytes_FromStringAndSize(<const char *>value.data, <Py_ssize_t>value.len)

    def close(self):
        """Lets go of the tree; everything but `close` is a ClosedError from now on."""
        self.check_idle()
        self.of = None
        self.is_valid = False

    def __enter__(self):
        self.check_cursor()
        return self

    def __exit__(self, kind, error, traceback):
        self.close()

    cdef int check_cursor(self) except -1:
        if self.of is None:
            raise _errors.ClosedError("the cursor is closed")
        self.of.check_open()
        return self.check_idle()

    cdef int check_valid(self) except -1:
        self.check_cursor()
        if not self.is_valid:
            raise ValueError("the cursor stands at no row")
        return 0

    cdef bytes row_key(self):
        self.check_valid()
        cdef lk_bytes key = lk_btree_scan_row(&self.scan, self.at).key
        return PyBytes_FromStringAndSize(<const char *>key.data, <Py_ssize_t>key.len)

    cdef bint go(self, bytes lower, upper, bint reverse, uint32_t rows) except -1:
        self.check_cursor()
        self.is_valid = False
        self.start(lower, upper, reverse)
        self.is_reverse = reverse
        self.at = 0
        self.is_valid = self.fetch(rows)
        return self.is_valid

    cdef bint step(self, bint reverse) except -1:
        cdef bytes key
        self.check_valid()
        if reverse != self.is_reverse:
            key = self.row_key()
            if reverse:
                return self.go(b"", key, True, 32)
            return self.go(bound_after(key), None, False, 32)
        self.at += 1
        if self.at == self.scan.count:
            self.is_valid = False
            self.at = 0
            self.is_valid = self.fetch(LK_BTREE_ROWS)
        return self.is_valid


def btree_cursor(BTreeHandle of not None):
    """See lsmkit.btree.BTree.cursor."""
    cdef BTreeCursor c = BTreeCursor.__new__(BTreeCursor)
    of.check_open()
    c.of = of
    return c
