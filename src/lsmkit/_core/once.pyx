# once.pyx: a write that carries its place in a source's order, so that it is applied once.
#
# Callers   Tree's writers of many rows; the queue.
# Always    source and sequence number stand in the frame of what they belong to, as a row of a tree
#           of their own (LK_TREE_POSITIONS), which no scan shows.

from cpython.number cimport PyNumber_Index

cdef enum:
    SOURCE_BYTES_MAX = 255

cdef uint64_t SOURCE_SEQ_MAX = (<uint64_t>1 << 63) - 1


cdef bytes source_bytes(source):
    cdef bytes name
    if not isinstance(source, str):
        raise TypeError(f"source must be a str, not {type(source).__name__}")
    name = source.encode()
    if not 0 < len(name) <= SOURCE_BYTES_MAX:
        raise ValueError(f"source has {len(name)} bytes; it must have 1 to {SOURCE_BYTES_MAX}")
    return name


cdef bytes write_once(lk_write *w, source, seq):
    """Makes the write move the position of `source` on; what this gives must outlive the write."""
    cdef bytes name
    if source is None and seq is None:
        return None
    if source is None or seq is None:
        raise TypeError("source and seq belong together: one was given without the other")
    name = source_bytes(source)
    number = PyNumber_Index(seq)
    if not 0 <= number <= SOURCE_SEQ_MAX:
        raise ValueError(f"seq is {number}; it must be 0 to {SOURCE_SEQ_MAX}")
    w.source.data = <const uint8_t *>PyBytes_AS_STRING(name)
    w.source.len = <size_t>PyBytes_GET_SIZE(name)
    w.source_seq = number
    return name


cdef object source_position(Handle handle, source):
    cdef bytes name = source_bytes(source)
    cdef lk_bytes key
    cdef lk_error err
    cdef lk_status st
    cdef bint any = False
    cdef uint64_t seq = 0
    key.data = <const uint8_t *>PyBytes_AS_STRING(name)
    key.len = <size_t>PyBytes_GET_SIZE(name)
    handle.enter()
    with nogil:
        st = lk_store_position(handle.s, key, &any, &seq, &err)
        lk_store_leave(handle.s)
    if st != LK_OK:
        raise_error(&err)
    return seq if any else None
