/* status.h: how a C function says what went wrong.
 *
 * Always    `lk_error` is filled by lk_fail() and by nothing else, where the fault is first seen,
 *           so that one breakpoint catches every fault. An absent key is a result, not an error.
 */
#ifndef LK_STATUS_H
#define LK_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum lk_status {
    LK_OK = 0,
    LK_FULL,        /* a segment has no room: freeze it and retry */
    LK_MISS,        /* a block is not in memory: retry where blocking is allowed */
    LK_IO,          /* a call to the operating system failed; sys_errno says why */
    LK_CORRUPT,     /* bytes of a file are not what was written */
    LK_NOMEM,       /* memory could not be had */
    LK_INVALID,     /* an argument is out of its range */
    LK_LOCKED,      /* another handle owns the store */
    LK_CLOSED,      /* the store was closed, or belongs to the parent process */
    LK_READONLY,    /* the handle may not write */
    LK_BUSY,        /* the wait would be longer than allowed */
    LK_NOT_FOUND,   /* a file that must exist does not */
    LK_EXISTS,      /* a file that must not exist does */
    LK_CANCELLED,   /* a background job was told to stop */
    LK_UNSUPPORTED, /* the format is of a version that this code does not read */
    LK_OPERATOR,    /* a merge operator of the program's own failed */
    LK_LOST,        /* changes that are asked for are not kept any more; expected: the oldest */
} lk_status;

#define LK_PATH_MAX 512
#define LK_MESSAGE_MAX 512

typedef struct lk_error {
    lk_status code;
    int sys_errno;     /* 0 where no system call failed */
    uint64_t offset;   /* byte offset in `path`, where that has a meaning */
    uint64_t expected; /* of a checksum, length, number: what it should have been */
    uint64_t found;    /* ... and what it was */
    char path[LK_PATH_MAX];
    char message[LK_MESSAGE_MAX];
} lk_error;

/* Fills `err` (which may be NULL) and returns `code`. `path` may be NULL. */
lk_status lk_fail(lk_error *err, lk_status code, int sys_errno, const char *path, uint64_t offset,
                  uint64_t expected, uint64_t found, const char *format, ...)
    __attribute__((format(printf, 8, 9), cold));

#define lk_fail_nomem(err, bytes)                                                                  \
    lk_fail((err), LK_NOMEM, 0, NULL, 0, 0, (uint64_t)(bytes), "no memory for %llu bytes",         \
            (unsigned long long)(bytes))

#define lk_fail_corrupt(err, path, offset, expected, found, ...)                                   \
    lk_fail((err), LK_CORRUPT, 0, (path), (offset), (expected), (found), __VA_ARGS__)

const char *lk_status_name(lk_status code);

/* Runs `expr`, leaves its status in `st`, and goes to `done` when it failed. */
#define LK_TRY(expr)                                                                               \
    do {                                                                                           \
        st = (expr);                                                                               \
        if (st != LK_OK) goto done;                                                                \
    } while (0)

#define LK_LIKELY(x) __builtin_expect(!!(x), 1)
#define LK_UNLIKELY(x) __builtin_expect(!!(x), 0)

#endif
