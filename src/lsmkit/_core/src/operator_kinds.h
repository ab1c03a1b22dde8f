/* operator_kinds.h: the operators that have files of their own; only operator.c calls these.
 *
 * Each reads the part of the text behind its name and the colon, and sets functions, width and
 * context; LK_INVALID for a text that it did not write.
 */
#ifndef LK_OPERATOR_KINDS_H
#define LK_OPERATOR_KINDS_H

#include "operator.h"

lk_status lk_operator_set_struct(lk_operator *op, const char *text, lk_error *err);
lk_status lk_operator_set_hll(lk_operator *op, const char *text, lk_error *err);

/* A decimal number of 1 to 9 digits without leading zeros, at most `max`. Moves `*text` behind it;
 * false when there is none. */
bool lk_operator_read_number(const char **text, uint32_t max, uint32_t *out);

/* The value under the operands, or an operand that is stored, has bytes that cannot be folded. */
#define lk_operator_fail_stored(op, err, length, needed)                                           \
    lk_fail((err), LK_CORRUPT, 0, NULL, 0, (uint64_t)(needed), (uint64_t)(length),                 \
            "a stored value cannot be merged: %.32s needs %llu bytes", (op)->text,                 \
            (unsigned long long)(needed))

#endif
