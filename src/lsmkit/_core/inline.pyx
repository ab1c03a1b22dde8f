# inline.pyx: what can be answered at once, for callers that must not wait: an event loop's thread.
#
# Callers   lsmkit/aio.py.
# Threads   any; under the GIL, as short as a `get` that finds its key in memory.

def get_now(Reader of not None, key, default, later):
    """The value of `key`, or `default` where there is none; `later` where a block would have to be
    read first, or operands to be folded."""
    cdef _Bytes b = key_of(key)
    cdef unsigned token
    cdef lk_answer answer
    cdef PyObject *value = NULL
    of.check_open()
    if isinstance(of, SnapshotReader) and (<SnapshotReader>of).held.snapshot.view != NULL:
        return later
    cdef uint64_t hash = lk_hash_key(of.tree, b.data, b.len)
    cdef lk_view *v = lk_store_read_begin(of.s, &token)
    if v == NULL:
        of.check_open()
        return later
    cdef lk_lookup found = lk_view_get(v, of.tree, b.data, b.len, hash, of.seq, &answer)
    if found == LK_LOOKUP_VALUE:
        value = bytes_from(<const char *>answer.value.data, <Py_ssize_t>answer.value.len)
    lk_guard_exit(&of.s.guard, token)
    if found == LK_LOOKUP_VALUE:
        return owned(value)
    return default if found == LK_LOOKUP_ABSENT else later


def would_sync(Tree of not None, durability, timeout):
    """Whether a write with these keywords waits for the disk; raises what it would raise."""
    cdef lk_write w
    of.prepare(&w, None, durability, timeout)
    of.handle.check_open()
    return w.durability == LK_DURABILITY_SYNC
