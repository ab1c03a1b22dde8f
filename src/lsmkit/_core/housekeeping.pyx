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

cdef extern from "repair.h" nogil:
    ctypedef struct lk_repair_report:
        bint changed, rebuilt
        uint64_t tables, salvaged, lost, rows_kept, blocks_lost, values_lost, records, log_lost, moved
    lk_status lk_store_repair(lk_env *env, const char *dir,
                              void (*note)(void *context, const char *line) noexcept,
                              void *context, lk_repair_report *out, lk_error *err)


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


cdef void repair_note(void *context, const char *line) noexcept with gil:
    (<list>context).append(PyUnicode_DecodeFSDefault(line))


def repair(bytes path):
    cdef lk_error err
    cdef lk_status st
    cdef lk_repair_report r
    cdef const char *c_path = path
    cdef list notes = []
    cdef void *context = <void *>notes
    with nogil:
        st = lk_store_repair(lk_env_posix(), c_path, repair_note, context, &r, &err)
    if st != LK_OK:
        raise_error(&err)
    return {
        "changed": bool(r.changed),
        "rebuilt": bool(r.rebuilt),
        "tables": r.tables,
        "salvaged": r.salvaged,
        "lost": r.lost,
        "rows_kept": r.rows_kept,
        "blocks_lost": r.blocks_lost,
        "values_lost": r.values_lost,
        "records": r.records,
        "log_lost": r.log_lost,
        "moved": r.moved,
    }, notes
