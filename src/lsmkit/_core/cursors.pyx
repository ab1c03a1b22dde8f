# cursors.pyx: a place in the store that moves both ways.
#
# Owns      an lk_browser, whose cursor pins what it reads, and a reference to the store or
#           snapshot that it came from, which therefore stays open.
# Threads   one at a time: a second thread that uses a cursor which is reading gets an error. Moves
#           within the rows that were read ahead keep the GIL, others drop it.
# Errors    ClosedError once the cursor or its store is closed; ValueError where it stands nowhere.

cdef extern from "browser.h" nogil:
    ctypedef struct lk_browser:
        lk_cursor *cursor
    lk_status lk_browser_init(lk_browser *b, lk_view *view, uint32_t tree, uint64_t seq,
                              lk_error *err)
    void lk_browser_deinit(lk_browser *b)
    bint lk_browser_is_valid(const lk_browser *b)
    lk_pair lk_browser_row(const lk_browser *b)
    lk_status lk_browser_seek(lk_browser *b, const lk_bytes *key, bint backwards, lk_error *err)
    lk_status lk_browser_move(lk_browser *b, bint backwards, lk_error *err)
    bint lk_browser_step(lk_browser *b, bint backwards)


@cython.final
@cython.no_gc_clear  # the handle is needed to close the browser
cdef class Cursor:
    """A place among the rows of a store, as they were when the cursor was made; it moves both ways.

    Made by `cursor()` of a store or snapshot, and then stands nowhere until it seeks. Moves return
    whether it stands at a row, which is also `valid`; where it does not, `key`, `value`, `next` and
    `prev` are a ValueError, and it can seek again. Rows are read ahead, so that a walk costs what a
    scan costs. It pins what it reads until it is closed or dropped. A context manager; one thread
    at a time.
    """

    cdef Handle handle
    cdef Reader of
    cdef lk_browser browser
    cdef bint is_running

    def __init__(self, *args, **kwargs):
        raise TypeError("Cursor is made by cursor() of a store or snapshot")

    def __dealloc__(self):
        if self.browser.cursor != NULL and not lk_store_is_forked(self.handle.s):
            lk_browser_deinit(&self.browser)

    def seek(self, key):
        """To the first key that is not less than `key`; returns whether there is one.

        Costs a search in each run of tables and of the log, about two gets, and less where `key`
        is among the rows that were read ahead.
        """
        return self.seek_key(key, False)

    def seek_for_prev(self, key):
        """To the last key that is not greater than `key`; returns whether there is one."""
        return self.seek_key(key, True)

    def seek_to_first(self):
        """To the first key of all; returns whether there is one."""
        return self.go(NULL, False, False)

    def seek_to_last(self):
        """To the last key of all; returns whether there is one."""
        return self.go(NULL, True, False)

    def next(self):
        """To the next key; returns whether there is one. ValueError unless it is `valid`."""
        self.check_valid()
        return lk_browser_step(&self.browser, False) or self.go(NULL, False, True)

    def prev(self):
        """To the key before; returns whether there is one. ValueError unless it is `valid`."""
        self.check_valid()
        return lk_browser_step(&self.browser, True) or self.go(NULL, True, True)

    @property
    def valid(self):
        """Whether it stands at a row."""
        self.check_open()
        return lk_browser_is_valid(&self.browser)

    @property
    def key(self):
        """The key of the row that it stands at; a ValueError unless it is `valid`."""
        self.check_valid()
        cdef lk_bytes key = lk_browser_row(&self.browser).key
        return PyBytes_FromStringAndSize(<const char *>key.data, <Py_ssize_t>key.len)

    @property
    def value(self):
        """The value of the row that it stands at; a ValueError unless it is `valid`."""
        self.check_valid()
        cdef lk_bytes value = lk_browser_row(&self.browser).value
        return PyBytes_FromStringAndSize(<const char *>value.data, <Py_ssize_t>value.len)

    def close(self):
        """Gives back what it pins; everything but `close` is a ClosedError from now on."""
        self.check_idle()
        if not lk_store_is_forked(self.handle.s):
            lk_browser_deinit(&self.browser)
        self.browser.cursor = NULL
        self.of = None

    def __enter__(self):
        self.check_open()
        return self

    def __exit__(self, kind, error, traceback):
        self.close()

    cdef int check_idle(self) except -1:
        if self.is_running:
            raise RuntimeError("the cursor is being moved by another thread")
        return 0

    cdef int check_open(self) except -1:
        if self.browser.cursor == NULL:
            raise _errors.ClosedError("the cursor is closed")
        if not lk_store_is_open(self.handle.s) or self.handle.dropped is not None:
            self.of.check_tree()
        return self.check_idle()

    cdef int check_valid(self) except -1:
        self.check_open()
        if not lk_browser_is_valid(&self.browser):
            raise ValueError("the cursor stands at no row")
        return 0

    cdef bint seek_key(self, key, bint backwards) except -1:
        cdef lk_bytes sought
        cdef _Bytes b = key_of(key)
        sought.data = b.data
        sought.len = b.len
        return self.go(&sought, backwards, False)

    cdef bint go(self, const lk_bytes *key, bint backwards, bint by_one) except -1:
        cdef lk_status st
        cdef lk_error err
        self.check_open()
        self.handle.enter()
        self.is_running = True
        with nogil:
            if by_one:
                st = lk_browser_move(&self.browser, backwards, &err)
            else:
                st = lk_browser_seek(&self.browser, key, backwards, &err)
        self.is_running = False
        lk_store_leave(self.handle.s)
        if st != LK_OK:
            raise_error(&err)
        return lk_browser_is_valid(&self.browser)


def cursor(Reader of not None):
    """See lsmkit.tree._Readable.cursor."""
    cdef Cursor c = Cursor.__new__(Cursor)
    cdef lk_error err
    cdef lk_status st
    cdef uint64_t seq
    cdef lk_view *v
    c.handle = of.handle
    c.of = of
    v = of.pin(&seq)
    st = lk_browser_init(&c.browser, v, of.tree, seq, &err)
    of.unpin(v)
    if st != LK_OK:
        raise_error(&err)
    return c
