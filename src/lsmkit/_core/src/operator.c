/* operator.c: making operators, and those whose whole work is a loop.
 *
 * For all of them the value that operands leave where there was none is the operand that stands
 * for them, so `partial` is `full` over nothing.
 */
#include "operator.h"

#include <stdlib.h>

#include "check.h"
#include "operator_kinds.h"

/* ---- buffers ---- */

lk_status lk_buffer_reserve(lk_buffer *b, size_t more, lk_error *err)
{
    if (more <= b->capacity - b->len) return LK_OK;
    size_t want = b->len + more;
    if (want < more) return lk_fail_nomem(err, more);
    if (want < 2 * b->capacity) want = 2 * b->capacity;
    if (want < 64) want = 64;
    uint8_t *larger = realloc(b->data, want);
    if (larger == NULL) return lk_fail_nomem(err, want);
    b->data = larger;
    b->capacity = want;
    return LK_OK;
}

lk_status lk_buffer_append(lk_buffer *b, const void *data, size_t len, lk_error *err)
{
    lk_status st = lk_buffer_reserve(b, len, err);
    if (st != LK_OK) return st;
    if (len != 0) memcpy(b->data + b->len, data, len);
    b->len += len;
    return LK_OK;
}

void lk_buffer_deinit(lk_buffer *b)
{
    free(b->data);
    *b = (lk_buffer){NULL, 0, 0};
}

/* ---- words of 8 bytes ---- */

static lk_status check_width(const lk_operator *op, lk_bytes operand, lk_error *err)
{
    if (operand.len == op->width) return LK_OK;
    return lk_fail(err, LK_INVALID, 0, NULL, 0, op->width, operand.len,
                   "operand has %llu bytes; %.32s takes %llu", (unsigned long long)operand.len,
                   op->text, (unsigned long long)op->width);
}

static lk_status word_full(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands,
                           size_t count, lk_buffer *out, lk_error *err)
{
    LK_ASSERT(count > 0 && lk_operator_is_word(op->kind));
    const lk_bytes *first = old != NULL ? old : operands++;
    if (first->len != 8) return lk_operator_fail_stored(op, err, first->len, 8);
    uint64_t word = lk_load64(first->data);
    for (const lk_bytes *end = operands + count - (old == NULL); operands < end; operands++) {
        if (operands->len != 8) return lk_operator_fail_stored(op, err, operands->len, 8);
        word = lk_operator_word(op->kind, word, lk_load64(operands->data));
    }
    return lk_buffer_append(out, &word, 8, err);
}

/* ---- BitOr ---- */

static lk_status check_any(const lk_operator *op, lk_bytes operand, lk_error *err)
{
    (void)op, (void)operand, (void)err;
    return LK_OK;
}

static void or_into(uint8_t *to, const uint8_t *from, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) lk_store64(to + i, lk_load64(to + i) | lk_load64(from + i));
    for (; i < n; i++) to[i] |= from[i];
}

static lk_status or_full(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands,
                         size_t count, lk_buffer *out, lk_error *err)
{
    (void)op;
    lk_bytes first = old != NULL ? *old : operands[0];
    size_t start = out->len, n = first.len;
    lk_status st = lk_buffer_append(out, first.data, n, err);
    if (st != LK_OK) return st;
    out->len = start; /* until all is well */
    for (size_t i = old != NULL ? 0 : 1; i < count; i++) {
        if (operands[i].len != n) {
            return lk_fail(err, LK_INVALID, 0, NULL, 0, n, operands[i].len,
                           "operands of bit_or have different lengths: %llu and %llu bytes",
                           (unsigned long long)n, (unsigned long long)operands[i].len);
        }
        or_into(out->data + start, operands[i].data, n);
    }
    out->len = start + n;
    return LK_OK;
}

/* ---- Append ---- */

static lk_status append_full(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands,
                             size_t count, lk_buffer *out, lk_error *err)
{
    (void)op;
    uint64_t bytes = old != NULL ? old->len : 0;
    for (size_t i = 0; i < count; i++) bytes += operands[i].len;
    if (bytes > LK_VALUE_BYTES_MAX) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, LK_VALUE_BYTES_MAX, bytes,
                       "append would make a value of %llu bytes, more than the %u allowed",
                       (unsigned long long)bytes, LK_VALUE_BYTES_MAX);
    }
    lk_status st = lk_buffer_reserve(out, (size_t)bytes, err);
    if (st == LK_OK && old != NULL) st = lk_buffer_append(out, old->data, old->len, err);
    for (size_t i = 0; i < count && st == LK_OK; i++) {
        st = lk_buffer_append(out, operands[i].data, operands[i].len, err);
    }
    return st;
}

/* ---- Latest ---- */

#define STAMP_BYTES 8u

static lk_status check_latest(const lk_operator *op, lk_bytes operand, lk_error *err)
{
    (void)op;
    if (operand.len >= STAMP_BYTES) return LK_OK;
    return lk_fail(err, LK_INVALID, 0, NULL, 0, STAMP_BYTES, operand.len,
                   "operand has %llu bytes; latest needs a time stamp of 8 bytes first",
                   (unsigned long long)operand.len);
}

static lk_status latest_full(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands,
                             size_t count, lk_buffer *out, lk_error *err)
{
    const lk_bytes *best = old;
    int64_t stamp = 0;
    if (best != NULL && best->len < STAMP_BYTES)
        return lk_operator_fail_stored(op, err, best->len, STAMP_BYTES);
    if (best != NULL) stamp = (int64_t)lk_load64(best->data);
    for (size_t i = 0; i < count; i++) {
        if (operands[i].len < STAMP_BYTES)
            return lk_operator_fail_stored(op, err, operands[i].len, STAMP_BYTES);
        int64_t s = (int64_t)lk_load64(operands[i].data);
        if (best != NULL && s < stamp) continue; /* of equal stamps the one written last */
        best = &operands[i];
        stamp = s;
    }
    return lk_buffer_append(out, best->data, best->len, err);
}

/* ---- making them ---- */

static lk_status full_over_nothing(const lk_operator *op, const lk_bytes *operands, size_t count,
                                   lk_buffer *out, lk_error *err)
{
    return op->full(op, NULL, operands, count, out, err);
}

static const struct {
    const char *text;
    lk_operator_kind kind;
    size_t width;
    lk_operator_full *full;
    lk_operator_check *check;
} SIMPLE[] = {
    {"add_int64", LK_OPERATOR_ADD_INT64, 8, word_full, check_width},
    {"add_float64", LK_OPERATOR_ADD_FLOAT64, 8, word_full, check_width},
    {"max_int64", LK_OPERATOR_MAX_INT64, 8, word_full, check_width},
    {"min_int64", LK_OPERATOR_MIN_INT64, 8, word_full, check_width},
    {"bit_or", LK_OPERATOR_OTHER, 0, or_full, check_any},
    {"append", LK_OPERATOR_OTHER, 0, append_full, check_any},
    {"latest", LK_OPERATOR_OTHER, 0, latest_full, check_latest},
};

static lk_status set_functions(lk_operator *op, const char *text, lk_error *err)
{
    for (size_t i = 0; i < sizeof SIMPLE / sizeof *SIMPLE; i++) {
        if (strcmp(text, SIMPLE[i].text) != 0) continue;
        op->kind = SIMPLE[i].kind;
        op->width = SIMPLE[i].width;
        op->full = SIMPLE[i].full;
        op->check = SIMPLE[i].check;
        return LK_OK;
    }
    op->check = check_width;
    if (strncmp(text, "struct:", 7) == 0) return lk_operator_set_struct(op, text + 7, err);
    op->check = check_any;
    if (strncmp(text, "hyperloglog:", 12) == 0) return lk_operator_set_hll(op, text + 12, err);
    return lk_fail(err, LK_INVALID, 0, NULL, 0, 0, 0, "no merge operator: %.64s", text);
}

static lk_operator *operator_alloc(const char *text, lk_error *err)
{
    size_t n = strlen(text) + 1;
    lk_operator *op = n > LK_OPERATOR_TEXT_MAX ? NULL : calloc(1, sizeof *op);
    if (op != NULL) op->text = malloc(n);
    if (op == NULL || op->text == NULL) {
        free(op);
        (void)lk_fail_nomem(err, n);
        return NULL;
    }
    memcpy(op->text, text, n);
    atomic_init(&op->refs, 1);
    return op;
}

lk_status lk_operator_parse(const char *text, lk_operator **out, lk_error *err)
{
    *out = NULL;
    lk_operator *op = operator_alloc(text, err);
    if (op == NULL) return LK_NOMEM;
    lk_status st = set_functions(op, text, err);
    if (st != LK_OK) {
        lk_operator_unref(op);
        return st;
    }
    op->partial = full_over_nothing;
    *out = op;
    return LK_OK;
}

lk_status lk_operator_new(const char *text, lk_operator_full *full, lk_operator_partial *partial,
                          void (*release)(void *context), void *context, lk_operator **out,
                          lk_error *err)
{
    lk_operator *op = *out = operator_alloc(text, err);
    if (op == NULL) {
        if (release != NULL) release(context);
        return LK_NOMEM;
    }
    op->calls_out = true;
    op->full = full;
    op->partial = partial;
    op->check = check_any;
    op->release = release;
    op->context = context;
    return LK_OK;
}

lk_operator *lk_operator_ref(lk_operator *op)
{
    uint32_t before = atomic_fetch_add_explicit(&op->refs, 1, memory_order_relaxed);
    LK_ASSERT(before > 0);
    (void)before;
    return op;
}

void lk_operator_unref(lk_operator *op)
{
    if (op == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&op->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before != 1) return;
    if (op->release != NULL) op->release(op->context);
    free(op->text);
    free(op);
}

bool lk_operator_read_number(const char **text, uint32_t max, uint32_t *out)
{
    const char *p = *text;
    uint32_t number = 0;
    *out = 0;
    while (*p >= '0' && *p <= '9' && p - *text < 9) number = number * 10 + (uint32_t)(*p++ - '0');
    if (p == *text || (**text == '0' && p - *text > 1) || number > max) return false;
    *text = p;
    *out = number;
    return true;
}
