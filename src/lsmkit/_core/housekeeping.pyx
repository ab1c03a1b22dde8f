# housekeeping.pyx: copies of whole stores, and their end.
#
# Callers   lsmkit.DB and lsmkit.housekeeping.
# Threads   any; the work is done without the GIL.

cdef extern from "checkpoint.h" nogil:
    lk_status lk_store_checkpoint(lk_store *s, lk_env *to, const char *path, lk_error *err)

cdef extern from "destroy.h" nogil:
    lk_status lk_store_destroy(lk_env *env, const char *dir, lk_error *err)

cdef extern from "ingest.h" nogil:
    lk_status lk_store_ingest(lk_store *s, uint32_t tree, const lk_column *keys,
                              const lk_column *values, lk_error *err)


def ingest(Tree tree, keys, values):
    cdef _ColumnIn k = column_in(keys, "keys", True)
    cdef _ColumnIn v = column_in(values, "values", False)
    cdef lk_error err
    cdef lk_status st
    if v.col.count != k.col.count:
        raise ValueError(f"{k.col.count} keys and {v.col.count} values")
    tree.handle.enter()
    with nogil:
        st = lk_store_ingest(tree.s, tree.tree, &k.col, &v.col, &err)
        lk_store_leave(tree.s)
    if st != LK_OK:
        raise_error(&err)


def checkpoint(Handle handle, bytes path):
    cdef lk_error err
    cdef lk_status st
    cdef const char *c_path = path
    # Of a store in memory a copy on the disk is wanted, not another one in memory.
    cdef lk_env *to = lk_env_posix() if handle.path == ":memory:" else handle.s.env
    handle.enter()
    with nogil:
        st = lk_store_checkpoint(handle.s, to, c_path, &err)
        lk_store_leave(handle.s)
    if st != LK_OK:
        raise_error(&err)


def destroy(bytes path):
    cdef lk_error err
    cdef lk_status st
    cdef const char *c_path = path
    with nogil:
        st = lk_store_destroy(lk_env_posix(), c_path, &err)
    if st != LK_OK:
        raise_error(&err)
