# handles.pyx: a store's handle, and reading one tree of it.
#
# Owns      Handle owns the C store; every other object holds a reference to its Handle, so that the
#           C store is freed last.
# Threads   any. A call that may block drops the GIL, and is bracketed by lk_store_enter/leave, so
#           that close() waits for it; a short read is inside a guard section and keeps the GIL.
# Always    nothing that belongs to a store is freed in a child of the process that opened it: the
#           mappings, threads and locks stayed with the parent.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.stdlib cimport realloc

cdef extern from "Python.h":
    PyObject *bytes_from "PyBytes_FromStringAndSize" (const char *data, Py_ssize_t n)
    void Py_DECREF_pointer "Py_DECREF" (PyObject *o)

cdef uint64_t NO_TIMEOUT = <uint64_t>-1
cdef uint64_t LOCK_WAIT_NS = 100_000_000

cdef enum:
    RATES_FLUSHES = 50  # means are taken over the last 50 to 100 flushes


cdef inline object owned(PyObject *value):
    """The object to which C gave a reference, which goes over; NULL: there was no memory for it."""
    if value == NULL:
        raise MemoryError()
    result = <object>value
    Py_DECREF_pointer(value)
    return result


cdef double seconds_of(object seconds, str name) except -1:
    cdef double value = seconds
    if not value >= 0:
        raise ValueError(f"{name} is {seconds!r}; it must be 0 or more seconds")
    return value


cdef uint64_t timeout_ns(object seconds) except? 0:
    """Seconds as the core takes them; None waits for ever."""
    if seconds is None:
        return NO_TIMEOUT
    cdef double value = seconds_of(seconds, "timeout")
    return <uint64_t>(value * 1e9) if value < 1e9 else NO_TIMEOUT


cdef uint64_t ttl_us_of(object seconds) except? 0:
    """Seconds as the core takes them; None, and more than anybody waits, are for ever."""
    if seconds is None:
        return LK_TTL_NONE
    cdef double value = seconds_of(seconds, "ttl")
    return <uint64_t>(value * 1e6) if value < 1e12 else LK_TTL_NONE


cdef int tree_settings(lk_tree_settings *out, uint32_t tree, ttl, operator) except -1:
    """Borrows the operator of `operator`, which must outlive it."""
    memset(out, 0, sizeof(out[0]))
    out.tree = tree
    out.ttl_us = ttl_us_of(ttl)
    if operator is not None:
        out.op = (<Operator?>operator).made()
    return 0


cdef lk_settings *settings_of(lk_env *env, list trees) except NULL:
    """Of these trees, (number, ttl, operator) by number; the caller gives it back."""
    cdef lk_settings *out = NULL
    cdef lk_error err
    cdef lk_status st
    cdef size_t n = <size_t>len(trees)
    cdef lk_tree_settings *items = <lk_tree_settings *>malloc((n + 1) * sizeof(lk_tree_settings))
    if items == NULL:
        raise MemoryError()
    try:
        for i, (tree, ttl, operator) in enumerate(trees):
            tree_settings(&items[i], tree, ttl, operator)
        st = lk_settings_new(env, items, <uint32_t>n, &out, &err)
    finally:
        free(items)
    if st != LK_OK:
        raise_error(&err)
    return out


cdef lk_durability durability_of(object name) except *:
    if name == "process":
        return LK_DURABILITY_PROCESS
    if name == "periodic":
        return LK_DURABILITY_PERIODIC
    if name == "sync":
        return LK_DURABILITY_SYNC
    raise ValueError(f"durability is {name!r}; it must be 'process', 'periodic' or 'sync'")


cdef lk_codec codec_of(str name) except *:
    return {"none": LK_CODEC_NONE, "lz4": LK_CODEC_LZ4, "zstd": LK_CODEC_ZSTD}[name]


@cython.final
cdef class _Bytes:
    """The contiguous bytes of any object with the buffer protocol, for the time of a call."""

    cdef Py_buffer view
    cdef bint held
    cdef const uint8_t *data
    cdef size_t len

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


cdef _Bytes bytes_of(object item, str name, size_t limit):
    cdef _Bytes b = _Bytes.__new__(_Bytes)
    bytes_buffer(item, &b.view, name)
    b.held = True
    b.data = <const uint8_t *>b.view.buf
    b.len = <size_t>b.view.len
    if b.len > limit:
        raise ValueError(f"{name} has {b.len} bytes, more than the {limit} allowed")
    return b


cdef _Bytes key_of(object key):
    return bytes_of(key, "key", LK_KEY_BYTES_MAX)


@cython.final
cdef class Handle:
    """An open store in C. Python sees it as the thing that the coordinator decides for."""

    cdef lk_store *s
    cdef uint64_t seen           # of the event `decide`
    cdef readonly str path
    cdef readonly bint read_only
    cdef bint has_ttl            # of some tree
    cdef lk_durability durability
    cdef lk_store_counters rates_from, rates_next  # where the means of `rates` begin
    cdef uint64_t errors
    cdef str last_error
    cdef Disk disk               # None: the real machine's
    cdef dict seen_trees         # what `version` gave last: (number of the layout, tuple) by tree
    cdef frozenset dropped       # numbers of keyspaces that were dropped; None: no one was
    cdef lk_trees *trees         # those that `watcher` knows of
    cdef object watcher          # a weak reference to who is told when others come; None
    cdef object __weakref__

    @staticmethod
    def open(bytes path, str shown, *, options, list keyspaces, str durability,
             bint create_if_missing, bint error_if_exists, bint read_only, timeout,
             Disk disk=None):
        """`keyspaces`: (number, ttl, operator) of those that have one of them, by number."""
        cdef Handle h = Handle.__new__(Handle)
        cdef lk_store_options o
        cdef lk_error err
        cdef lk_status st
        cdef const char *dir = path
        cdef lk_env *env = env_of(disk)
        h.disk = disk
        lk_store_options_init(&o)
        o.segment_bytes = options.segment_bytes
        o.cache_bytes = options.cache_bytes
        o.memory_bytes = options.memory_bytes
        o.table_bytes = options.table_bytes
        o.block_bytes = options.block_bytes
        o.filter_bits = options.filter_bits
        o.blob_bytes = options.blob_bytes
        o.max_garbage = options.max_garbage
        o.rate_limit = options.rate_limit
        o.disk_max = options.max_disk_bytes
        o.background_threads = options.background_threads
        o.sync_interval_ms = options.sync_interval_ms
        o.codec = codec_of(options.compression)
        o.log_io = {"auto": LK_LOG_AUTO, "mapped": LK_LOG_MAPPED,
                    "written": LK_LOG_WRITTEN}[options.log_io]
        o.durability = h.durability = durability_of(durability)
        o.create_if_missing = create_if_missing
        o.error_if_exists = error_if_exists
        o.read_only = read_only
        own = (0, options.ttl, options.merge_operator)
        o.retain_log_bytes = options.retain_log_bytes
        o.settings = settings_of(env, [own, *keyspaces])
        h.has_ttl = o.settings.has_ttl
        cdef uint64_t left = 0 if timeout is None else timeout_ns(timeout)
        try:
            while True:
                o.lock_timeout_ns = min(left, LOCK_WAIT_NS)
                with nogil:
                    st = lk_store_open(env, dir, &o, &h.s, &err)
                if st != LK_LOCKED or left == 0:
                    break
                PyErr_CheckSignals()  # whoever waits for another process may want to give up
                left -= o.lock_timeout_ns
        finally:
            lk_settings_unref(o.settings)
        if st != LK_OK:
            raise_error(&err)
        h.path = shown
        h.read_only = read_only
        return h

    def __dealloc__(self):
        lk_trees_unref(self.trees)
        if self.s == NULL or lk_store_is_forked(self.s):
            return
        with nogil:
            lk_store_close(self.s, NULL)
            lk_store_free(self.s)

    @property
    def forked(self):
        """Whether this is a child of the process that opened the store."""
        return bool(lk_store_is_forked(self.s))

    def close(self):
        """Flushes and closes; safe to call again, and in a forked child, where it does nothing."""
        cdef lk_error err
        cdef lk_status st
        with nogil:
            st = lk_store_close(self.s, &err)
        if st != LK_OK:
            raise_error(&err)

    @property
    def closed(self):
        return not lk_store_is_open(self.s)

    def check(self):
        """Raises ClosedError unless the store is open."""
        self.check_open()

    cdef int check_open(self) except -1:
        cdef lk_error err
        if not lk_store_is_open(self.s):
            lk_store_closed_error(self.s, &err)
            raise_error(&err)
        return 0

    cdef int enter(self) except -1:
        cdef lk_error err
        if lk_store_enter(self.s, &err) != LK_OK:
            raise_error(&err)
        return 0

    def refresh(self):
        """Moves a store that is only read to what its owner has committed; whether that is new."""
        cdef lk_error err
        cdef lk_status st
        cdef c_bool moved
        self.enter()
        with nogil:
            st = lk_store_refresh(self.s, &moved, &err)
            lk_store_leave(self.s)
        if st != LK_OK:
            raise_error(&err)
        if moved and self.watcher is not None:
            self.tell_watcher()
        return bool(moved)

    def watch(self, watcher):
        """`watcher()` is an object, or None, whose `moved` is called when a refresh has found that
        keyspaces have come, changed or gone since now."""
        self.watcher = watcher
        self.trees = lk_store_trees(self.s)

    cdef int tell_watcher(self) except -1:
        cdef lk_trees *now = lk_store_trees(self.s)
        cdef bint is_new = now != self.trees
        lk_trees_unref(self.trees)
        self.trees = now
        watcher = self.watcher() if is_new else None
        if watcher is not None:
            watcher.moved()
        return 0

    def catch_up(self):
        """The same, before each read: a look at memory (or two short reads) under the GIL tells when
        there is nothing to do."""
        self.enter()
        cdef bint behind = lk_store_is_behind(self.s)
        lk_store_leave(self.s)
        if behind:
            self.refresh()

    def has_dropped(self, uint32_t tree):
        """Whether it is the number of a keyspace that is known to be dropped."""
        return self.dropped is not None and tree in self.dropped

    def note_dropped(self, trees):
        """What has these numbers is closed from now on."""
        self.dropped = (self.dropped or frozenset()) | trees

    def sync(self):
        cdef lk_error err
        cdef lk_status st
        self.enter()
        with nogil:
            st = lk_store_sync(self.s, &err)
            lk_store_leave(self.s)
        if st != LK_OK:
            raise_error(&err)

    def flush(self):
        cdef lk_error err
        cdef lk_status st
        self.enter()
        with nogil:
            st = lk_store_flush(self.s, &err)
            lk_store_leave(self.s)
        if st != LK_OK:
            raise_error(&err)

    def property(self, str name):
        """A text kept in the manifest, or None."""
        self.check_open()
        cdef const char *value = lk_manifest_property(self.s.manifest, name.encode())
        return None if value == NULL else value.decode()

    def set_property(self, str name, str value):
        cdef lk_error err
        cdef lk_status st
        cdef bytes n = name.encode(), v = value.encode()
        cdef const char *c_name = n
        cdef const char *c_value = v
        self.enter()
        with nogil:
            st = lk_store_set_property(self.s, c_name, c_value, &err)
            lk_store_leave(self.s)
        if st != LK_OK:
            raise_error(&err)

    # --- For the coordinator: see compaction/scheduler.py, class Handle.

    def wait_event(self, timeout):
        cdef uint64_t ns = NO_TIMEOUT if timeout is None else <uint64_t>(timeout * 1e9)
        if not lk_store_is_open(self.s):
            return False
        with nogil:
            lk_event_wait_ns(&self.s.decide, self.seen, ns)
        self.seen = lk_event_generation(&self.s.decide)
        return lk_store_is_open(self.s)

    def wake(self):
        lk_event_broadcast(&self.s.decide)

    def version(self):
        cdef lk_view *v
        self.enter()
        v = lk_store_view(self.s)
        try:
            self.seen_trees = seen_trees(v.version, seen_by_all(self.s),
                                         self.s.options.max_garbage, self.seen_trees or {})
        finally:
            lk_view_unref(v)
            lk_store_leave(self.s)
        return {tree: known[1] for tree, known in self.seen_trees.items()}

    def free_workers(self):
        return lk_store_free_workers(self.s)

    def is_idle(self):
        return lk_store_is_quiet(self.s)

    def submit(self, job):
        cdef lk_job j
        cdef lk_error err
        cdef uint64_t number
        cdef bytes lower = job.lower
        cdef lk_status st
        files = job.inputs
        cdef uint64_t *c_files = <uint64_t *>malloc((len(files) + 1) * sizeof(uint64_t))
        if c_files == NULL:
            raise MemoryError()
        try:
            for i, file in enumerate(files):
                c_files[i] = file
            memset(&j, 0, sizeof(j))
            j.kind = JOB_KINDS[job.kind]
            j.tree = job.tree
            j.lower.data = <const uint8_t *>PyBytes_AS_STRING(lower)
            j.lower.len = <size_t>len(lower)
            j.files = c_files
            j.file_count = <size_t>len(files)
            j.out_level = job.out_level
            j.in_place = job.in_place
            j.split_tables = job.split_tables
            j.parts = job.parts
            j.cut_bytes = job.cut_bytes
            j.table.codec = codec_of(job.compression)
            self.enter()
            st = lk_store_submit(self.s, &j, &number, &err)
            lk_store_leave(self.s)
            if st != LK_OK:
                raise_error(&err)
        finally:
            free(c_files)
        return number

    def completed(self):
        cdef lk_job_report report
        out = []
        while lk_store_take_report(self.s, &report):
            if report.status == LK_CANCELLED:
                continue  # only a closing store cancels
            out.append((report.id, report.status == LK_OK,
                        (<bytes>report.message).decode("utf-8", "replace")))
        return out

    def rates(self):
        cdef lk_store_counters now = self.s.counters
        cdef lk_store_counters *then = &self.rates_from
        cdef double user, merged
        if now.flushes - self.rates_next.flushes >= RATES_FLUSHES:
            self.rates_from = self.rates_next
            self.rates_next = now
        if now.flush_records == then.flush_records or now.records == 0:
            return 0.0, 0.0, 0.0
        user = now.bytes / <double>now.records * (now.flush_records - then.flush_records)
        merged = now.compact_in - then.compact_in
        return ((now.flush_ns - then.flush_ns) / user,
                (now.compact_ns - then.compact_ns) / merged if merged > 0 else 0.0, merged / user)

    def set_write_rate(self, bytes_per_second, stop):
        cdef uint64_t rate = bytes_per_second
        cdef bint wait = stop
        with nogil:
            lk_store_set_rate(self.s, rate, wait)

    def log_pressure(self):
        """How much the log that waits for its flush slows writers, from 0 to 1, where they wait."""
        cdef double pressure
        with nogil:
            pressure = lk_store_pressure(self.s)
        return pressure

    def background_error(self, str text):
        self.errors += 1
        self.last_error = text


cdef dict JOB_KINDS = {"merge": LK_JOB_MERGE, "move": LK_JOB_MOVE, "join": LK_JOB_JOIN,
                       "drop": LK_JOB_DROP}


cdef uint64_t seen_by_all(lk_store *s) except? 0:
    """What every reader sees: up to the oldest snapshot."""
    cdef uint64_t *seqs = NULL
    cdef size_t count
    cdef uint64_t oldest
    cdef lk_error err
    if lk_store_snapshots(s, &seqs, &count, &err) != LK_OK:
        raise_error(&err)
    oldest = LK_SEQ_MAX if count == 0 else seqs[count - 1]
    free(seqs)
    return oldest


cdef dict version_tuples(const lk_version *v, uint64_t seen, double max_garbage):
    """The version as nested tuples, as lsmkit.version.Version.from_raw takes them."""
    return {tree: known[1] for tree, known in seen_trees(v, seen, max_garbage, {}).items()}


cdef dict seen_trees(const lk_version *v, uint64_t seen, double max_garbage, dict known):
    """(number of its layout, nested tuples) of each tree; those that are as in `known` from there."""
    cdef const lk_tree_version *t
    cdef uint32_t tree
    out = {}
    for tree in range(v.tree_count):
        t = v.trees[tree]
        if t == NULL:
            continue
        known_tree = known.get(tree)
        if known_tree is None or known_tree[0] != t.number:
            # What has expired, and what all readers see, is counted anew each time.
            is_steady = seen == LK_SEQ_MAX and t.tombs == NULL and not has_deadlines(t)
            known_tree = (t.number if is_steady else None, tree_tuple(t, seen, max_garbage))
        out[tree] = known_tree
    return out


cdef bint has_deadlines(const lk_tree_version *t) noexcept:
    cdef uint32_t i
    for i in range(t.file_count):
        if lk_table_meta_of(t.files[i].table).deadlines != 0:
            return True
    return False


cdef tuple tree_tuple(const lk_tree_version *t, uint64_t seen, double max_garbage):
    cdef uint32_t i, j
    ranges = []
    for i in range(t.range_count):
        runs = []
        for j in range(t.ranges[i].run_count):
            runs.append(run_tuple(t, &t.ranges[i].runs[j], seen, max_garbage))
        lower = PyBytes_FromStringAndSize(<const char *>t.ranges[i].lower.data,
                                          <Py_ssize_t>t.ranges[i].lower.len)
        ranges.append((lower, tuple(runs)))
    return tuple(ranges)


cdef uint64_t expired_rows(const lk_table_meta *m, uint64_t now) noexcept:
    """How many rows of a table have passed their deadline since it was made, if deadlines are
    spread evenly. What had before and is still there, merging could not end."""
    cdef uint64_t begin = max(m.deadline_min, m.made)
    if m.deadlines == 0 or now < m.deadline_min or m.made >= m.deadline_max:
        return 0
    if m.deadline_max == m.deadline_min:
        return m.deadlines
    return 1 + <uint64_t>((min(now, m.deadline_max) - begin)
                          / <double>(m.deadline_max - m.deadline_min) * (m.deadlines - 1))


cdef uint64_t due_us(const lk_table_meta *m, uint64_t now) noexcept:
    """When the next quarter of a table's deadlines will have passed; 0: all have, or none are."""
    cdef uint64_t i, at
    for i in range(5):
        at = m.deadline_min + (m.deadline_max - m.deadline_min) / 4 * i
        at = m.deadline_max if i == 4 else at
        if m.deadlines != 0 and at > now:
            return at
    return 0


cdef uint64_t wasted_bytes(const lk_tree_version *t, const lk_table_meta *m, double max_garbage):
    """Bytes of a table's values that stand in files of which too much is dead."""
    cdef const lk_blob_item *item
    cdef uint64_t n = 0
    cdef uint32_t i
    for i in range(m.blob_count):
        item = lk_blob_files_find(t.blobs, m.blobs[i].file)
        if item != NULL and lk_blob_item_is_wasteful(item, max_garbage):
            n += m.blobs[i].bytes
    return n


cdef tuple run_tuple(const lk_tree_version *t, const lk_run *run, uint64_t seen,
                     double max_garbage):
    cdef const lk_table_meta *m
    cdef uint32_t k
    cdef uint64_t now = lk_env_wall_us(lk_env_posix())
    tables = []
    for k in range(run.count):
        m = lk_table_meta_of(run.tables[k])
        tables.append((m.file, m.bytes, m.rows, m.tombstones,
                       PyBytes_FromStringAndSize(<const char *>m.min_key, m.min_len),
                       PyBytes_FromStringAndSize(<const char *>m.max_key, m.max_len),
                       m.seq_min, m.seq_max, expired_rows(m, now),
                       lk_tree_version_covered(t, run.tables[k], seen), m.seq_max <= seen,
                       m.written, due_us(m, now), wasted_bytes(t, m, max_garbage)))
    return run.level, run.stamp, tuple(tables)


# --- Reading one tree --------------------------------------------------------------------------

cdef class Reader:
    """Reads one tree of a store, as of a snapshot or as it is now."""

    cdef Handle handle
    cdef lk_store *s        # the handle's
    cdef uint32_t tree
    cdef uint64_t seq       # what is visible; LK_SEQ_MAX: all; 0: perhaps it was dropped

    def __init__(self, *args, **kwargs):
        raise TypeError(f"{type(self).__name__} is made by lsmkit.open and what it gives")

    cdef int check_open(self) except -1:
        return self.check_tree()

    cdef int check_tree(self) except -1:
        """Whether what was read ahead of a snapshot's end can still be read."""
        self.handle.check_open()
        if self.handle.dropped is not None and self.tree in self.handle.dropped:
            raise _errors.ClosedError("the keyspace was dropped")
        return 0

    def get(self, key, default=None):
        """The value of `key` as bytes, or `default` when there is none.

        Costs a hash, a probe of the log's index, and for what is in tables a filter and one block;
        a block that is not in memory is read without the GIL. Raises TypeError for a `str`,
        CorruptionError for damaged bytes, ClosedError after close().
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

    def _check(self):
        """Raises ClosedError unless it can be read."""
        self.check_open()

    cdef object find(self, key):
        cdef _Bytes b
        if PyBytes_CheckExact(key) and PyBytes_GET_SIZE(key) <= <Py_ssize_t>LK_KEY_BYTES_MAX:
            return self.find_bytes(<const uint8_t *>PyBytes_AS_STRING(key),
                                   <size_t>PyBytes_GET_SIZE(key), self.seq)
        b = key_of(key)
        return self.find_bytes(b.data, b.len, self.seq)

    cdef object find_bytes(self, const uint8_t *key, size_t n, uint64_t seq):
        cdef uint64_t hash = lk_hash_key(self.tree, key, n)
        cdef unsigned token
        cdef lk_answer answer
        cdef PyObject *value = NULL
        cdef lk_view *v = lk_store_read_begin(self.s, &token)
        if v == NULL:
            self.handle.check_open()
        cdef lk_lookup found = lk_view_get(v, self.tree, key, n, hash, seq, &answer)
        if found == LK_LOOKUP_VALUE:
            value = bytes_from(<const char *>answer.value.data, <Py_ssize_t>answer.value.len)
        lk_guard_exit(&self.s.guard, token)
        if found == LK_LOOKUP_VALUE:
            return owned(value)
        if found == LK_LOOKUP_ABSENT:
            if seq == 0:
                self.check_open()
            return None
        return self.fetch(key, n, hash, seq)

    cdef object fetch(self, const uint8_t *key, size_t n, uint64_t hash, uint64_t seq):
        """The same where a table or block must be read first."""
        cdef lk_view *v
        self.check_open()
        self.handle.enter()
        v = lk_store_view(self.s)  # under the GIL: a snapshot cannot be released before it is pinned
        try:
            return self.fetch_from(v, key, n, hash, seq)
        finally:
            lk_view_unref(v)
            lk_store_leave(self.s)

    cdef object fetch_from(self, lk_view *v, const uint8_t *key, size_t n, uint64_t hash,
                           uint64_t seq):
        cdef lk_answer answer
        cdef lk_block *block = NULL
        cdef lk_lookup found
        cdef lk_error err
        cdef lk_status st
        with nogil:
            st = lk_view_fetch(v, &self.s.guard, self.tree, key, n, hash, seq, &found, &answer,
                               &block, &err)
        if st != LK_OK:
            raise_error(&err)
        if found == LK_LOOKUP_ABSENT:
            return None
        try:
            return PyBytes_FromStringAndSize(<const char *>answer.value.data,
                                             <Py_ssize_t>answer.value.len)
        finally:
            lk_block_unref(block)

    cdef lk_view *pin(self, uint64_t *out_seq) except NULL:
        """The view and the sequence of one moment, for a call that reads many keys: without the
        view a flush could fold away what a later write has replaced. `unpin` gives it back."""
        cdef lk_view *v
        self.check_open()
        self.handle.enter()
        v = lk_store_view_now(self.s, out_seq)
        if self.seq < out_seq[0]:
            out_seq[0] = self.seq
        return v

    cdef void unpin(self, lk_view *v) noexcept:
        lk_view_unref(v)
        lk_store_leave(self.s)

    def get_many(self, keys, default=None):
        """The values of many keys, as of one moment: a list for a list or tuple of keys, with
        `default` where there is none; a `Column` for any other column, null where there is none.
        """
        cdef _ColumnIn column
        if isinstance(keys, list):
            return self.get_list(PyList_AsTuple(keys), default)
        column = column_in(keys, "keys", True)
        if isinstance(keys, tuple) and column.col.form == LK_COLUMN_SPANS:
            return self.get_list(keys, default)
        return self.get_column(column)

    cdef list get_list(self, tuple keys, default):
        cdef Py_ssize_t i, n = len(keys)
        cdef list out = [default] * n
        cdef list held = []
        cdef lk_bytes *spans = <lk_bytes *>malloc(<size_t>(n + 1) * sizeof(lk_bytes))
        cdef uint64_t seq
        cdef lk_view *v
        if spans == NULL:
            raise MemoryError()
        try:
            # First, because it may run anybody's code, which must not happen inside the store.
            for i in range(n):
                self.span_of(keys[i], i, held, &spans[i])
            v = self.pin(&seq)
            try:
                for i in range(0, n, LK_VIEW_KEYS_MAX):
                    self.find_some(v, spans + i, min(n - i, <Py_ssize_t>LK_VIEW_KEYS_MAX), seq, out, i)
            finally:
                self.unpin(v)
        finally:
            free(spans)
        return out

    cdef int span_of(self, object key, Py_ssize_t i, list held, lk_bytes *out) except -1:
        cdef _Bytes b
        if PyBytes_CheckExact(key) and PyBytes_GET_SIZE(key) <= <Py_ssize_t>LK_KEY_BYTES_MAX:
            out.data = <const uint8_t *>PyBytes_AS_STRING(key)
            out.len = <size_t>PyBytes_GET_SIZE(key)
            return 0
        if key is None:
            raise ValueError(f"keys[{i}] is null")
        b = bytes_of(key, f"keys[{i}]", LK_KEY_BYTES_MAX)
        held.append(b)
        out.data = b.data
        out.len = b.len
        return 0

    cdef int find_some(self, lk_view *v, const lk_bytes *keys, Py_ssize_t n, uint64_t seq, list out,
                       Py_ssize_t at) except -1:
        """Up to LK_VIEW_KEYS_MAX keys in a view that the caller has pinned, into out[at:]."""
        cdef uint64_t hashes[LK_VIEW_KEYS_MAX]
        cdef lk_lookup found[LK_VIEW_KEYS_MAX]
        cdef lk_answer answers[LK_VIEW_KEYS_MAX]
        cdef PyObject *value
        cdef Py_ssize_t i
        cdef bint has_memory = True
        for i in range(n):
            hashes[i] = lk_hash_key(self.tree, keys[i].data, keys[i].len)
        cdef unsigned token = lk_guard_enter(&self.s.guard)
        lk_view_get_many(v, self.tree, <uint32_t>n, keys, hashes, seq, found, answers)
        for i in range(n):
            if found[i] == LK_LOOKUP_VALUE:
                value = bytes_from(<const char *>answers[i].value.data,
                                   <Py_ssize_t>answers[i].value.len)
                if value == NULL:
                    has_memory = False
                    break
                out[at + i] = <object>value
                Py_DECREF_pointer(value)
        lk_guard_exit(&self.s.guard, token)
        if not has_memory:
            raise MemoryError()
        for i in range(n):
            if found[i] == LK_LOOKUP_BLOCKED:
                late = self.fetch_from(v, keys[i].data, keys[i].len, hashes[i], seq)
                if late is not None:
                    out[at + i] = late
        return 0

    cdef Column get_column(self, _ColumnIn keys):
        cdef _Gather g = _Gather.__new__(_Gather)
        cdef lk_status st
        cdef lk_error err
        cdef uint64_t seq
        g.reserve(<Py_ssize_t>keys.col.count)
        cdef lk_view *v = self.pin(&seq)
        with nogil:
            st = gather(self.s, v, self.tree, seq, &keys.col, g, &err)
        self.unpin(v)
        if st != LK_OK:
            raise_error(&err)
        return g.column()


@cython.final
@cython.no_gc
cdef class _Gather:
    """Values gathered into one buffer, without the GIL; becomes a Column."""

    cdef uint8_t *data
    cdef int64_t *offsets
    cdef uint8_t *validity
    cdef size_t capacity
    cdef Py_ssize_t count

    def __dealloc__(self):
        free(self.data)
        free(self.offsets)
        free(self.validity)

    cdef int reserve(self, Py_ssize_t count) except -1:
        self.count = count
        self.offsets = <int64_t *>malloc((count + 1) * sizeof(int64_t))
        self.validity = <uint8_t *>malloc(count + 1)
        if self.offsets == NULL or self.validity == NULL:
            raise MemoryError()
        return 0

    cdef bint add(self, Py_ssize_t i, const uint8_t *value, size_t n) noexcept nogil:
        cdef size_t used = <size_t>self.offsets[i], want
        cdef uint8_t *larger
        if used + n > self.capacity:
            want = max(self.capacity * 2, used + n + 4096)
            larger = <uint8_t *>realloc(self.data, want)
            if larger == NULL:
                return False
            self.data = larger
            self.capacity = want
        memcpy(self.data + used, value, n)
        self.offsets[i + 1] = <int64_t>(used + n)
        return True

    cdef Column column(self):
        cdef uint8_t *data = self.data
        cdef int64_t *offsets = self.offsets
        cdef uint8_t *validity = self.validity
        self.data = NULL
        self.offsets = NULL
        self.validity = NULL
        return column_adopt(data, offsets, 0, validity, self.count, self.capacity)


cdef lk_status gather(lk_store *s, const lk_view *v, uint32_t tree, uint64_t seq,
                      const lk_column *keys, _Gather g, lk_error *err) noexcept nogil:
    """Reads every key of a column; inside guard sections of a few keys each."""
    cdef uint8_t scratch[8]
    cdef lk_bytes key
    cdef size_t i
    cdef uint64_t hash
    cdef unsigned token
    cdef lk_answer answer
    cdef lk_lookup found
    cdef lk_block *block
    cdef lk_status st = LK_OK
    cdef bint room = True
    g.offsets[0] = 0
    for i in range(keys.count):
        key = lk_column_row(keys, i, scratch)
        hash = lk_hash_key(tree, key.data, key.len)
        block = NULL
        token = lk_guard_enter(&s.guard)
        found = lk_view_get(v, tree, key.data, key.len, hash, seq, &answer)
        if found == LK_LOOKUP_VALUE:
            room = g.add(<Py_ssize_t>i, answer.value.data, answer.value.len)
        lk_guard_exit(&s.guard, token)
        if found == LK_LOOKUP_BLOCKED:
            st = lk_view_fetch(v, &s.guard, tree, key.data, key.len, hash, seq, &found, &answer,
                               &block, err)
            if st != LK_OK:
                break
            if found == LK_LOOKUP_VALUE:
                room = g.add(<Py_ssize_t>i, answer.value.data, answer.value.len)
            lk_block_unref(block)
        if not room:
            st = lk_fail(err, LK_NOMEM, 0, NULL, 0, 0, 0, b"no memory for the values")
            break
        g.validity[i] = found == LK_LOOKUP_VALUE
        if found != LK_LOOKUP_VALUE:
            g.offsets[i + 1] = g.offsets[i]
    return st


@cython.final
@cython.no_gc_clear  # the handle is needed to give the snapshot back
cdef class _Snapshot:
    """The registration of a snapshot with the store: given back once."""

    cdef Handle handle
    cdef lk_snapshot *snapshot

    @staticmethod
    cdef _Snapshot take(Handle handle):
        cdef _Snapshot x = _Snapshot.__new__(_Snapshot)
        cdef lk_error err
        cdef lk_status st
        handle.enter()
        x.handle = handle
        st = lk_store_snapshot(handle.s, &x.snapshot, &err)
        lk_store_leave(handle.s)
        if st != LK_OK:
            raise_error(&err)
        return x

    def release(self):
        if self.snapshot != NULL and not lk_store_is_forked(self.handle.s):
            lk_store_release(self.handle.s, self.snapshot)
        self.snapshot = NULL

    def __dealloc__(self):
        if self.snapshot != NULL and not lk_store_is_forked(self.handle.s):
            lk_store_release(self.handle.s, self.snapshot)


cdef class SnapshotReader(Reader):
    """One moment of a store, kept readable until it is released."""

    cdef _Snapshot held
    cdef bint is_borrowed   # another one gives it back

    cdef int check_open(self) except -1:
        if self.held is None or self.held.snapshot == NULL:
            raise _errors.ClosedError("the snapshot is closed")
        return Reader.check_open(self)

    cdef object find_bytes(self, const uint8_t *key, size_t n, uint64_t seq):
        cdef lk_view *v
        self.check_open()
        if self.held.snapshot.view == NULL:
            return Reader.find_bytes(self, key, n, seq)
        v = self.pin(&seq)
        try:
            return self.fetch_from(v, key, n, lk_hash_key(self.tree, key, n), seq)
        finally:
            self.unpin(v)

    cdef lk_view *pin(self, uint64_t *out_seq) except NULL:
        """Of a store that is only read: the view of the snapshot's moment, wherever the store is."""
        self.check_open()
        cdef lk_view *v = self.held.snapshot.view
        if v == NULL:
            return Reader.pin(self, out_seq)
        self.handle.enter()
        lk_view_ref(v)
        out_seq[0] = self.seq
        return v

    def _take(self, Reader of):
        of.check_open()
        self.handle = of.handle
        self.s = of.s
        self.tree = of.tree
        self.held = _Snapshot.take(of.handle)
        self.seq = self.held.snapshot.seq

    def _share(self, SnapshotReader of, uint32_t tree):
        """The same moment of another tree; it ends with `of`."""
        of.check_open()
        self.handle = of.handle
        self.s = of.s
        self.tree = tree
        self.held = of.held
        self.seq = of.seq
        self.is_borrowed = True

    def _place(self):
        self.check_open()
        return self.seq

    def _release(self):
        if self.held is not None and not self.is_borrowed:
            self.held.release()
        self.held = None
