/* combine.h: the operands of equal keys made one, before they are logged.
 *
 * Owns      an lk_combined owns what its columns point to, but for keys and single operands, which stay
 *           where they were.
 * Callers   the border's merge_many, without the GIL where the operator does not call out.
 * Always    a key stands in the result once, at the place of its first operand.
 * Errors    LK_INVALID for an operand that the operator refuses, or that does not fit the others of
 *           its key; then nothing is to be written.
 */
#ifndef LK_COMBINE_H
#define LK_COMBINE_H

#include "column.h"
#include "operator.h"

typedef struct lk_combined {
    lk_column keys, operands; /* one row a key */
    lk_bytes *spans;          /* of both */
    void *entries;
    lk_buffer made; /* operands that stand for several */
} lk_combined;

/* Whether every operand of the column may be given; the error names the first that may not. */
lk_status lk_combine_check(const lk_operator *op, const lk_column *operands, lk_error *err);

/* Columns of the same length, checked as above; they must outlive the result. `op` must have
 * `partial`. */
lk_status lk_combine(const lk_operator *op, const lk_column *keys, const lk_column *operands,
                     lk_combined *out, lk_error *err);
void lk_combined_deinit(lk_combined *c);

/* The same a piece at a time, for operators that keep a word. Keys must stay until the end, which
 * copies those that are left, so that what they were taken from may change then. */
typedef struct lk_combiner lk_combiner;
lk_status lk_combiner_new(const lk_operator *op, lk_combiner **out, lk_error *err);
lk_status lk_combiner_add(lk_combiner *c, const lk_column *keys, const lk_column *operands,
                          lk_error *err);
lk_status lk_combiner_end(lk_combiner *c, lk_combined *out, lk_error *err);
void lk_combiner_free(lk_combiner *c); /* accepts NULL */

#endif
