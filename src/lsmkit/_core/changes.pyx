# changes.pyx: an iterator over what was committed, in order.
#
# Owns      an lk_changes, which pins the live part of the log, and a reference to the store.
# Threads   one at a time, as with scans. Changes are read some hundreds at a time without the GIL,
#           and are Python objects before the call ends.
# Errors    ClosedError once the store is closed; ChangesLost where the history has a hole.

cdef extern from "changes.h" nogil:
    ctypedef struct lk_change:
        uint64_t seq, until_us
        uint32_t tree
        lk_kind kind
        lk_bytes key, value
    ctypedef struct lk_changes:
        pass
    lk_status lk_changes_open(lk_store *s, uint64_t since, uint32_t tree, lk_bytes prefix,
                              bint follow, lk_changes **out, lk_error *err)
    lk_status lk_changes_next(lk_changes *c, lk_change *out, size_t max, size_t *out_count,
                              c_bool *out_end, lk_error *err)
    bint lk_changes_wait(lk_changes *c, uint64_t timeout_ns)
    uint64_t lk_changes_seq(const lk_changes *c)
    void lk_changes_close(lk_changes *c)

from lsmkit.changes import Change as _Change

cdef enum:
    CHANGES_AT_A_TIME = 256

cdef uint64_t CHANGES_WAIT_NS = 50_000_000  # between two looks for a signal
cdef uint64_t CHANGES_LOOK_NS = 5_000_000   # ... at what the owner of the store has done


@cython.final
@cython.no_gc_clear  # the handle is needed to close what it reads
cdef class Changes:
    """What was committed to a store, in commit order: an iterator of `Change`. Made by
    `DB.changes`.

    It pins the part of the log that is in memory, as a scan does, until it ends or is dropped. A
    closed store makes it raise ClosedError, a hole in the history ChangesLost.
    """

    cdef Handle handle
    cdef lk_changes *c
    cdef Tree of            # keeps the store open
    cdef bint follow, is_running
    cdef bint catches_up    # the store is read beside its owner, and moved on
    cdef uint64_t wait_ns   # for each next one, with follow
    cdef list given
    cdef Py_ssize_t at

    def __init__(self, *args, **kwargs):
        raise TypeError("Changes is made by DB.changes")

    def __dealloc__(self):
        if self.c != NULL and not lk_store_is_forked(self.handle.s):
            lk_changes_close(self.c)

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == len(self.given) and not self.fill():
            raise StopIteration
        elif not lk_store_is_open(self.handle.s):
            self.handle.check_open()
        self.at += 1
        return self.given[self.at - 1]

    @property
    def seq(self):
        """Where to go on: `changes(since=...)` with this gives what this iterator has not given.
        It is the sequence of the last change given, or of a later one that was not asked for."""
        if self.at < len(self.given):
            return self.given[self.at].seq - 1
        return lk_changes_seq(self.c)

    cdef bint fill(self) except -1:
        """Some more changes; False when there are none."""
        cdef uint64_t left = self.wait_ns
        cdef bint end = False
        if self.is_running:
            raise RuntimeError("the changes are already being read by another thread")
        self.is_running = True
        try:
            self.at = 0
            self.given = []
            while not self.given and not end:
                end = self.read() and not (self.follow and self.wait(&left))
        finally:
            self.is_running = False
        return len(self.given) > 0

    cdef bint read(self) except -1:
        """What comes next, into `given`; True when that was the last, for now."""
        cdef lk_change some[CHANGES_AT_A_TIME]
        cdef size_t n = 0, i
        cdef c_bool end = False
        cdef lk_error err
        cdef lk_status st
        self.handle.enter()
        with nogil:
            st = lk_changes_next(self.c, some, CHANGES_AT_A_TIME, &n, &end, &err)
        try:
            if st != LK_OK:
                raise_error(&err)
            fresh = [self.change(&some[i]) for i in range(n)]
        finally:
            lk_store_leave(self.handle.s)
        self.given = fresh
        return end

    cdef bint wait(self, uint64_t *left) except -1:
        """Until there may be more; False when the time is over. Not where something was read."""
        cdef uint64_t ns = min(left[0], CHANGES_WAIT_NS)
        cdef bint any
        if self.given:
            return True
        PyErr_CheckSignals()
        if self.catches_up:
            self.handle.catch_up()
            ns = min(ns, CHANGES_LOOK_NS)
        self.handle.enter()
        with nogil:
            any = lk_changes_wait(self.c, ns)
        lk_store_leave(self.handle.s)
        if not any and left[0] != NO_TIMEOUT:
            left[0] -= ns
        return any or left[0] > 0

    cdef object change(self, const lk_change *x):
        value = None
        if x.kind == LK_KIND_PUT or x.kind == LK_KIND_MERGE or x.value.len > 0:
            value = PyBytes_FromStringAndSize(<const char *>x.value.data, <Py_ssize_t>x.value.len)
        key = PyBytes_FromStringAndSize(<const char *>x.key.data, <Py_ssize_t>x.key.len)
        change = tuple.__new__(_Change, (x.seq, CHANGE_NAMES[x.kind], key, value))
        if x.until_us != 0:
            change._until = x.until_us / 1e6
        return change


cdef tuple CHANGE_NAMES = (None, "put", "delete", "merge", "delete_range")


def changes(Tree of not None, uint32_t tree, since, prefix, follow):
    """See lsmkit.tree.WritableTree.changes; `follow` is a bool or seconds."""
    cdef Changes c = Changes.__new__(Changes)
    cdef bytes begins = bound(prefix, "prefix") or b""
    cdef lk_bytes p
    cdef lk_error err
    cdef lk_status st
    number = PyNumber_Index(since)
    if not 0 <= number < LK_SEQ_MAX:
        raise ValueError(f"since is {number}; it must be 0 or the sequence of a change")
    cdef uint64_t after = number
    p.data = <const uint8_t *>PyBytes_AS_STRING(begins)
    p.len = <size_t>PyBytes_GET_SIZE(begins)
    c.handle = of.handle
    c.of = of
    c.follow = follow is not False
    c.wait_ns = NO_TIMEOUT
    if not isinstance(follow, bool):
        c.wait_ns = <uint64_t>(min(seconds_of(follow, "follow"), 1e9) * 1e9)
    c.given = []
    of.check_open()
    c.catches_up = hasattr(of, "_caught_up")
    of.handle.enter()
    with nogil:
        st = lk_changes_open(of.s, after, tree, p, c.follow, &c.c, &err)
        lk_store_leave(of.s)
    if st != LK_OK:
        raise_error(&err)
    return c
