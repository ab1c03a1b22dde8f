# hot.pyx: the keys that were written most often lately.

cdef extern from "hot.h" nogil:
    ctypedef struct lk_hot_key:
        uint8_t *key
        uint32_t key_len
        uint64_t count, error
    lk_status lk_store_hot_keys(lk_store *s, uint32_t tree, size_t n, lk_hot_key **out,
                                size_t *out_count, uint64_t *out_total, lk_error *err)
    void lk_hot_keys_free(lk_hot_key *keys, size_t count)


def hot_keys(Tree of not None, n):
    """See lsmkit.tree.WritableTree.hot_keys."""
    cdef lk_hot_key *keys = NULL
    cdef size_t count = 0, i
    cdef uint64_t total = 0
    cdef lk_error err
    cdef lk_status st
    number = PyNumber_Index(n)
    if number < 0:
        raise ValueError(f"n is {number}; it must be 0 or more")
    cdef size_t wanted = min(number, 1 << 30)
    of.handle.enter()
    with nogil:
        st = lk_store_hot_keys(of.s, of.tree, wanted, &keys, &count, &total, &err)
        lk_store_leave(of.handle.s)
    if st != LK_OK:
        raise_error(&err)
    try:
        return [(PyBytes_FromStringAndSize(<const char *>keys[i].key,
                                           <Py_ssize_t>keys[i].key_len),
                 keys[i].count / <double>total, keys[i].error / <double>total)
                for i in range(count)]
    finally:
        lk_hot_keys_free(keys, count)
