# transactions.pyx: committing what a transaction has written, if nothing that it has read was written.
#
# Callers   lsmkit/transaction.py, which keeps what was read and written.
# Threads   any; the commit runs without the GIL.

def key_bytes(key):
    """A key as bytes, checked."""
    cdef _Bytes b
    if PyBytes_CheckExact(key) and PyBytes_GET_SIZE(key) <= <Py_ssize_t>LK_KEY_BYTES_MAX:
        return key
    b = key_of(key)
    return PyBytes_FromStringAndSize(<const char *>b.data, <Py_ssize_t>b.len)


def value_bytes(value):
    """A value as bytes, checked."""
    cdef _Bytes b
    if PyBytes_CheckExact(value) and PyBytes_GET_SIZE(value) <= <Py_ssize_t>LK_VALUE_BYTES_MAX:
        return value
    b = bytes_of(value, "value", LK_VALUE_BYTES_MAX)
    return PyBytes_FromStringAndSize(<const char *>b.data, <Py_ssize_t>b.len)


def operand_bytes(Tree of not None, operand):
    """An operand as bytes, checked by the operator of the tree, which has to have one."""
    cdef _Bytes b = operand_of(of.operator(), operand)
    return PyBytes_FromStringAndSize(<const char *>b.data, <Py_ssize_t>b.len)


def fold_operands(Tree of not None, value, list operands not None):
    """What operands, oldest first, make of a value (None: there is none), as a read would."""
    cdef lk_bytes old
    if value is None:
        return fold_column(of.operator(), NULL, operands, False)
    old = span(value)
    return fold_column(of.operator(), &old, operands, False)


def check_ttl(ttl):
    """Raises what a write with this ttl would raise."""
    ttl_us_of(ttl)


def range_bytes(start, stop, prefix, include_start, include_stop):
    """(lower, upper or None) of a scan, as bytes, checked."""
    return scan_bounds(start, stop, prefix, include_start, include_stop)


def check_writing(Tree of not None, durability, timeout):
    """Raises what a write with these keywords would raise."""
    cdef lk_write w
    of.prepare(&w, None, durability, timeout)
    of.handle.check_open()


cdef lk_bytes span(bytes b) noexcept:
    cdef lk_bytes out
    out.data = <const uint8_t *>PyBytes_AS_STRING(b)
    out.len = <size_t>PyBytes_GET_SIZE(b)
    return out


def commit(Tree target not None, WriteBatch batch not None, SnapshotReader moment not None,
           tuple reads not None, durability, timeout):
    """Applies the batch if nothing of `reads` was written since the snapshot `moment`: else False.

    `reads` has for each tree (reader, keys, ranges), where the keys are a tuple of bytes and the
    ranges a tuple of (lower, upper or None).
    """
    cdef lk_write w
    cdef lk_checks checks
    cdef lk_check *item
    cdef size_t n = 0
    for _, keys, ranges in reads:
        n += <size_t>len(<tuple>keys) + <size_t>len(<tuple>ranges)
    moment.check_open()
    batch = batch.bound_to(target)
    if batch.has_merge:
        batch.check_operands(target)
    target.prepare(&w, None, durability, timeout)
    w.stamp = batch.has_ttl or target.handle.has_ttl
    w.body = batch.data
    w.body_bytes = batch.used
    w.records = batch.records
    memset(&checks, 0, sizeof(checks))
    checks.moment = moment.seq
    checks.is_held = True
    checks.count = n
    cdef lk_check *items = <lk_check *>malloc((n + 1) * sizeof(lk_check))
    if items == NULL:
        raise MemoryError()
    checks.items = items
    if n > 0:
        w.checks = &checks
    batch.locked += 1
    try:
        memset(items, 0, (n + 1) * sizeof(lk_check))
        item = items
        for reader, keys, ranges in reads:
            for key in <tuple>keys:
                item.tree = (<Reader>reader).tree
                item.start = span(key)
                item += 1
            for lower, upper in <tuple>ranges:
                item.tree = (<Reader>reader).tree
                item.is_range = True
                item.start = span(lower)
                if upper is not None:
                    item.stop = span(upper)
                item += 1
        return target.write_now(&w)
    finally:
        batch.locked -= 1
        free(items)
