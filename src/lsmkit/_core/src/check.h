/* check.h: assertions of what our own code guarantees.
 *
 * LK_ASSERT is on in test, sanitizer and fuzz builds (LK_DEBUG=1) and costs nothing elsewhere.
 * It never speaks of bytes read from a file: those are checked and become LK_CORRUPT.
 */
#ifndef LK_CHECK_H
#define LK_CHECK_H

#if defined(LK_DEBUG) && LK_DEBUG
#include <stdio.h>
#include <stdlib.h>
#define LK_ASSERT(cond)                                                                            \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: assertion failed: %s\n", __FILE__, __LINE__, #cond);           \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
#else
#define LK_ASSERT(cond)                                                                            \
    do {                                                                                           \
        (void)sizeof(cond);                                                                        \
    } while (0)
#endif

/* Walks a whole structure: only where LK_DEBUG is 2 or more. */
#if defined(LK_DEBUG) && LK_DEBUG >= 2
#define LK_ASSERT_SLOW(cond) LK_ASSERT(cond)
#else
#define LK_ASSERT_SLOW(cond)                                                                       \
    do {                                                                                           \
        (void)sizeof(cond);                                                                        \
    } while (0)
#endif

#endif
