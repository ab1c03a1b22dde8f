/* operator_hll.c: HyperLogLog: how many different elements were added, in a fixed space.
 *
 * The algorithm is that of Flajolet et al. (2007) over 64 bits of XXH3; the estimate is Ertl's
 * ("New cardinality estimation algorithms for HyperLogLog sketches", 2017, algorithm 6), which has
 * no bias where the first one needed linear counting and tables. Standard error 1.04 / sqrt(2^p).
 *
 * An operand is an element, any bytes, or a sketch. A sketch, little-endian:
 *   0      4           5      6       8          16
 *   +------+-----------+------+-------+----------+-----------+
 *   | HLL1 | precision | form | 0 0   | checksum | registers |
 *   +------+-----------+------+-------+----------+-----------+
 * The checksum (XXH3 of the registers, seeded with the 8 bytes at 0) tells a sketch from an element
 * that begins with the same letters.
 * Form 0    up to 2^p / 8 registers that are not zero: index << 8 | rank, 4 bytes each, ascending.
 * Form 1    all of them: a byte each.
 * Always    equal registers are equal bytes: form 0 wherever it suffices.
 */
#include <stdlib.h>

#include "check.h"
#include "hash.h"
#include "operator_kinds.h"

#define HEADER_BYTES 16u
#define PRECISION_MIN 4u
#define PRECISION_MAX 18u
#define INSERTION_MAX 64u /* so many registers are sorted; more go through an array of all */

enum { FORM_SPARSE = 0, FORM_DENSE = 1 };

typedef struct sketch {
    uint32_t precision;
    bool dense;
    const uint8_t *registers;
    uint32_t count; /* entries where sparse */
} sketch;

static uint32_t sparse_max(uint32_t precision) { return (1u << precision) / 8; }
static uint32_t rank_max(uint32_t precision) { return 64 - precision + 1; }

/* ---- bytes to sketch and back ---- */

static uint64_t header_of(uint32_t precision, bool dense)
{
    uint64_t magic = UINT64_C(0x314C4C48); /* "HLL1" */
    return magic | (uint64_t)precision << 32 | (uint64_t)(dense ? FORM_DENSE : FORM_SPARSE) << 40;
}

static bool is_sketch(lk_bytes b)
{
    if (b.len < HEADER_BYTES || memcmp(b.data, "HLL1", 4) != 0) return false;
    return lk_load64(b.data + 8) ==
           XXH3_64bits_withSeed(b.data + HEADER_BYTES, b.len - HEADER_BYTES, lk_load64(b.data));
}

/* The checksum is right, but whoever made the bytes may not have been this file. */
static bool parse(lk_bytes b, sketch *out)
{
    uint64_t header = lk_load64(b.data);
    uint32_t p = b.data[4];
    bool dense = b.data[5] == FORM_DENSE;
    size_t n = b.len - HEADER_BYTES;
    if (p < PRECISION_MIN || p > PRECISION_MAX || header != header_of(p, dense)) return false;
    *out = (sketch){.precision = p, .dense = dense, .registers = b.data + HEADER_BYTES};
    if (dense) {
        uint8_t most = 0;
        for (size_t i = 0; i < n; i++) most = out->registers[i] > most ? out->registers[i] : most;
        return n == (size_t)1 << p && most <= rank_max(p);
    }
    if (n % 4 != 0 || n / 4 > sparse_max(p)) return false;
    out->count = (uint32_t)(n / 4);
    uint64_t next = 0; /* the least index that may follow */
    for (uint32_t i = 0; i < out->count; i++) {
        uint32_t entry = lk_load32(out->registers + 4 * i), rank = entry & 0xFF;
        if (entry >> 8 < next || entry >> 8 >= 1u << p || rank == 0 || rank > rank_max(p))
            return false;
        next = (entry >> 8) + 1;
    }
    return true;
}

/* Finishes what stands behind the place for the header. */
static void seal(uint8_t *p, uint32_t precision, bool dense, size_t bytes)
{
    lk_store64(p, header_of(precision, dense));
    lk_store64(p + 8, XXH3_64bits_withSeed(p + HEADER_BYTES, bytes, lk_load64(p)));
}

/* ---- folding ---- */

static uint32_t entry_of(uint32_t precision, lk_bytes element)
{
    uint64_t hash = XXH3_64bits(element.data, element.len), rest = hash << precision;
    uint32_t rank = rest == 0 ? rank_max(precision) : (uint32_t)__builtin_clzll(rest) + 1;
    return (uint32_t)(hash >> (64 - precision)) << 8 | rank;
}

static void raise_to(uint8_t *registers, uint32_t entry)
{
    uint8_t *r = &registers[entry >> 8];
    if (*r < (entry & 0xFF)) *r = (uint8_t)(entry & 0xFF);
}

static void add_all(uint8_t *registers, uint32_t precision, const sketch *s, lk_bytes element)
{
    if (s == NULL) {
        raise_to(registers, entry_of(precision, element));
    } else if (s->dense) {
        for (size_t i = 0; i < (size_t)1 << precision; i++)
            registers[i] = registers[i] < s->registers[i] ? s->registers[i] : registers[i];
    } else {
        for (uint32_t i = 0; i < s->count; i++)
            raise_to(registers, lk_load32(s->registers + 4 * i));
    }
}

/* Few registers: sorted by insertion, of one index the higher rank. */
static uint32_t insert(uint32_t *entries, uint32_t count, uint32_t entry)
{
    uint32_t at = count;
    while (at > 0 && entries[at - 1] >> 8 > entry >> 8) at--;
    if (at > 0 && entries[at - 1] >> 8 == entry >> 8) {
        if (entries[at - 1] < entry) entries[at - 1] = entry;
        return count;
    }
    memmove(entries + at + 1, entries + at, (count - at) * sizeof *entries);
    entries[at] = entry;
    return count + 1;
}

/* All registers stand behind the header's place at `p`, with room for a sparse form behind them. */
static size_t finish_dense(uint8_t *p, uint32_t precision)
{
    size_t m = (size_t)1 << precision, used = 0;
    uint8_t *registers = p + HEADER_BYTES;
    for (size_t i = 0; i < m; i++) used += registers[i] != 0;
    if (used > sparse_max(precision)) {
        seal(p, precision, true, m);
        return HEADER_BYTES + m;
    }
    uint8_t *to = registers + m;
    for (size_t i = 0; i < m; i++) {
        if (registers[i] == 0) continue;
        lk_store32(to, (uint32_t)i << 8 | registers[i]);
        to += 4;
    }
    memmove(registers, registers + m, used * 4);
    seal(p, precision, false, used * 4);
    return HEADER_BYTES + used * 4;
}

typedef struct input {
    const lk_bytes *old, *operands;
    size_t count; /* of operands */
} input;

/* Row i of value and operands; `*out` is NULL for an element, else `s`. */
static lk_status look(const lk_operator *op, const input *in, size_t i, lk_bytes *row, sketch *s,
                      const sketch **out, lk_error *err)
{
    bool is_value = in->old != NULL && i == 0;
    *row = is_value ? *in->old : in->operands[i - (in->old != NULL)];
    *out = NULL;
    if (!is_sketch(*row)) {
        if (!is_value) return LK_OK;
        return lk_fail_corrupt(err, NULL, 0, 0, 0,
                               "a stored value cannot be merged: it is no "
                               "sketch of %.32s",
                               op->text);
    }
    uint32_t precision = *(const uint32_t *)op->context;
    *out = s;
    if (parse(*row, s) && s->precision == precision) return LK_OK;
    return lk_fail_corrupt(err, NULL, 0, precision, row->data[4],
                           "a stored sketch cannot be merged: %.32s needs its own precision",
                           op->text);
}

static lk_status fold_few(const lk_operator *op, const input *in, lk_buffer *out, lk_error *err)
{
    uint32_t entries[INSERTION_MAX + 1], count = 0, precision = *(const uint32_t *)op->context;
    for (size_t i = 0; i < in->count + (in->old != NULL); i++) {
        lk_bytes row;
        sketch s;
        const sketch *found;
        lk_status st = look(op, in, i, &row, &s, &found, err);
        if (st != LK_OK) return st;
        if (found == NULL) {
            count = insert(entries, count, entry_of(precision, row));
            continue;
        }
        LK_ASSERT(!s.dense);
        for (uint32_t k = 0; k < s.count; k++)
            count = insert(entries, count, lk_load32(s.registers + 4 * k));
    }
    lk_status st = lk_buffer_reserve(out, HEADER_BYTES + 4 * count, err);
    if (st != LK_OK) return st;
    uint8_t *p = out->data + out->len;
    memcpy(p + HEADER_BYTES, entries, 4 * count);
    seal(p, precision, false, 4 * count);
    out->len += HEADER_BYTES + 4 * count;
    return LK_OK;
}

static lk_status fold_many(const lk_operator *op, const input *in, lk_buffer *out, lk_error *err)
{
    uint32_t precision = *(const uint32_t *)op->context;
    size_t m = (size_t)1 << precision;
    lk_status st = lk_buffer_reserve(out, HEADER_BYTES + m + 4 * sparse_max(precision), err);
    if (st != LK_OK) return st;
    uint8_t *p = out->data + out->len;
    memset(p + HEADER_BYTES, 0, m);
    for (size_t i = 0; i < in->count + (in->old != NULL); i++) {
        lk_bytes row;
        sketch s;
        const sketch *found;
        st = look(op, in, i, &row, &s, &found, err);
        if (st != LK_OK) return st;
        add_all(p + HEADER_BYTES, precision, found, row);
    }
    out->len += finish_dense(p, precision);
    return LK_OK;
}

static lk_status hll_full(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands,
                          size_t count, lk_buffer *out, lk_error *err)
{
    const input in = {old, operands, count};
    uint32_t few = sparse_max(*(const uint32_t *)op->context);
    uint64_t bound = 0; /* of the registers that will not be zero */
    if (few > INSERTION_MAX) few = INSERTION_MAX;
    for (size_t i = 0; i < count + (old != NULL) && bound <= few; i++) {
        const lk_bytes *b = old != NULL && i == 0 ? old : &operands[i - (old != NULL)];
        bool may_be_sketch = b->len >= HEADER_BYTES && memcmp(b->data, "HLL1", 4) == 0;
        bound += may_be_sketch ? (b->len - HEADER_BYTES) / 4 + 1 : 1;
    }
    return bound <= few ? fold_few(op, &in, out, err) : fold_many(op, &in, out, err);
}

static lk_status check_hll(const lk_operator *op, lk_bytes operand, lk_error *err)
{
    sketch s;
    if (!is_sketch(operand)) return LK_OK;
    uint32_t precision = *(const uint32_t *)op->context;
    if (parse(operand, &s) && s.precision == precision) return LK_OK;
    return lk_fail(err, LK_INVALID, 0, NULL, 0, precision, operand.data[4],
                   "operand is a sketch of precision %u; this operator has %u", operand.data[4],
                   precision);
}

lk_status lk_operator_set_hll(lk_operator *op, const char *text, lk_error *err)
{
    uint32_t precision;
    const char *p = text;
    if (!lk_operator_read_number(&p, PRECISION_MAX, &precision) || *p != '\0' ||
        precision < PRECISION_MIN) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, 0, 0,
                       "precision of hyperloglog must be from %u to %u, not %.32s", PRECISION_MIN,
                       PRECISION_MAX, text);
    }
    uint32_t *context = malloc(sizeof *context);
    if (context == NULL) return lk_fail_nomem(err, sizeof *context);
    *context = precision;
    op->context = context;
    op->release = free;
    op->full = hll_full;
    op->check = check_hll;
    return LK_OK;
}

/* ---- the estimate ---- */

/* Ertl's sigma: what registers that are still zero add to the harmonic sum, over their number. */
static double sigma(double x)
{
    double y = 1, z = x, before;
    do {
        x *= x;
        before = z;
        z += x * y;
        y += y;
    } while (z != before);
    return z;
}

lk_status lk_hll_estimate(lk_bytes value, double *out, lk_error *err)
{
    sketch s;
    uint32_t counts[66] = {0};
    *out = 0;
    if (!is_sketch(value) || !parse(value, &s)) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, 0, 0,
                       "value is not a HyperLogLog sketch (%llu bytes)",
                       (unsigned long long)value.len);
    }
    uint32_t m = 1u << s.precision;
    if (s.dense) {
        for (uint32_t i = 0; i < m; i++) counts[s.registers[i]]++;
    } else {
        counts[0] = m - s.count;
        for (uint32_t i = 0; i < s.count; i++) counts[s.registers[4 * i]]++;
    }
    if (counts[0] == m) return LK_OK;
    /* Ertl's tau, for registers at their end, is left out: that would take 2^60 elements. */
    double z = 0;
    for (uint32_t k = rank_max(s.precision); k > 0; k--) z = 0.5 * (z + (double)counts[k]);
    z += (double)m * sigma((double)counts[0] / (double)m);
    *out = 0.72134752044448170368 * (double)m * (double)m / z; /* 1 / (2 ln 2) */
    return LK_OK;
}
