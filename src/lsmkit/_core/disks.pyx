# disks.pyx: a disk in memory, for stores that shall leave nothing behind and for tests that make it
# fail.
#
# Owns      a Disk owns the simulated machine; a Handle that was opened on it keeps it alive, so that
#           the machine goes last.
# Threads   any; the machine has a lock of its own.

cimport cython
from posix.unistd cimport getpid

cdef extern from "env_sim.h" nogil:
    ctypedef struct lk_sim:
        pass
    ctypedef enum lk_sim_op:
        LK_SIM_ANY
    ctypedef enum lk_sim_cut:
        LK_SIM_KEEP_ALL
        LK_SIM_LOSE_UNSYNCED
        LK_SIM_RANDOM
    enum:
        LK_SIM_FAULTS_MAX
        LK_SIM_PART_BYTES_MAX
    lk_sim *lk_sim_new(uint64_t seed)
    void lk_sim_free(lk_sim *sim)
    lk_env *lk_sim_env(lk_sim *sim)
    bint lk_sim_op_find(const char *name, lk_sim_op *out)
    bint lk_sim_fail_on(lk_sim *sim, lk_sim_op op, const char *part, uint64_t nth, int sys_errno,
                        bint sticky)
    void lk_sim_clear_faults(lk_sim *sim)
    void lk_sim_set_capacity(lk_sim *sim, uint64_t bytes)
    uint64_t lk_sim_used_bytes(lk_sim *sim)
    uint64_t lk_sim_calls_of(lk_sim *sim, lk_sim_op op)
    void lk_sim_kill(lk_sim *sim)
    void lk_sim_power_cut(lk_sim *sim, lk_sim_cut mode, uint64_t seed)
    void lk_sim_set_real(lk_sim *sim, bint is_real)
    void lk_sim_trace(lk_sim *sim, bint is_on)
    char *lk_sim_trace_take(lk_sim *sim)

cdef extern from "env.h" nogil:
    lk_status lk_env_mkdir(lk_env *env, const char *path, bint *out_existed, lk_error *err)
    lk_status lk_env_sync_dir(lk_env *env, const char *path, lk_error *err)


cdef lk_sim_op op_of(str call) except *:
    cdef lk_sim_op op
    cdef bytes name = call.encode()
    if not lk_sim_op_find(name, &op):
        raise ValueError(f"call is {call!r}; it must be one that a disk knows: 'any', 'open', "
                         "'read', 'pwrite', 'fsync', 'fdatasync', 'rename', 'unlink', ...")
    return op


@cython.final
cdef class Disk:
    """A machine's disk and page cache in memory, with the real clock; see lsmkit.testing."""

    cdef lk_sim *sim
    cdef int pid

    def __cinit__(self, uint64_t seed=0):
        self.pid = getpid()
        self.sim = lk_sim_new(seed)
        if self.sim == NULL:
            raise MemoryError()
        lk_sim_set_real(self.sim, True)

    def __dealloc__(self):
        # In a forked child the handles are the parent's, and so are the machine's locks.
        if self.sim != NULL and self.pid == getpid():
            lk_sim_free(self.sim)

    def make_directories(self, bytes path not None):
        """Makes each directory on the way to `path`, which is absolute, but not the last one; they
        are durable."""
        cdef lk_env *env = lk_sim_env(self.sim)
        cdef lk_error err
        cdef bint existed = True
        cdef bytes parent = b"/", child
        for name in path.split(b"/")[1:-1]:
            child = (b"" if parent == b"/" else parent) + b"/" + name
            if lk_env_mkdir(env, child, &existed, &err) != LK_OK:
                raise_error(&err)
            if not existed and lk_env_sync_dir(env, parent, &err) != LK_OK:
                raise_error(&err)
            parent = child

    def set_room(self, room):
        """How many bytes more may be taken up; None for no bound."""
        cdef uint64_t most = <uint64_t>-1 if room is None else room
        if room is not None:
            most = lk_sim_used_bytes(self.sim) + most
        lk_sim_set_capacity(self.sim, most)

    def used_bytes(self):
        return lk_sim_used_bytes(self.sim)

    def calls(self, str call not None):
        return lk_sim_calls_of(self.sim, op_of(call))

    def fail(self, str call not None, uint64_t nth, int number, bytes part not None, bint sticky):
        cdef lk_sim_op op = op_of(call)
        if len(part) >= LK_SIM_PART_BYTES_MAX:
            raise ValueError(f"path has {len(part)} bytes, more than the "
                             f"{LK_SIM_PART_BYTES_MAX - 1} allowed")
        if not lk_sim_fail_on(self.sim, op, part, nth, number, sticky):
            raise ValueError(f"{LK_SIM_FAULTS_MAX} faults are planned already")

    def clear_faults(self):
        lk_sim_clear_faults(self.sim)

    def kill(self):
        with nogil:
            lk_sim_kill(self.sim)

    def power_cut(self, str keep not None, uint64_t seed):
        cdef lk_sim_cut mode = {"all": LK_SIM_KEEP_ALL, "synced": LK_SIM_LOSE_UNSYNCED,
                                "random": LK_SIM_RANDOM}[keep]
        with nogil:
            lk_sim_power_cut(self.sim, mode, seed)

    def trace(self, bint is_on):
        lk_sim_trace(self.sim, is_on)

    def trace_take(self):
        cdef char *text = lk_sim_trace_take(self.sim)
        if text == NULL:
            raise MemoryError()
        try:
            return (<bytes>text).decode("utf-8", "replace")
        finally:
            free(text)


cdef lk_env *env_of(Disk disk):
    """The disk's, or the real machine's where there is none."""
    return lk_env_posix() if disk is None else lk_sim_env(disk.sim)
