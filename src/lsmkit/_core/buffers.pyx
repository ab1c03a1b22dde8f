# buffers.pyx: large buffers go round, because fresh pages cost more than the copy into them.
#
# Owns      the buffers that nobody uses at the moment, BUFFER_POOL_BYTES at most.
# Callers   Columns take their memory here and give it back; so does whoever fills one.
# Threads   any, with or without the GIL. The pool's lock is only tried: whoever does not get it
#           goes to the allocator, so nothing here ever waits, also not in a child whose parent
#           held the lock at the moment of the fork.
# Always    a pooled buffer is at least as large as it says, and free() may take it.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **out, size_t alignment, size_t bytes)

cdef extern from * nogil:
    """
    #define lk_try_lock(flag) (!__atomic_test_and_set((flag), __ATOMIC_ACQUIRE))
    #define lk_unlock(flag) __atomic_clear((flag), __ATOMIC_RELEASE)
    #define lk_ref(count) ((void)__atomic_fetch_add((count), 1, __ATOMIC_RELAXED))
    /* Whoever takes the last reference sees all that was done under the others. */
    #define lk_unref(count) (__atomic_sub_fetch((count), 1, __ATOMIC_ACQ_REL) == 0)
    """
    bint lk_try_lock(char *flag)
    void lk_unlock(char *flag)
    void lk_ref(int64_t *count)
    bint lk_unref(int64_t *count)

cdef enum:
    BUFFER_SLOTS = 64
    BUFFER_POOLED_MIN = 1 << 16   # below, the allocator recycles as well and its pages are warm
    BUFFER_POOL_BYTES = 1 << 26
    BUFFER_ALIGN = 64             # what Arrow recommends

cdef struct buffer_slot:
    void *data
    size_t bytes

cdef struct buffer_pool:
    char lock
    int count
    size_t bytes
    buffer_slot slots[BUFFER_SLOTS]  # oldest first

cdef buffer_pool BUFFERS


cdef void *buffer_take(size_t bytes) noexcept nogil:
    """At least `bytes` bytes of any content, aligned to 64; NULL when there is no memory.

    Given back with buffer_give(), or released with free().
    """
    cdef void *data = NULL
    if bytes >= BUFFER_POOLED_MIN and lk_try_lock(&BUFFERS.lock):
        data = pool_take(bytes)
        lk_unlock(&BUFFERS.lock)
    if data == NULL and posix_memalign(&data, BUFFER_ALIGN, bytes if bytes > 0 else 1) != 0:
        return NULL
    return data


cdef void buffer_give(void *data, size_t bytes) noexcept nogil:
    """Takes back a buffer of `bytes` bytes, or more, from buffer_take() or malloc(); NULL too."""
    if data == NULL:
        return
    if bytes < BUFFER_POOLED_MIN or bytes > BUFFER_POOL_BYTES or not lk_try_lock(&BUFFERS.lock):
        free(data)
        return
    while BUFFERS.count == BUFFER_SLOTS or BUFFERS.bytes + bytes > BUFFER_POOL_BYTES:
        free(pool_remove(0))  # sizes that are asked for no more leave in this way
    BUFFERS.slots[BUFFERS.count].data = data
    BUFFERS.slots[BUFFERS.count].bytes = bytes
    BUFFERS.count += 1
    BUFFERS.bytes += bytes
    lk_unlock(&BUFFERS.lock)


cdef void *pool_take(size_t bytes) noexcept nogil:
    """The smallest buffer that is large enough, but none so large that most of it lies idle."""
    cdef int i, best = -1
    for i in range(BUFFERS.count):
        if BUFFERS.slots[i].bytes >= bytes and BUFFERS.slots[i].bytes / 4 <= bytes:
            if best < 0 or BUFFERS.slots[i].bytes < BUFFERS.slots[best].bytes:
                best = i
    return pool_remove(best) if best >= 0 else NULL


cdef void *pool_remove(int at) noexcept nogil:
    cdef int i
    cdef void *data = BUFFERS.slots[at].data
    BUFFERS.bytes -= BUFFERS.slots[at].bytes
    BUFFERS.count -= 1
    for i in range(at, BUFFERS.count):
        BUFFERS.slots[i] = BUFFERS.slots[i + 1]
    return data
