/* status.c: the one place where an lk_error is filled. */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

lk_status lk_fail(lk_error *err, lk_status code, int sys_errno, const char *path, uint64_t offset,
                  uint64_t expected, uint64_t found, const char *format, ...)
{
    if (err == NULL) return code;
    err->code = code;
    err->sys_errno = sys_errno;
    err->offset = offset;
    err->expected = expected;
    err->found = found;
    (void)snprintf(err->path, sizeof err->path, "%s", path == NULL ? "" : path);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return code;
}

const char *lk_status_name(lk_status code)
{
    static const char *const NAMES[] = {
        "ok",      "full",      "miss",        "io",        "corrupt", "no memory",
        "invalid", "locked",    "closed",      "read only", "busy",    "not found",
        "exists",  "cancelled", "unsupported", "operator",  "lost",
    };
    size_t i = (size_t)code;
    return i < sizeof NAMES / sizeof *NAMES ? NAMES[i] : "unknown";
}
