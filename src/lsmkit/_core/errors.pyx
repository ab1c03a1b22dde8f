# errors.pyx: turns an lk_error into an exception; nothing else in the border raises for the core.
#
# Callers   every method that calls the core: `if st != LK_OK: raise_error(&err)`.
# Always    the GIL is held; `err` was filled by lk_fail() and is only read here.

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport strlen

cdef extern from "Python.h":
    str PyUnicode_DecodeFSDefault(const char *text)

cdef extern from "status.h" nogil:
    ctypedef enum lk_status:
        LK_OK
        LK_FULL
        LK_MISS
        LK_IO
        LK_CORRUPT
        LK_NOMEM
        LK_INVALID
        LK_LOCKED
        LK_CLOSED
        LK_READONLY
        LK_BUSY
        LK_NOT_FOUND
        LK_EXISTS
        LK_CANCELLED
        LK_UNSUPPORTED
        LK_OPERATOR
        LK_LOST

    ctypedef struct lk_error:
        lk_status code
        int sys_errno
        uint64_t offset
        uint64_t expected
        uint64_t found
        char path[512]
        char message[512]

    const char *lk_status_name(lk_status code)

import errno as _errno
from os import strerror as _strerror

from lsmkit import errors as _errors


cdef object raise_error(lk_error *err):
    """Raises what `err` says; never returns. See status.h and lsmkit/errors.py for the two sides.

    LK_LOCKED carries the owner's pid in `found` and the second since which it owns in `offset`;
    LK_BUSY the nanoseconds to wait in `offset`; LK_LOST the oldest sequence in `expected`.
    """
    cdef lk_status code = err.code
    # A message may have been cut in the middle of a path's character.
    cdef str message = PyUnicode_DecodeUTF8(err.message, strlen(err.message), "replace")
    cdef object path = PyUnicode_DecodeFSDefault(err.path) if err.path[0] != 0 else None
    if code == LK_CORRUPT:
        raise corruption_error(err, message, path)
    if code == LK_IO:
        raise _errors.StorageError(err.sys_errno or _errno.EIO, system_text(err, message), path)
    if code == LK_NOMEM:
        raise MemoryError(message)
    if code == LK_INVALID:
        raise ValueError(message)
    if code == LK_LOCKED:
        raise _errors.LockedError(message, path, err.found or None,
                                  float(err.offset) if err.offset else None)
    if code == LK_CLOSED:
        raise _errors.ClosedError(located(message, path))
    if code == LK_CANCELLED:
        # Only closing the store cancels work that a caller waits for.
        raise _errors.ClosedError(message or "the store was closed meanwhile")
    if code == LK_READONLY:
        raise _errors.ReadOnlyError(located(message, path))
    if code == LK_BUSY:
        raise _errors.Busy(message, err.offset / 1e9)
    if code == LK_NOT_FOUND:
        raise _errors.StoreNotFoundError(err.sys_errno or _errno.ENOENT, message, path)
    if code == LK_EXISTS:
        raise _errors.StoreExistsError(err.sys_errno or _errno.EEXIST, message, path)
    if code == LK_UNSUPPORTED:
        # With a file it is the file that this version cannot read; without, what was asked for.
        if path is not None:
            raise corruption_error(err, message, path)
        raise _errors.OptionsError(message)
    if code == LK_OPERATOR:
        raised = take_raised()
        raise raised if raised is not None else _errors.Error(message)
    if code == LK_LOST:
        raise _errors.ChangesLost(located(message, path), err.expected)
    # LK_FULL and LK_MISS are the core's own affairs: the store retries them.
    name = lk_status_name(code).decode()
    raise _errors.Error(f"unexpected status '{name}' from the core: {located(message, path)}")


cdef object corruption_error(lk_error *err, str message, object path):
    # Equal numbers are what lk_fail() is given where no two numbers were compared.
    if err.found == err.expected:
        return _errors.CorruptionError(message, path or "", err.offset)
    return _errors.CorruptionError(message, path or "", err.offset, err.found, err.expected)


cdef str system_text(lk_error *err, str message):
    """The message with the system's reason, unless it has it already, and the place in the file."""
    cdef str reason = _strerror(err.sys_errno) if err.sys_errno else ""
    if not message:
        message = reason
    elif reason and reason not in message:
        message = f"{message}: {reason}"
    return f"{message}, at byte {err.offset}" if err.offset else message


cdef str located(str message, object path):
    return f"{path}: {message}" if path is not None and path not in message else message
