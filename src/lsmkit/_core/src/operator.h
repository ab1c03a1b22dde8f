/* operator.h: merge operators: what the operands of a key make of its value.
 *
 * Owns      an operator owns its text and its context. It is counted: settings, calls under way and
 *           the border hold references.
 * Callers   fold.c (reads, flush, compaction), combine.c (before the log), the border (checks).
 * Threads   immutable after it was made; any thread. `calls_out` says that folding enters the
 *           interpreter: such a call is made with no lock held and outside of guard sections.
 * Always    folding is a function of the bytes alone, so that any grouping of operands that keeps
 *           their order gives the same value; a sum of floats may differ in its last bits.
 * Errors    LK_INVALID for an operand that a writer gave, LK_CORRUPT for stored bytes that the
 *           operator cannot read, LK_OPERATOR for what a function in Python raised.
 */
#ifndef LK_OPERATOR_H
#define LK_OPERATOR_H

#include <stdatomic.h>

#include "bytes.h"
#include "status.h"

#define LK_OPERATOR_TEXT_MAX 65535u /* bytes of the text that names an operator */

/* Bytes that grow, and are used again for the next result. */
typedef struct lk_buffer {
    uint8_t *data;
    size_t len, capacity;
} lk_buffer;

/* Room for `more` bytes behind `len`, which stays as it is. */
lk_status lk_buffer_reserve(lk_buffer *b, size_t more, lk_error *err);
lk_status lk_buffer_append(lk_buffer *b, const void *data, size_t len, lk_error *err);
void lk_buffer_deinit(lk_buffer *b);

/* Those that keep one word of 8 bytes have loops of their own in combine.c. */
typedef enum lk_operator_kind {
    LK_OPERATOR_OTHER,
    LK_OPERATOR_ADD_INT64,
    LK_OPERATOR_ADD_FLOAT64,
    LK_OPERATOR_MAX_INT64,
    LK_OPERATOR_MIN_INT64,
} lk_operator_kind;

typedef struct lk_operator lk_operator;

/* Appends to `out` what `operands` (oldest first, one or more) make of the value `old` (NULL: there
 * is none). */
typedef lk_status lk_operator_full(const lk_operator *op, const lk_bytes *old,
                                   const lk_bytes *operands, size_t count, lk_buffer *out,
                                   lk_error *err);
/* Appends the one operand that stands for all of these (oldest first, one or more). */
typedef lk_status lk_operator_partial(const lk_operator *op, const lk_bytes *operands, size_t count,
                                      lk_buffer *out, lk_error *err);
/* Whether a writer may give this operand. */
typedef lk_status lk_operator_check(const lk_operator *op, lk_bytes operand, lk_error *err);

struct lk_operator {
    /* fixed after it was made */
    char *text; /* is stored; two operators are the same when their texts are */
    lk_operator_kind kind;
    bool calls_out;
    size_t width; /* bytes of every operand and value; 0: they vary */
    lk_operator_full *full;
    lk_operator_partial *partial; /* NULL: operands are folded only over a value that is known */
    lk_operator_check *check;
    void (*release)(void *context); /* NULL: nothing to release */
    void *context;
    /* counted, acquire on the last */
    _Atomic uint32_t refs;
};

/* The built-in operator of this text; LK_INVALID where there is none. */
lk_status lk_operator_parse(const char *text, lk_operator **out, lk_error *err);
/* An operator of the caller's own; `context` is released with it, also when this fails. Folding
 * by it calls out. `partial` may be NULL. */
lk_status lk_operator_new(const char *text, lk_operator_full *full, lk_operator_partial *partial,
                          void (*release)(void *context), void *context, lk_operator **out,
                          lk_error *err);
lk_operator *lk_operator_ref(lk_operator *op);
void lk_operator_unref(lk_operator *op); /* accepts NULL */

/* ---- 8-byte words ---- */

static inline bool lk_operator_is_word(lk_operator_kind kind) { return kind != LK_OPERATOR_OTHER; }

/* One step of an operator that keeps a word; with a constant `kind` the switch is none. */
static inline uint64_t lk_operator_word(lk_operator_kind kind, uint64_t a, uint64_t b)
{
    double x, y;
    switch (kind) {
    case LK_OPERATOR_ADD_INT64:
        return a + b; /* wraps, as unsigned numbers do */
    case LK_OPERATOR_MAX_INT64:
        return (int64_t)a < (int64_t)b ? b : a;
    case LK_OPERATOR_MIN_INT64:
        return (int64_t)b < (int64_t)a ? b : a;
    case LK_OPERATOR_ADD_FLOAT64:
        memcpy(&x, &a, 8);
        memcpy(&y, &b, 8);
        x += y;
        memcpy(&a, &x, 8);
        return a;
    case LK_OPERATOR_OTHER:
        break;
    }
    return b;
}

/* ---- HyperLogLog (operator_hll.c) ---- */

/* How many different elements a sketch has seen, about; LK_INVALID when `value` is no sketch. */
lk_status lk_hll_estimate(lk_bytes value, double *out, lk_error *err);

#endif
