# writes.pyx: writing to one tree, singly, in batches and in columns.
#
# Callers   lsmkit.tree.WritableTree is a Python subclass of Tree that overrides none of the hot
#           methods.
# Threads   any. The hot paths keep the GIL and take the write lock with one compare-and-swap; where
#           that fails, or there is no room, the call goes on in lk_store_write without the GIL.
# Always    nothing that could run Python code happens while the write lock is held.

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc


cdef void one_row(lk_column *column, lk_bytes *span, _Bytes b) noexcept:
    """A column of these bytes alone; they and `span` must outlive it."""
    span.data = b.data
    span.len = b.len
    memset(column, 0, sizeof(column[0]))
    column.form = LK_COLUMN_SPANS
    column.count = 1
    column.spans = span


cdef _Bytes range_stop(_Bytes start, stop):
    """The end of a range as a record says it: b"" stands for the end of the keys. None where the
    range is empty: then there is nothing to write."""
    cdef _Bytes b
    if stop is None:
        return key_of(b"")
    b = bytes_of(stop, "stop", LK_KEY_BYTES_MAX)
    return b if lk_key_compare(start.data, start.len, b.data, b.len) < 0 else None


cdef class Tree(Reader):
    """Reads and writes one tree of an open store."""

    cdef lk_durability durability
    cdef bint is_fast       # the store's own durability asks for no sync
    cdef bint is_plain      # ... and rows have no deadline that the tree gives them
    cdef uint64_t ttl_us    # that the tree gives to rows; LK_TTL_NONE
    cdef lk_operator *op    # NULL: the tree has none
    cdef lk_operator **ops  # references to that and those before it, which a call may still use
    cdef int op_count

    def __dealloc__(self):
        for i in range(self.op_count):
            lk_operator_unref(self.ops[i])
        PyMem_Free(self.ops)

    def _attach(self, Handle handle, uint32_t tree):
        cdef lk_view *v
        cdef lk_operator *op
        cdef lk_operator **more = <lk_operator **>PyMem_Realloc(
            self.ops, (self.op_count + 1) * sizeof(lk_operator *))
        if more == NULL:
            raise MemoryError()
        self.ops = more
        self.handle = handle
        self.s = handle.s
        self.tree = tree
        self.seq = LK_SEQ_MAX
        self.durability = handle.durability
        self.is_fast = handle.durability != LK_DURABILITY_SYNC and not handle.read_only
        handle.enter()  # another thread may be closing it
        v = lk_store_view(handle.s)
        self.ttl_us = lk_settings_tree(v.settings, tree).ttl_us
        op = lk_settings_tree(v.settings, tree).op
        if op != NULL and op != self.op:
            self.ops[self.op_count] = lk_operator_ref(op)
            self.op_count += 1
        self.op = op
        lk_view_unref(v)
        lk_store_leave(handle.s)
        self.is_plain = self.is_fast and self.ttl_us == LK_TTL_NONE

    def _detach(self):
        """The tree was dropped: what is read and written without looking whether it is there, looks
        from now on."""
        self.is_fast = self.is_plain = False
        self.seq = 0

    # --- One row.

    def put(self, key, value, *, ttl=None, durability=None, timeout=None):
        """Stores `value` under `key`, replacing what was there.

        `ttl` is for how many seconds, from now on, by the clock of the wall: then the row is as if
        it were deleted, for every reader. 0 is at once, None as long as the store's option `ttl`
        says, `math.inf` for ever. `durability` is "process", "periodic" or "sync", the store's by default: what the write
        survives once this returns. `timeout` bounds the seconds that it may wait for room; after
        that it raises Busy and nothing was written. Costs one frame in the log, about 40 ns of C.
        """
        if (PyBytes_CheckExact(key) and PyBytes_CheckExact(value) and durability is None
                and timeout is None and ttl is None and self.put_now(LK_KIND_PUT, key, value)):
            return
        self.put_slow(LK_KIND_PUT, key, value, ttl, durability, timeout)

    def __setitem__(self, key, value):
        if (PyBytes_CheckExact(key) and PyBytes_CheckExact(value)
                and self.put_now(LK_KIND_PUT, key, value)):
            return
        self.put_slow(LK_KIND_PUT, key, value, None, None, None)

    def delete(self, key, *, durability=None, timeout=None):
        """Removes `key`; no error when it is not there. Keywords as for `put`."""
        if (PyBytes_CheckExact(key) and durability is None and timeout is None
                and self.put_now(LK_KIND_DELETE, key, b"")):
            return
        self.put_slow(LK_KIND_DELETE, key, b"", None, durability, timeout)

    def delete_range(self, start, stop, *, durability=None, timeout=None):
        """Removes all keys from `start` up to `stop`, which stays; None is the beginning, the end.

        One record in the log, however many rows there are: they are hidden at once, and their space
        comes back by compaction. Reads pass over them without looking at them. A range that ends
        before it starts is empty. Keywords as for `put`.
        """
        cdef _Bytes a = key_of(b"" if start is None else start)
        cdef _Bytes b = range_stop(a, stop)
        if b is None:
            check_writing(self, durability, timeout)
            return
        self.write_row(LK_KIND_DELETE_RANGE, a, b, None, durability, timeout)

    def __delitem__(self, key):
        if self.exchange(LK_KIND_DELETE, key, b"", None, None, None) is None:
            raise KeyError(key)

    def merge(self, key, operand, *, durability=None, timeout=None):
        """Stores an operand for `key`, of which reads make the value by the store's merge operator.

        Reads nothing, so it costs what a `put` does. `operand` is bytes-like; an int or a float is
        taken too where the operator keeps such numbers. Raises ValueError, and stores nothing, for
        an operand that the operator refuses, OptionsError where there is no operator. Keywords as
        for `put`.
        """
        if (PyBytes_CheckExact(key) and PyBytes_CheckExact(operand) and durability is None
                and timeout is None and self.op != NULL and operator_takes(self.op, operand)
                and self.put_now(LK_KIND_MERGE, key, operand)):
            return
        self.write_row(LK_KIND_MERGE, key_of(key), operand_of(self.operator(), operand), None,
                       durability, timeout)

    cdef lk_operator *operator(self) except NULL:
        if self.op == NULL:
            self.handle.check_open()
            what = "store" if self.tree == 0 else "keyspace"
            raise _errors.OptionsError(f"{self.handle.path}: there is no merge operator; open the "
                                       f"{what} with merge_operator=, one of lsmkit.merge")
        return self.op

    def setdefault(self, key, default=None, *, ttl=None, durability=None, timeout=None):
        """The value of `key`; where there is none, stores `default`, which is bytes-like, and
        returns that. Atomic: of several threads one stores, and all get the same. Keywords as for
        `put`."""
        value = self.exchange(LK_KIND_PUT, key, default, ttl, durability, timeout)
        if value is not None:
            return value
        return default if PyBytes_CheckExact(default) else bytes(default)

    def pop(self, key, *default, durability=None, timeout=None):
        """Removes `key` and returns its value; where there is none, `default`, or a KeyError.
        Atomic: a value is returned once. Keywords as for `put`."""
        if len(default) > 1:
            raise TypeError(f"pop takes a key and at most one default, not {len(default)}")
        value = self.exchange(LK_KIND_DELETE, key, b"", None, durability, timeout)
        if value is not None:
            return value
        if default:
            return default[0]
        raise KeyError(key)

    cdef object exchange(self, lk_kind kind, key, value, ttl, durability, timeout):
        """The value that is there. A put is made where there is none, a delete where there is one:
        if the key was written between the look and the write, both are done again."""
        cdef _Bytes k = key_of(key), v = None
        cdef lk_bytes key_span, value_span
        cdef lk_column keys, values
        cdef lk_view *view
        cdef lk_write w
        cdef lk_check check
        cdef lk_checks checks
        self.prepare(&w, ttl, durability, timeout)
        memset(&checks, 0, sizeof(checks))
        while True:
            view = self.pin(&checks.moment)
            try:
                found = self.fetch_from(view, k.data, k.len,
                                        lk_hash_key(self.tree, k.data, k.len), checks.moment)
            finally:
                self.unpin(view)
            if (found is None) == (kind == LK_KIND_DELETE):
                return found
            if v is None:
                v = bytes_of(value, "value", LK_VALUE_BYTES_MAX)
                one_row(&keys, &key_span, k)
                one_row(&values, &value_span, v)
                w.kind = kind
                w.keys = &keys
                w.values = &values
                w.records = 1
                memset(&check, 0, sizeof(check))
                check.tree = self.tree
                check.start = key_span
                checks.items = &check
                checks.count = 1
                w.checks = &checks
            if self.write_now(&w):
                return found

    cdef bint put_now(self, lk_kind kind, object key, object value) noexcept:
        """Into the active segment, if it has room and nobody holds its lock; both are bytes."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(key), m = PyBytes_GET_SIZE(value)
        cdef const uint8_t *k = <const uint8_t *>PyBytes_AS_STRING(key)
        if n > <Py_ssize_t>LK_KEY_BYTES_MAX or m > <Py_ssize_t>LK_VALUE_BYTES_MAX:
            return False
        if not self.is_plain:
            return self.is_fast and lk_store_try_put_for(
                self.s, self.tree, kind, k, <uint32_t>n, <const uint8_t *>PyBytes_AS_STRING(value),
                <uint32_t>m, self.ttl_us) == LK_OK
        return lk_store_try_put(self.s, self.tree, kind, k, <uint32_t>n,
                                <const uint8_t *>PyBytes_AS_STRING(value), <uint32_t>m,
                                lk_hash_key(self.tree, k, <size_t>n)) == LK_OK

    cdef int put_slow(self, lk_kind kind, key, value, ttl, durability, timeout) except -1:
        self.write_row(kind, key_of(key), bytes_of(value, "value", LK_VALUE_BYTES_MAX), ttl,
                       durability, timeout)
        return 0

    cdef int write_row(self, lk_kind kind, _Bytes k, _Bytes v, ttl, durability, timeout) except -1:
        cdef lk_bytes key_span, value_span
        cdef lk_column keys, values
        cdef lk_write w
        one_row(&keys, &key_span, k)
        one_row(&values, &value_span, v)
        self.prepare(&w, ttl, durability, timeout)
        w.kind = kind
        w.keys = &keys
        w.values = &values
        w.records = 1
        self.write_now(&w)
        return 0

    cdef int prepare(self, lk_write *w, ttl, durability, timeout) except -1:
        self.check_open()
        memset(w, 0, sizeof(w[0]))
        w.durability = self.durability if durability is None else durability_of(durability)
        w.timeout_ns = timeout_ns(timeout)
        w.tree = self.tree
        w.ttl_us = self.ttl_us if ttl is None else ttl_us_of(ttl)
        w.has_ttl = w.ttl_us != LK_TTL_NONE
        return 0

    cdef bint write_now(self, const lk_write *w) except -1:
        """False when a condition does not hold."""
        cdef lk_error err
        cdef lk_status st
        self.handle.enter()
        with nogil:
            st = lk_store_write(self.s, w, &err)
            lk_store_leave(self.s)
        if st == LK_MISS:
            return False
        if st != LK_OK:
            raise_error(&err)
        return True

    # --- Columns.

    def put_many(self, keys, values, *, ttl=None, durability=None, timeout=None, source=None,
                 seq=None):
        """Stores many rows at once, atomically and in order: of equal keys the last one stays.
        `ttl` holds for all of them, as for `put`.

        `keys` and `values` are columns: a list or tuple of bytes-like objects, a NumPy array
        (S<n>, (n, width) uint8, integers or floats in one dimension), an Arrow array, or
        `(data, offsets)`. Integers as keys are big-endian with the sign bit flipped, so that they
        sort as numbers; as values little-endian. Raises ValueError when the lengths differ or a
        row is null. Costs about 30 ns a row beyond the copy; runs without the GIL.

        With `source` and `seq` it is applied once, see `write`: False for a repeat, else True.
        """
        if (durability is None and timeout is None and ttl is None and source is None
                and seq is None and self.is_plain and self.put_lists(keys, values)):
            return True
        return self.write_columns(LK_KIND_PUT, keys, values, ttl, durability, timeout, source, seq)

    def delete_many(self, keys, *, durability=None, timeout=None, source=None, seq=None):
        """Removes many keys at once, atomically; `keys` is a column as for `put_many`, and so are
        the keywords and what is returned."""
        return self.write_columns(LK_KIND_DELETE, keys, None, None, durability, timeout, source,
                                  seq)

    def merge_many(self, keys, operands, *, durability=None, timeout=None, source=None,
                   seq=None):
        """Stores many operands at once, atomically; `keys` and `operands` are columns as for
        `put_many`. Operands of equal keys are combined first, so that each key is logged once;
        those of a Custom that is not associative are logged as they are, in their order.

        Arrays of integers or floats of any width are operands where the operator keeps such
        numbers. Raises ValueError, and stores nothing, for an operand that the operator refuses
        (named by its index) or that does not fit others of its key. Runs without the GIL, but for
        Custom. Costs about 20 ns a row in C. `source`, `seq` and what is returned as for `put_many`.
        """
        return merge_columns(self, keys, operands, durability, timeout, source, seq)

    cdef bint write_columns(self, lk_kind kind, keys, values, ttl, durability, timeout, source,
                            seq) except -1:
        cdef _ColumnIn k = column_in(keys, "keys", True)
        cdef _ColumnIn v = None
        cdef lk_write w
        self.prepare(&w, ttl, durability, timeout)
        held = write_once(&w, source, seq)
        w.kind = kind
        w.keys = &k.col
        w.records = k.col.count
        if values is not None:
            v = column_in(values, "values", False)
            if v.col.count != k.col.count:
                raise ValueError(f"{k.col.count} keys and {v.col.count} values")
            w.values = &v.col
        elif kind == LK_KIND_PUT:
            raise TypeError("values must be a column of rows, not None")
        if w.records == 0 and held is None:
            self.handle.check_open()
            return True
        return self.write_now(&w)

    cdef bint put_lists(self, keys, values) except -1:
        """Lists of bytes straight into the log, copied under the GIL; False: not here, not now."""
        cdef uint64_t key_bytes = 0, value_bytes = 0, body
        cdef Py_ssize_t n, m
        cdef uint8_t *to
        cdef lk_error err
        cdef lk_status st
        if FREE_THREADED or type(keys) is not list or type(values) is not list:
            return False
        n = list_sizes(keys, LK_KEY_BYTES_MAX, &key_bytes)
        if n <= 0 or n > <Py_ssize_t>0x7FFFFFFF:
            return False
        m = list_sizes(values, LK_VALUE_BYTES_MAX, &value_bytes)
        if m != n:
            return False
        body = <uint64_t>n * lk_record_bytes(self.tree, 0, 0) + key_bytes + value_bytes
        if lk_store_try_begin(self.s, body, <uint32_t>n, &to) != LK_OK:
            return False
        copy_lists(self.tree, keys, values, n, to)
        with nogil:
            st = lk_store_commit(self.s, body, <uint32_t>n, &err)
        if st != LK_OK:
            raise_error(&err)
        return True

    # --- Batches.

    def batch(self, *, durability=None, timeout=None, source=None, seq=None):
        """A context manager that collects writes and applies them at its end, atomically; an
        exception inside discards them.

        With `source` and `seq` they are applied once, see `write`; the batch's `applied` then says
        whether they were.
        """
        cdef _BatchContext b = _BatchContext.__new__(_BatchContext)
        cdef lk_write w
        self.prepare(&w, None, durability, timeout)  # refuses wrong arguments now
        write_once(&w, source, seq)
        b.target = self
        b.tree = self.tree
        b.is_bound = True
        b.durability = durability
        b.timeout = timeout
        b.source = source
        b.seq = seq
        self.check_open()
        return b

    def write(self, WriteBatch batch not None, *, durability=None, timeout=None, source=None,
              seq=None):
        """Applies a WriteBatch, atomically and in its order; the batch stays as it is. True.

        Writes that name no keyspace go here, the others to theirs.

        `source` (a name) and `seq` (a number from 0 that rises with each write of that source) make
        it exactly once: both are stored with the writes, in the same frame, and a repeat, that is
        any `seq` that is not greater than the one stored, applies nothing and returns False.
        `position(source)` says where to go on.
        """
        cdef lk_write w
        cdef uint8_t *to
        cdef lk_error err
        cdef lk_status st
        batch = batch.bound_to(self)
        cdef bint stamp = batch.has_ttl or self.handle.has_ttl
        if batch.has_merge:
            batch.check_operands(self)
        if (not stamp and durability is None and timeout is None and source is None and seq is None
                and self.is_fast and 0 < batch.records < 0x7FFFFFFF
                and lk_store_try_begin(self.s, batch.used, <uint32_t>batch.records, &to) == LK_OK):
            batch.locked += 1
            with nogil:
                memcpy(to, batch.data, batch.used)
                st = lk_store_commit(self.s, batch.used, <uint32_t>batch.records, &err)
            batch.locked -= 1
            if st != LK_OK:
                raise_error(&err)
            return True
        self.prepare(&w, None, durability, timeout)
        held = write_once(&w, source, seq)
        if batch.records == 0 and held is None:
            self.handle.check_open()
            return True
        w.stamp = stamp
        w.body = batch.data
        w.body_bytes = batch.used
        w.records = batch.records
        batch.locked += 1
        try:
            return self.write_now(&w)
        finally:
            batch.locked -= 1

    def position(self, source):
        """The greatest `seq` that was written with this `source`, or None: after a crash, go on
        with what comes behind it. Costs a get."""
        return source_position(self.handle, source)


cdef extern from * nogil:
    """
    #ifdef Py_GIL_DISABLED
    #define LK_FREE_THREADED 1
    #else
    #define LK_FREE_THREADED 0
    #endif
    #define lk_prefetch(p) __builtin_prefetch(p)
    """
    void lk_prefetch(const void *p)
    const bint FREE_THREADED "LK_FREE_THREADED"


cdef enum:
    COPY_AHEAD = 8  # objects in flight: enough to hide a miss


cdef void copy_lists(uint32_t tree, object keys, object values, Py_ssize_t n, uint8_t *to) noexcept:
    cdef PyObject **k = sequence_items(<PyObject *>keys)
    cdef PyObject **v = sequence_items(<PyObject *>values)
    cdef Py_ssize_t i
    for i in range(n):
        if i + COPY_AHEAD < n:
            lk_prefetch(k[i + COPY_AHEAD])
            lk_prefetch(v[i + COPY_AHEAD])
            lk_prefetch(<char *>v[i + COPY_AHEAD] + 64)
        to = lk_record_write(to, tree, LK_KIND_PUT, <const uint8_t *>item_data(k[i]),
                             <size_t>item_bytes(k[i]), <const uint8_t *>item_data(v[i]),
                             <size_t>item_bytes(v[i]))


cdef enum:
    DEFAULT_TREE = 0xFFFFFFFF  # in a batch of which it is open whose it is: the default keyspace
    NO_TREE = 0xFFFFFFFE       # an exception is set


cdef class WriteBatch:
    """Writes collected in memory, as they will stand in the log; applied by `db.write(batch)`.

    Later writes of a key win over earlier ones. `len` counts the writes, `nbytes` their bytes. One
    thread at a time; it may be written to several stores, one after another.
    """

    cdef uint8_t *data
    cdef size_t used, capacity
    cdef uint64_t records
    cdef bint has_ttl        # some put brings a ttl of its own
    cdef bint has_merge
    cdef int locked          # being written without the GIL
    cdef uint32_t tree       # of writes that name no keyspace
    cdef bint is_bound       # `tree` says so; else it is that of whoever writes the batch
    cdef bint is_mixed       # not bound, and some writes name the default keyspace
    cdef Tree latest         # the keyspace that was named last
    cdef dict named          # all that were, by number; None: none was

    def __dealloc__(self):
        PyMem_Free(self.data)

    def __len__(self):
        return self.records

    def __bool__(self):
        return self.records > 0

    def __repr__(self):
        return f"<lsmkit.{type(self).__name__} of {self.records} writes>"

    @property
    def nbytes(self):
        """Bytes that the writes take in the log."""
        return self.used

    def put(self, key, value, *, ttl=None, keyspace=None):
        """Stores `value` under `key` when the batch is applied, for `ttl` seconds from then on (see
        `DB.put`); in `keyspace`, if one is given: a `Keyspace` of the store that the batch is for,
        or the `DB`, for its default keyspace."""
        cdef uint32_t tree = self.tree if keyspace is None else self.tree_of(keyspace)
        if ttl is not None:
            self.put_for(tree, key, value, ttl_us_of(ttl))
            return
        if (PyBytes_CheckExact(key) and PyBytes_CheckExact(value)
                and PyBytes_GET_SIZE(key) <= <Py_ssize_t>LK_KEY_BYTES_MAX
                and PyBytes_GET_SIZE(value) <= <Py_ssize_t>LK_VALUE_BYTES_MAX):
            self.append(tree, LK_KIND_PUT, <const uint8_t *>PyBytes_AS_STRING(key),
                        <size_t>PyBytes_GET_SIZE(key), <const uint8_t *>PyBytes_AS_STRING(value),
                        <size_t>PyBytes_GET_SIZE(value))
            return
        cdef _Bytes k = key_of(key)
        cdef _Bytes v = bytes_of(value, "value", LK_VALUE_BYTES_MAX)
        self.append(tree, LK_KIND_PUT, k.data, k.len, v.data, v.len)

    cdef int put_for(self, uint32_t tree, key, value, uint64_t ttl_us) except -1:
        """With the ttl where the log will have the deadline."""
        cdef _Bytes k = key_of(key)
        cdef _Bytes v = bytes_of(value, "value", LK_VALUE_BYTES_MAX)
        self.append_headed(tree, LK_KIND_PUT_UNTIL, k.data, k.len, <const uint8_t *>&ttl_us,
                           sizeof(ttl_us), v.data, v.len)
        self.has_ttl = True
        return 0

    def delete(self, key, *, keyspace=None):
        """Removes `key` when the batch is applied; `keyspace` as for `put`."""
        cdef uint32_t tree = self.tree if keyspace is None else self.tree_of(keyspace)
        cdef _Bytes k = key_of(key)
        self.append(tree, LK_KIND_DELETE, k.data, k.len, NULL, 0)

    def merge(self, key, operand, *, keyspace=None):
        """Stores an operand for `key`, which is bytes-like, when the batch is applied; the merge
        operator of its keyspace looks at it then, and refuses the batch as `DB.merge` would.
        `keyspace` as for `put`."""
        cdef uint32_t tree = self.tree if keyspace is None else self.tree_of(keyspace)
        cdef _Bytes k = key_of(key)
        cdef _Bytes v = bytes_of(operand, "operand", LK_VALUE_BYTES_MAX)
        self.append(tree, LK_KIND_MERGE, k.data, k.len, v.data, v.len)
        self.has_merge = True

    def delete_range(self, start, stop, *, keyspace=None):
        """Removes all keys from `start` up to `stop`, which stays, when the batch is applied: those
        that it stores before this, not those that it stores after it. None is the beginning, the
        end. `keyspace` as for `put`."""
        cdef uint32_t tree = self.tree if keyspace is None else self.tree_of(keyspace)
        cdef _Bytes a = key_of(b"" if start is None else start)
        cdef _Bytes b = range_stop(a, stop)
        if b is not None:
            self.append(tree, LK_KIND_DELETE_RANGE, a.data, a.len, b.data, b.len)

    def clear(self):
        """Forgets all writes; keeps the memory."""
        self.check_unlocked()
        self.used = 0
        self.records = 0
        self.has_ttl = self.has_merge = False
        self.is_mixed = False
        self.latest = None
        self.named = None

    cdef int check_unlocked(self) except -1:
        if self.locked:
            raise RuntimeError("the batch is being written by another thread")
        return 0

    cdef int append(self, uint32_t tree, lk_kind kind, const uint8_t *key, size_t n,
                    const uint8_t *value, size_t m) except -1:
        return self.append_headed(tree, kind, key, n, NULL, 0, value, m)

    cdef int append_headed(self, uint32_t tree, lk_kind kind, const uint8_t *key, size_t n,
                           const uint8_t *head, size_t h, const uint8_t *value,
                           size_t m) except -1:
        self.check_unlocked()
        self.reserve(lk_record_bytes(tree, n, h + m))
        self.used = <size_t>(lk_record_write_headed(self.data + self.used, tree, kind, key, n, head,
                                                    h, value, m) - self.data)
        self.records += 1
        return 0

    cdef int reserve(self, size_t more) except -1:
        cdef size_t want
        cdef uint8_t *larger
        if self.used + more > self.capacity:
            want = max(self.capacity * 2, self.used + more, <size_t>4096)
            larger = <uint8_t *>PyMem_Realloc(self.data, want)
            if larger == NULL:
                raise MemoryError()
            self.data = larger
            self.capacity = want
        return 0

    # --- Keyspaces.

    cdef Handle store(self):
        """The one that the batch is for; None: any."""
        return None if self.latest is None else self.latest.handle

    cdef uint32_t tree_of(self, keyspace) except? NO_TREE:
        """The number under which a write for the keyspace stands in the batch."""
        cdef Tree tree
        cdef Handle store = self.store()
        if not isinstance(keyspace, Tree):
            raise TypeError(f"keyspace must be a Keyspace, not {type(keyspace).__name__}")
        tree = <Tree>keyspace
        if tree is not self.latest:
            if store is not None and store is not tree.handle:
                raise ValueError("keyspace is one of another store than the batch is for")
            tree.check_open()
            self.latest = tree
            if self.named is None:
                self.named = {}
            self.named[tree.tree] = tree
        if tree.tree == 0 and not self.is_bound:
            self.is_mixed = True
            return DEFAULT_TREE
        return tree.tree

    cdef WriteBatch bound_to(self, Tree target):
        """The batch as `target` can write it: this one, or a copy with all keyspaces settled."""
        cdef WriteBatch copy
        cdef Tree tree
        cdef Handle store = self.store()
        target.check_open()
        if store is not None and store is not target.handle:
            raise ValueError("the batch is for another store")
        if target.handle.dropped is not None and self.named is not None:
            for tree in self.named.values():
                tree.check_open()
        if not self.is_mixed and (self.is_bound or target.tree == 0):
            return self
        copy = WriteBatch.__new__(WriteBatch)
        copy.reserve(self.used + self.records * 4)
        self.copy_for(target.tree, copy)
        return copy

    cdef void copy_for(self, uint32_t home, WriteBatch to) noexcept:
        """The records, into `to`, which has room: those without a keyspace become `home`'s."""
        cdef const uint8_t *at = self.data
        cdef uint8_t *out = to.data
        cdef lk_record r
        cdef uint64_t i
        for i in range(self.records):
            r = lk_record_at(at)
            at = r.value + r.value_len
            if r.tree == 0 and not self.is_bound:
                r.tree = home
            elif r.tree == DEFAULT_TREE:
                r.tree = 0
            out = lk_record_write(out, r.tree, r.kind, r.key, r.key_len, r.value, r.value_len)
        to.used = <size_t>(out - to.data)
        to.records = self.records
        to.named = self.named
        to.has_ttl = self.has_ttl
        to.has_merge = self.has_merge

    cdef int check_operands(self, Tree target) except -1:
        """Of a batch that is bound to `target`: each operand, by the operator of its keyspace."""
        cdef const uint8_t *at = self.data
        cdef Tree tree = target
        cdef lk_record r
        cdef lk_bytes span
        cdef lk_error err
        cdef uint64_t i
        for i in range(self.records):
            r = lk_record_at(at)
            at = r.value + r.value_len
            if r.kind != LK_KIND_MERGE:
                continue
            if r.tree != tree.tree:
                tree = target if r.tree == target.tree else <Tree>self.named[r.tree]
            span.data = r.value
            span.len = r.value_len
            if tree.operator().check(tree.op, span, &err) != LK_OK:
                text = err.message.decode("utf-8", "replace")
                raise ValueError(f"write {i} of the batch: {text}")
        return 0


@cython.final
cdef class _BatchContext(WriteBatch):
    """What `db.batch()` gives: a WriteBatch that is applied when its block ends well. `applied`
    then is True, or False where it repeats what its source has written before; until then None."""

    cdef Tree target
    cdef object durability, timeout, source, seq
    cdef readonly object applied

    cdef Handle store(self):
        return self.target.handle

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self.applied = self.target.write(self, durability=self.durability,
                                             timeout=self.timeout, source=self.source,
                                             seq=self.seq)
        self.clear()
        return False
