# keyspaces.pyx: which keyspaces a store has, as numbers and texts; lsmkit.keyspace knows what they say.
#
# Threads   any. What writes to the manifest does so without the GIL.
# Errors    a name that is taken, or a keyspace that is not there (any more), is a result.

def keyspaces_of(Handle h not None):
    """(number, text) of each keyspace, by number."""
    cdef lk_trees *t
    cdef uint32_t i
    h.enter()
    t = lk_store_trees(h.s)
    try:
        return [(t.items[i].tree, (<bytes>t.items[i].text).decode()) for i in range(t.count)]
    finally:
        lk_trees_unref(t)
        lk_store_leave(h.s)


def find_keyspace(Handle h not None, key not None):
    """(number, text) of the keyspace with this number, or whose text begins with this line; None
    where there is none."""
    cdef const lk_tree_entry *found
    cdef bytes line
    cdef lk_trees *t
    h.enter()
    t = lk_store_trees(h.s)
    try:
        if isinstance(key, int):
            found = lk_trees_find(t, key)
        else:
            line = key.encode()
            found = lk_trees_named(t, line)
        return None if found == NULL else (found.tree, (<bytes>found.text).decode())
    finally:
        lk_trees_unref(t)
        lk_store_leave(h.s)


def create_keyspace(Handle h not None, str text not None):
    """The number of a new keyspace; 0 where there is one of that name."""
    cdef bytes encoded = text.encode()
    cdef const char *c_text = encoded
    cdef uint32_t tree = 0
    cdef lk_error err
    cdef lk_status st
    h.enter()
    with nogil:
        st = lk_store_keyspace_create(h.s, c_text, &tree, &err)
        lk_store_leave(h.s)
    if st != LK_OK and st != LK_EXISTS:
        raise_error(&err)
    return tree


def change_keyspace(Handle h not None, uint32_t tree, str text not None):
    """Gives a keyspace another text."""
    cdef bytes encoded = text.encode()
    cdef const char *c_text = encoded
    cdef lk_error err
    cdef lk_status st
    h.enter()
    with nogil:
        st = lk_store_keyspace_change(h.s, tree, c_text, &err)
        lk_store_leave(h.s)
    if st != LK_OK:
        raise_error(&err)


def drop_keyspace(Handle h not None, uint32_t tree):
    """Drops a keyspace with all that is in it; False where it is not there."""
    cdef lk_error err
    cdef lk_status st
    h.enter()
    with nogil:
        st = lk_store_keyspace_drop(h.s, tree, &err)
        lk_store_leave(h.s)
    if st == LK_NOT_FOUND:
        return False
    if st != LK_OK:
        raise_error(&err)
    h.note_dropped({tree})
    return True


def set_tree(Handle h not None, uint32_t tree, ttl, operator):
    """What holds for rows of the tree from now on: for how many seconds those live that are written
    without a ttl of their own (None: for ever), and how operands merge. Handles of the tree must be
    attached anew."""
    cdef lk_tree_settings settings
    cdef lk_error err
    cdef lk_status st
    tree_settings(&settings, tree, ttl, operator)
    if ttl is not None:
        h.has_ttl = True
    h.enter()
    with nogil:
        st = lk_store_set_tree(h.s, &settings, &err)
        lk_store_leave(h.s)
    if st != LK_OK:
        raise_error(&err)
