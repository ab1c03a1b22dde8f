# merges.pyx: merge operators at the border, and those that are functions in Python.
#
# Owns      Operator holds a reference to its C operator, which holds one to the function.
# Callers   lsmkit.merge's classes are Python subclasses of Operator.
# Threads   any. The core calls a function in Python from whichever thread folds, a worker too, and
#           takes the GIL for it, once for all operands of a key; it holds no lock then.
# Errors    what a function raises is kept for the thread that asked, and raised when its call comes
#           back to the border (raise_error); a worker, which nobody asked, has its text alone.

from cpython.ref cimport Py_DECREF, Py_INCREF

cdef extern from "Python.h" nogil:
    void *PyGILState_GetThisThreadState()

cdef extern from * nogil:
    """
    /* Keeps the exception that an operator's function raised in this thread; gives the one before. */
    static PyObject *lk_exchange_raised(PyObject *raised)
    {
        static _Thread_local PyObject *kept;
        PyObject *before = kept;
        kept = raised;
        return before;
    }

    /* Numbers as the 8 bytes that operators keep; i and u: integers, f: floats. -1, or the row that
     * does not fit. */
    static Py_ssize_t lk_widen(uint8_t *out, const uint8_t *p, Py_ssize_t count, Py_ssize_t stride,
                               int width, char number, int as_float)
    {
        for (Py_ssize_t i = 0; i < count; i++, p += stride, out += 8) {
            uint64_t v = 0;
            double x = 0;
            float x4;
            memcpy(&v, p, (size_t)width);
            if (number == 'f') {
                memcpy(&x4, p, 4);
                memcpy(&x, p, (size_t)width);
                if (width == 4) x = x4;
            } else if (number == 'i') {
                int unused = 64 - 8 * width;
                v = (uint64_t)((int64_t)(v << unused) >> unused);
                x = (double)(int64_t)v;
            } else {
                if (!as_float && v >> 63 != 0) return i;
                x = (double)v;
            }
            if (as_float) memcpy(&v, &x, 8);
            memcpy(out, &v, 8);
        }
        return -1;
    }
    """
    PyObject *lk_exchange_raised(PyObject *raised)
    Py_ssize_t lk_widen(uint8_t *out, const uint8_t *p, Py_ssize_t count, Py_ssize_t stride,
                        int width, char number, bint as_float)


# --- Functions in Python ---------------------------------------------------------------------

cdef void keep_raised(object error) noexcept:
    """For raise_error() in this thread; None forgets what was kept."""
    cdef PyObject *before
    if error is None:
        before = lk_exchange_raised(NULL)
    else:
        Py_INCREF(error)
        before = lk_exchange_raised(<PyObject *>error)
    if before != NULL:
        Py_DECREF_pointer(before)


cdef object take_raised():
    cdef PyObject *raised = lk_exchange_raised(NULL)
    if raised == NULL:
        return None
    error = <object>raised
    Py_DECREF_pointer(raised)
    return error


cdef lk_status call_function(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands,
                             size_t count, lk_buffer *out, bint was_asked, lk_error *err) noexcept:
    cdef size_t i
    cdef str text
    cdef bytes message
    keep_raised(None)
    try:
        function = <object>op.context
        if function is None:
            name = op.text.decode().partition(":")[2]
            raise _errors.OptionsError(
                f"the store merges by a function that is called {name!r}: open it with "
                f"merge_operator=lsmkit.merge.Custom({name!r}, ...)")
        value = None if old == NULL else <bytes>(<const char *>old.data)[:old.len]
        for i in range(count):
            value = function(value, <bytes>(<const char *>operands[i].data)[:operands[i].len])
        if not PyBytes_CheckExact(value):
            value = bytes(memoryview(value))
        if PyBytes_GET_SIZE(value) > <Py_ssize_t>LK_VALUE_BYTES_MAX:
            raise ValueError(f"the merged value has {PyBytes_GET_SIZE(value)} bytes, more than the "
                             f"{LK_VALUE_BYTES_MAX} allowed")
        return lk_buffer_append(out, PyBytes_AS_STRING(value), <size_t>PyBytes_GET_SIZE(value), err)
    except BaseException as error:
        if was_asked:
            keep_raised(error)
        text = f"merge operator {op.text.decode()}: {type(error).__name__}: {error}"
        message = text.encode("utf-8", "replace")
        return lk_fail(err, LK_OPERATOR, 0, NULL, 0, 0, 0, b"%s", PyBytes_AS_STRING(message))


cdef lk_status function_full(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands,
                             size_t count, lk_buffer *out, lk_error *err) noexcept nogil:
    cdef bint was_asked = PyGILState_GetThisThreadState() != NULL  # a worker has none
    with gil:
        return call_function(op, old, operands, count, out, was_asked, err)


cdef lk_status function_partial(const lk_operator *op, const lk_bytes *operands, size_t count,
                                lk_buffer *out, lk_error *err) noexcept nogil:
    return function_full(op, operands, operands + 1, count - 1, out, err)


cdef void function_release(void *context) noexcept nogil:
    with gil:
        Py_DECREF(<object>context)


# --- Operands that writers give --------------------------------------------------------------

cdef bint operator_takes(const lk_operator *op, object operand) noexcept:
    """Whether these bytes may be an operand."""
    cdef lk_bytes span
    span.len = <size_t>PyBytes_GET_SIZE(operand)
    if op.width != 0:
        return span.len == op.width
    span.data = <const uint8_t *>PyBytes_AS_STRING(operand)
    return op.check(op, span, NULL) == LK_OK


cdef _Bytes operand_of(const lk_operator *op, operand):
    """One operand that the operator takes."""
    cdef lk_bytes span
    cdef lk_error err
    if op.kind != LK_OPERATOR_OTHER and isinstance(operand, (int, float)):
        operand = numbers_of(op, (operand,), "operand")
    cdef _Bytes b = bytes_of(operand, "operand", LK_VALUE_BYTES_MAX)
    span.data = b.data
    span.len = b.len
    if op.check(op, span, &err) != LK_OK:
        raise_error(&err)
    return b


cdef object numbers_of(const lk_operator *op, numbers, str role):
    """Python's numbers as the 8 bytes each that the operator keeps."""
    from array import array
    try:
        return array("d" if op.kind == LK_OPERATOR_ADD_FLOAT64 else "q", numbers)
    except OverflowError:
        raise ValueError(f"{role}: not every number fits 8 bytes, as {op.text.decode()} keeps it"
                         ) from None


cdef enum:
    PIECE = 1024  # rows of a list that are looked at together; their spans stay in the cache


cdef bint combine_lists(const lk_operator *op, keys, operands, lk_combined *out) except -1:
    """Lists of bytes, taken up under the GIL without a copy of the lists; False: not these.

    A tuple of each and an array of where its rows are would cost as much as the sums do.
    """
    cdef lk_bytes[2 * PIECE] spans
    cdef lk_column[2] columns
    cdef lk_combiner *combiner
    cdef PyObject **k
    cdef PyObject **o
    cdef Py_ssize_t i, at, n, count
    cdef bint fits = True
    cdef lk_error err
    cdef lk_status st
    if (FREE_THREADED or type(keys) is not list or type(operands) is not list
            or op.kind == LK_OPERATOR_OTHER):
        return False
    k = sequence_items(<PyObject *>keys)
    o = sequence_items(<PyObject *>operands)
    count = list_length(<PyObject *>keys)
    if count == 0 or count > INT32_MAX or list_length(<PyObject *>operands) != count:
        return False
    st = lk_combiner_new(op, &combiner, &err)
    if st != LK_OK:
        raise_error(&err)
    memset(columns, 0, sizeof(columns))
    columns[0].form = columns[1].form = LK_COLUMN_SPANS
    columns[0].spans = spans
    columns[1].spans = spans + PIECE
    for at in range(0, count, PIECE):
        n = min(<Py_ssize_t>PIECE, count - at)
        for i in range(n):
            lk_prefetch(k[min(at + i + COPY_AHEAD, count - 1)])
            fits &= row_span(k[at + i], &spans[i]) and row_span(o[at + i], &spans[PIECE + i])
            fits &= spans[i].len <= LK_KEY_BYTES_MAX and spans[PIECE + i].len == 8
        columns[0].count = columns[1].count = <size_t>n
        if fits:
            st = lk_combiner_add(combiner, &columns[0], &columns[1], &err)
        if not fits or st != LK_OK:
            break
    if fits and st == LK_OK:
        st = lk_combiner_end(combiner, out, &err)
    lk_combiner_free(combiner)
    if st != LK_OK:
        raise_error(&err)
    return fits


cdef inline bint row_span(PyObject *item, lk_bytes *out) noexcept:
    if not item_is_exact_bytes(item):
        out.len = 0
        return False
    out.data = <const uint8_t *>item_data(item)
    out.len = <size_t>item_bytes(item)
    return True


cdef bint merge_columns(Tree tree, keys, operands, durability, timeout, source, seq) except -1:
    """Tree.merge_many: the operands of each key as one, where that can be."""
    cdef lk_operator *op = tree.operator()
    cdef _ColumnIn k, o
    cdef lk_combined combined
    cdef lk_write w
    memset(&combined, 0, sizeof(combined))
    tree.prepare(&w, None, durability, timeout)
    held = write_once(&w, source, seq)
    w.kind = LK_KIND_MERGE
    try:
        if combine_lists(op, keys, operands, &combined):
            w.keys = &combined.keys
            w.values = &combined.operands
        else:
            k = column_in(keys, "keys", True)
            o = operands_in(op, operands)
            if k.col.count != o.col.count:
                raise ValueError(f"{k.col.count} keys and {o.col.count} operands")
            w.keys = &k.col
            w.values = &o.col
            if op.partial != NULL and k.col.count > 0:
                combine_columns(op, &w, &combined)
        w.records = w.keys.count
        if w.records == 0 and held is None:
            tree.handle.check_open()
            return True
        return tree.write_now(&w)
    finally:
        lk_combined_deinit(&combined)


cdef int combine_columns(const lk_operator *op, lk_write *w, lk_combined *out) except -1:
    """Puts what is combined in place of the columns of the write."""
    cdef lk_error err
    cdef lk_status st
    if op.calls_out:  # the GIL would be asked for at every key
        st = lk_combine(op, w.keys, w.values, out, &err)
    else:
        with nogil:
            st = lk_combine(op, w.keys, w.values, out, &err)
    if st == LK_OK:
        w.keys = &out.keys
        w.values = &out.operands
    elif st == LK_OPERATOR:
        keep_raised(None)  # the read that meets these operands raises it
    else:
        raise_error(&err)
    return 0


# --- Operators -------------------------------------------------------------------------------

cdef class Operator:
    """What makes one value of a key's operands; the base of the classes of `lsmkit.merge`."""

    cdef lk_operator *op

    def _make(self, str text not None, bint is_function=False, function=None,
              bint associative=False):
        """The built-in operator of this text, or one that calls a function in Python."""
        cdef bytes utf8 = text.encode()
        cdef const char *c_text = utf8
        cdef lk_error err
        cdef lk_status st
        cdef lk_operator *made = NULL
        cdef lk_operator_partial *partial = NULL
        if is_function:
            Py_INCREF(function)
            if associative:
                partial = function_partial
            st = lk_operator_new(c_text, function_full, partial, function_release,
                                 <void *>function, &made, &err)
        else:
            st = lk_operator_parse(c_text, &made, &err)
        if st != LK_OK:
            raise_error(&err)
        lk_operator_unref(self.op)
        self.op = made

    def __dealloc__(self):
        lk_operator_unref(self.op)

    @property
    def text(self):
        """What is stored with a keyspace; operators are the same when their texts are."""
        return self.made().text.decode()

    cdef lk_operator *made(self) except NULL:
        if self.op == NULL:
            raise TypeError("an operator is made by the classes of lsmkit.merge")
        return self.op

    def fold(self, value, operands):
        """What `operands` (a column, oldest first) make of `value`, which is None where there is
        none: what a read gives. Raises ValueError for an operand that the operator refuses,
        CorruptionError for a value that it cannot read, and whatever a Custom's function raises.
        """
        cdef lk_bytes old
        cdef _Bytes v = None if value is None else bytes_of(value, "value", LK_VALUE_BYTES_MAX)
        if v is None:
            return fold_column(self.made(), NULL, operands, False)
        old.data = v.data
        old.len = v.len
        return fold_column(self.made(), &old, operands, False)

    def combine(self, operands):
        """The one operand that stands for all of these (a column, oldest first).

        Raises TypeError for a Custom operator that is not associative; otherwise as `fold`.
        """
        if self.made().partial == NULL:
            raise TypeError(f"{self.text} is not associative: its operands cannot be combined")
        return fold_column(self.op, NULL, operands, True)


cdef object fold_column(lk_operator *op, const lk_bytes *old, operands, bint partial):
    cdef _ColumnIn column = operands_in(op, operands)
    cdef lk_buffer out
    cdef lk_bytes *rows
    cdef uint8_t scratch[8]  # stays empty: operands are never turned
    cdef size_t i
    cdef lk_error err
    cdef lk_status st
    if column.col.count == 0:
        raise ValueError("operands is empty")
    rows = <lk_bytes *>malloc(column.col.count * sizeof(lk_bytes))
    if rows == NULL:
        raise MemoryError()
    memset(&out, 0, sizeof(out))
    try:
        for i in range(column.col.count):
            rows[i] = lk_column_row(&column.col, i, scratch)
        with nogil:
            if partial:
                st = op.partial(op, rows, column.col.count, &out, &err)
            else:
                st = op.full(op, old, rows, column.col.count, &out, &err)
        if st != LK_OK:
            raise_error(&err)
        return PyBytes_FromStringAndSize(<const char *>out.data, <Py_ssize_t>out.len)
    finally:
        free(rows)
        lk_buffer_deinit(&out)


cdef _ColumnIn operands_in(const lk_operator *op, operands):
    """A column of operands that the operator takes; numbers are made as wide as it wants them."""
    if (op.kind != LK_OPERATOR_OTHER and isinstance(operands, (list, tuple)) and operands
            and isinstance(operands[0], (int, float))):
        operands = numbers_of(op, operands, "operands")
    cdef _ColumnIn column = column_in(operands, "operands", False)
    cdef lk_error err
    cdef lk_status st
    if column.number != 0 and op.kind != LK_OPERATOR_OTHER:
        widen(column, op)
    with nogil:
        st = lk_combine_check(op, &column.col, &err)
    if st != LK_OK:
        raise_error(&err)
    return column


cdef int widen(_ColumnIn column, const lk_operator *op) except -1:
    cdef bint as_float = op.kind == LK_OPERATOR_ADD_FLOAT64
    cdef bint is_float = column.number == c'f'
    cdef Py_ssize_t count = <Py_ssize_t>column.col.count, bad
    cdef uint8_t *out
    if is_float and not as_float:
        raise TypeError(f"operands are floats; {op.text.decode()} takes integers")
    if column.col.width == 8 and is_float == as_float and column.number != c'u':
        return 0
    out = <uint8_t *>malloc(8 * <size_t>count + 1)
    if out == NULL:
        raise MemoryError()
    with nogil:
        bad = lk_widen(out, column.col.data, count, <Py_ssize_t>column.col.stride,
                       <int>column.col.width, column.number, as_float)
    free(column.owned)
    column.owned = out
    column.col.data = out
    column.col.stride = column.col.width = 8
    if bad >= 0:
        raise ValueError(f"operands[{bad}] is more than an int64 holds")
    return 0


def hll_estimate(value):
    """How many different elements a sketch has seen, about; ValueError for other bytes."""
    cdef _Bytes b = bytes_of(value, "value", LK_VALUE_BYTES_MAX)
    cdef lk_bytes span
    cdef double out = 0
    cdef lk_error err
    span.data = b.data
    span.len = b.len
    if lk_hll_estimate(span, &out, &err) != LK_OK:
        raise_error(&err)
    return out
