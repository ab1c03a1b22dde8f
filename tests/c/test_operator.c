/* Each operator against a few lines that say the same; any grouping of operands that keeps their
 * order gives the same bytes; texts and stored bytes that are wrong are refused. */
#include "harness.h"

#include <math.h>

#include "hash.h"
#include "operator.h"

enum { OPERANDS_MAX = 12, BYTES_MAX = 64 };

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static lk_operator *parse(const char *text)
{
    lk_error err;
    lk_operator *op;
    CHECK_OK(lk_operator_parse(text, &op, &err), &err);
    CHECK(strcmp(op->text, text) == 0);
    return op;
}

typedef struct operands {
    uint8_t bytes[OPERANDS_MAX][BYTES_MAX];
    lk_bytes rows[OPERANDS_MAX];
    size_t count;
} operands;

static void add(operands *o, const void *data, size_t len)
{
    CHECK(o->count < OPERANDS_MAX && len <= BYTES_MAX);
    if (len != 0) memcpy(o->bytes[o->count], data, len);
    o->rows[o->count] = (lk_bytes){o->bytes[o->count], len};
    o->count++;
}

static void add_word(operands *o, int64_t word) { add(o, &word, 8); }

static lk_buffer full(const lk_operator *op, const lk_bytes *old, const operands *o)
{
    lk_error err;
    lk_buffer out = {NULL, 0, 0};
    CHECK_OK(op->full(op, old, o->rows, o->count, &out, &err), &err);
    return out;
}

static int64_t word_of(const lk_operator *op, const lk_bytes *old, const operands *o)
{
    lk_buffer out = full(op, old, o);
    CHECK_EQ(out.len, 8);
    int64_t word = (int64_t)lk_load64(out.data);
    lk_buffer_deinit(&out);
    return word;
}

static lk_status full_status(const lk_operator *op, const lk_bytes *old, const operands *o,
                             lk_error *err)
{
    lk_buffer out = {NULL, 0, 0};
    CHECK_OK(lk_buffer_append(&out, "before", 6, err), err);
    lk_status st = op->full(op, old, o->rows, o->count, &out, err);
    if (st != LK_OK) CHECK_EQ(out.len, 6); /* what failed has added nothing */
    lk_buffer_deinit(&out);
    return st;
}

/* ---- words ---- */

LK_TEST(test_integers_add_and_wrap)
{
    lk_operator *op = parse("add_int64");
    operands o = {.count = 0};
    add_word(&o, 5);
    add_word(&o, -7);
    CHECK_EQ(word_of(op, NULL, &o), -2);
    int64_t base = INT64_MAX;
    lk_bytes old = {(const uint8_t *)&base, 8};
    add_word(&o, 3);
    CHECK_EQ(word_of(op, &old, &o), INT64_MIN);
    lk_operator_unref(op);
}

LK_TEST(test_extremes_are_signed)
{
    lk_operator *most = parse("max_int64"), *least = parse("min_int64");
    operands o = {.count = 0};
    add_word(&o, -1);
    add_word(&o, 4);
    add_word(&o, -9);
    CHECK_EQ(word_of(most, NULL, &o), 4);
    CHECK_EQ(word_of(least, NULL, &o), -9);
    int64_t base = INT64_MIN;
    lk_bytes old = {(const uint8_t *)&base, 8};
    CHECK_EQ(word_of(most, &old, &o), 4);
    CHECK_EQ(word_of(least, &old, &o), INT64_MIN);
    lk_operator_unref(most);
    lk_operator_unref(least);
}

LK_TEST(test_floats_add)
{
    lk_operator *op = parse("add_float64");
    operands o = {.count = 0};
    double a = 0.5, b = -2.25, sum;
    add(&o, &a, 8);
    add(&o, &b, 8);
    int64_t word = word_of(op, NULL, &o);
    memcpy(&sum, &word, 8);
    CHECK(sum == -1.75);
    lk_operator_unref(op);
}

LK_TEST(test_operand_of_another_width_is_refused)
{
    static const char *const TEXTS[] = {"add_int64", "add_float64", "max_int64", "min_int64"};
    for (size_t i = 0; i < 4; i++) {
        lk_error err;
        lk_operator *op = parse(TEXTS[i]);
        CHECK_EQ(op->check(op, (lk_bytes){(const uint8_t *)"1234567", 7}, &err), LK_INVALID);
        CHECK(strstr(err.message, "7 bytes") != NULL && strstr(err.message, TEXTS[i]) != NULL);
        CHECK_OK(op->check(op, (lk_bytes){(const uint8_t *)"12345678", 8}, &err), &err);
        operands o = {.count = 0};
        add_word(&o, 1);
        lk_bytes old = {(const uint8_t *)"123", 3};
        CHECK_EQ(full_status(op, &old, &o, &err), LK_CORRUPT);
        CHECK_EQ(err.found, 3);
        add(&o, "123456789", 9);
        CHECK_EQ(full_status(op, NULL, &o, &err), LK_CORRUPT);
        lk_operator_unref(op);
    }
}

/* ---- bytes ---- */

LK_TEST(test_bits_are_joined)
{
    lk_operator *op = parse("bit_or");
    lk_error err;
    operands o = {.count = 0};
    add(&o, "\x01\x00\x00\x00\x00\x00\x00\x00\x10", 9);
    add(&o, "\x02\x00\x00\x00\x00\x00\x00\x80\x20", 9);
    lk_buffer out = full(op, NULL, &o);
    CHECK(out.len == 9 && memcmp(out.data, "\x03\x00\x00\x00\x00\x00\x00\x80\x30", 9) == 0);
    lk_buffer_deinit(&out);
    lk_bytes old = {(const uint8_t *)"12345678", 8};
    CHECK_EQ(full_status(op, &old, &o, &err), LK_INVALID);
    CHECK(strstr(err.message, "different lengths") != NULL);
    lk_operator_unref(op);
}

LK_TEST(test_bytes_are_appended_in_order)
{
    lk_operator *op = parse("append");
    operands o = {.count = 0};
    add(&o, "b", 1);
    add(&o, "", 0);
    add(&o, "cd", 2);
    lk_bytes old = {(const uint8_t *)"a", 1};
    lk_buffer out = full(op, &old, &o);
    CHECK(out.len == 4 && memcmp(out.data, "abcd", 4) == 0);
    lk_buffer_deinit(&out);
    lk_operator_unref(op);
}

LK_TEST(test_appending_past_the_longest_value_is_refused)
{
    lk_operator *op = parse("append");
    lk_error err;
    operands o = {.count = 0};
    add(&o, "b", 1);
    lk_bytes old = {(const uint8_t *)"a", LK_VALUE_BYTES_MAX}; /* refused before it is read */
    CHECK_EQ(full_status(op, &old, &o, &err), LK_INVALID);
    lk_operator_unref(op);
}

LK_TEST(test_latest_stamp_wins_and_the_last_of_equal_ones)
{
    lk_operator *op = parse("latest");
    lk_error err;
    static const struct {
        int64_t stamps[3];
        int winner;
    } CASES[] = {
        {{1, 2, 3}, 2}, {{3, 2, 1}, 0}, {{2, 3, 3}, 2}, {{-5, -7, -6}, 0}, {{0, 0, -1}, 1}};
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        operands o = {.count = 0};
        for (int i = 0; i < 3; i++) {
            uint8_t row[9];
            lk_store64(row, (uint64_t)CASES[c].stamps[i]);
            row[8] = (uint8_t)i;
            add(&o, row, 9);
        }
        operands later = {.count = 0};
        for (int i = 1; i < 3; i++) add(&later, o.rows[i].data, 9);
        lk_buffer flat = full(op, NULL, &o), based = full(op, &o.rows[0], &later);
        CHECK(flat.len == 9 && flat.data[8] == CASES[c].winner);
        CHECK(based.len == 9 && based.data[8] == CASES[c].winner);
        lk_buffer_deinit(&flat);
        lk_buffer_deinit(&based);
    }
    CHECK_EQ(op->check(op, (lk_bytes){(const uint8_t *)"1234567", 7}, &err), LK_INVALID);
    operands o = {.count = 0};
    add_word(&o, 1);
    lk_bytes old = {(const uint8_t *)"1234", 4};
    CHECK_EQ(full_status(op, &old, &o, &err), LK_CORRUPT);
    lk_operator_unref(op);
}

/* ---- records ---- */

typedef struct reading {
    int64_t count;
    double low, high;
    uint8_t flags;
    int8_t delta;
    char first[2];
    uint16_t last[2];
} reading;

static const char READING[] = "struct:32:count,add,i8,0,1;low,min,f8,8,1;high,max,f8,16,1;"
                              "flags,or,u1,24,1;delta,add,i1,25,1;first,first,S2,26,1;"
                              "last,last,u2,28,2";

LK_TEST(test_fields_follow_their_rules)
{
    _Static_assert(sizeof(reading) == 32, "the text names these offsets");
    lk_operator *op = parse(READING);
    const reading rows[3] = {
        {1, (double)NAN, 4.5, 1, 100, "ab", {1, 2}},
        {1, 4.5, -3.0, 2, 100, "cd", {3, 4}},
        {5, -1.0, (double)NAN, 4, -1, "ef", {5, 6}},
    };
    operands o = {.count = 0};
    for (int i = 0; i < 3; i++) add(&o, &rows[i], sizeof rows[i]);
    lk_buffer out = full(op, NULL, &o);
    reading r;
    CHECK_EQ(out.len, sizeof r);
    memcpy(&r, out.data, sizeof r);
    CHECK_EQ(r.count, 7);
    CHECK(r.low == -1.0 && r.high == 4.5);
    CHECK_EQ(r.flags, 7);
    CHECK_EQ(r.delta, (int8_t)199);
    CHECK(memcmp(r.first, "ab", 2) == 0);
    CHECK(r.last[0] == 5 && r.last[1] == 6);
    lk_buffer_deinit(&out);
    lk_operator_unref(op);
}

LK_TEST(test_unsigned_and_signed_fields_differ)
{
    static const char *const FORMAT = "struct:%u:a,%s,%c%u,0,1";
    for (uint32_t i = 0; i < 16; i++) {
        char text[64];
        uint32_t width = 1u << (i >> 2);
        bool is_unsigned = (i & 1) != 0, is_max = (i & 2) != 0;
        snprintf(text, sizeof text, FORMAT, width, is_max ? "max" : "min", is_unsigned ? 'u' : 'i',
                 width);
        lk_operator *op = parse(text);
        operands o = {.count = 0};
        add(&o, "\0\0\0\0\0\0\0\xC8" + 8 - width, width); /* large, or negative */
        add(&o, "\0\0\0\0\0\0\0\x64" + 8 - width, width);
        lk_buffer out = full(op, NULL, &o);
        CHECK_EQ(out.data[width - 1], is_unsigned == is_max ? 0xC8 : 0x64);
        lk_buffer_deinit(&out);
        lk_operator_unref(op);
    }
}

LK_TEST(test_texts_that_are_no_operator_are_refused)
{
    static const char *const TEXTS[] = {
        "",
        "add",
        "add_int64 ",
        "custom:f",
        "struct:",
        "struct:0:a,add,i8,0,1",
        "struct:8:",
        "struct:8:a,add,i8,0,1;",
        "struct:8:a,add,i8,1,1",
        "struct:8:a,add,i4,0,3",
        "struct:8:a,add,i3,0,1",
        "struct:8:a,add,f2,0,1",
        "struct:8:a,or,f8,0,1",
        "struct:8:a,add,b1,0,1",
        "struct:8:a,add,S8,0,1",
        "struct:8:a,add,c8,0,1",
        "struct:8:a,mean,i8,0,1",
        "struct:8:,add,i8,0,1",
        "struct:8:a,add,i8,00,1",
        "struct:8:a,add,i8,0,0",
        "struct:8:a,add,i8,0",
        "struct:8:a,add,i8,0,1x",
        "struct:8:a,add,M8[us,0,1",
        "struct:8:a,add,i4,4,1;b,add,i4,0,1",
        "struct:8:a,add,i4,0,1;b,add,i4,3,1",
        "struct:9999999999:a,add,i8,0,1",
        "struct:8:a,last,U999999999,0,1",
        "hyperloglog:",
        "hyperloglog:3",
        "hyperloglog:19",
        "hyperloglog:12x",
    };
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        lk_error err;
        lk_operator *op;
        if (lk_operator_parse(TEXTS[i], &op, &err) != LK_INVALID) printf("%s\n", TEXTS[i]);
        CHECK_EQ(lk_operator_parse(TEXTS[i], &op, &err), LK_INVALID);
        CHECK(op == NULL);
    }
    lk_operator_unref(parse("struct:16:t,max,M8[us],0,1;d,add,m8,8,1"));
}

/* ---- HyperLogLog ---- */

static lk_buffer sketch_of(const lk_operator *op, uint64_t from, uint64_t to)
{
    enum { PIECE = 1000 };
    lk_error err;
    lk_buffer sketch = {NULL, 0, 0}, next = {NULL, 0, 0};
    uint64_t numbers[PIECE];
    lk_bytes rows[PIECE];
    while (from < to) {
        size_t n = 0;
        for (; n < PIECE && from < to; n++, from++) {
            numbers[n] = from;
            rows[n] = (lk_bytes){(const uint8_t *)&numbers[n], 8};
        }
        lk_bytes old = {sketch.data, sketch.len};
        next.len = 0;
        CHECK_OK(op->full(op, sketch.len != 0 ? &old : NULL, rows, n, &next, &err), &err);
        lk_buffer swap = sketch;
        sketch = next;
        next = swap;
    }
    lk_buffer_deinit(&next);
    return sketch;
}

static double estimate(const lk_buffer *sketch)
{
    lk_error err;
    double out;
    CHECK_OK(lk_hll_estimate((lk_bytes){sketch->data, sketch->len}, &out, &err), &err);
    return out;
}

/* Over many sketches of different elements, the root of the mean square of the relative error must
 * come out as the theory says; the bound is that of a sum of that many squares. */
LK_TEST(test_error_is_that_of_the_theory_over_five_decades)
{
    static const uint64_t SIZES[] = {10, 100, 1000, 3000, 10000, 30000, 300000};
    static const uint32_t PRECISIONS[] = {6, 10, 14};
    enum { SKETCHES = 40 };
    for (size_t p = 0; p < 3; p++) {
        char text[32];
        snprintf(text, sizeof text, "hyperloglog:%u", PRECISIONS[p]);
        lk_operator *op = parse(text);
        double theory = 1.04 / sqrt((double)(1u << PRECISIONS[p]));
        for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++) {
            uint64_t sketches = SIZES[s] > 100000 ? 4 : SKETCHES;
            double squares = 0;
            for (uint64_t i = 0; i < sketches; i++) {
                lk_buffer sketch = sketch_of(op, (i + 1) << 32, ((i + 1) << 32) + SIZES[s]);
                double error = estimate(&sketch) / (double)SIZES[s] - 1;
                squares += error * error;
                lk_buffer_deinit(&sketch);
            }
            double measured = sqrt(squares / (double)sketches);
            CHECK(measured < theory * (1 + 3.0 / sqrt((double)sketches)));
        }
        lk_operator_unref(op);
    }
}

LK_TEST(test_elements_count_once)
{
    lk_operator *op = parse("hyperloglog:12");
    lk_error err;
    lk_buffer once = sketch_of(op, 0, 5000), again = {NULL, 0, 0};
    lk_bytes both[2] = {{once.data, once.len}, {once.data, once.len}};
    CHECK_OK(op->full(op, &both[0], &both[1], 1, &again, &err), &err);
    CHECK(again.len == once.len && memcmp(again.data, once.data, once.len) == 0);
    lk_buffer_deinit(&once);
    lk_buffer_deinit(&again);
    lk_operator_unref(op);
}

LK_TEST(test_union_of_sketches_is_the_sketch_of_the_union)
{
    static const uint64_t CUTS[] = {0, 1, 3, 60, 64, 65, 500, 512, 513, 4000, 20000};
    lk_operator *op = parse("hyperloglog:12");
    lk_error err;
    for (size_t i = 0; i < sizeof CUTS / sizeof *CUTS; i++) {
        for (size_t j = i + 1; j < sizeof CUTS / sizeof *CUTS; j++) {
            lk_buffer a = sketch_of(op, 0, CUTS[i] + 1), b = sketch_of(op, CUTS[i], CUTS[j]);
            lk_buffer whole = sketch_of(op, 0, CUTS[j]), joined = {NULL, 0, 0};
            lk_bytes rows[2] = {{a.data, a.len}, {b.data, b.len}};
            CHECK_OK(op->partial(op, rows, 2, &joined, &err), &err);
            CHECK(joined.len == whole.len && memcmp(joined.data, whole.data, whole.len) == 0);
            lk_buffer_deinit(&a);
            lk_buffer_deinit(&b);
            lk_buffer_deinit(&whole);
            lk_buffer_deinit(&joined);
        }
    }
    lk_operator_unref(op);
}

LK_TEST(test_sketch_grows_with_its_elements_up_to_a_byte_a_register)
{
    lk_operator *op = parse("hyperloglog:10");
    lk_buffer small = sketch_of(op, 0, 3), large = sketch_of(op, 0, 100000);
    CHECK_EQ(small.len, 16 + 3 * 4);
    CHECK_EQ(large.len, 16 + 1024);
    lk_buffer_deinit(&small);
    lk_buffer_deinit(&large);
    lk_operator_unref(op);
}

LK_TEST(test_bytes_that_only_look_like_a_sketch_are_an_element)
{
    lk_operator *op = parse("hyperloglog:10");
    lk_error err;
    lk_buffer sketch = sketch_of(op, 0, 100000);
    sketch.data[20] ^= 1;
    operands none = {.count = 0};
    (void)none;
    lk_bytes row = {sketch.data, sketch.len};
    lk_buffer out = {NULL, 0, 0};
    CHECK_OK(op->check(op, row, &err), &err);
    CHECK_OK(op->partial(op, &row, 1, &out, &err), &err);
    CHECK(fabs(estimate(&out) - 1) < 0.01);
    double ignored;
    CHECK_EQ(lk_hll_estimate(row, &ignored, &err), LK_INVALID);
    CHECK_EQ(op->full(op, &row, &row, 1, &out, &err), LK_CORRUPT); /* as a value it is damage */
    lk_buffer_deinit(&sketch);
    lk_buffer_deinit(&out);
    lk_operator_unref(op);
}

/* Whoever can make a checksum can make a sketch that is wrong. */
static void reseal(uint8_t *p, size_t len)
{
    lk_store64(p + 8, XXH3_64bits_withSeed(p + 16, len - 16, lk_load64(p)));
}

LK_TEST(test_forged_and_foreign_sketches_are_refused)
{
    lk_error err;
    lk_operator *op = parse("hyperloglog:10"), *other = parse("hyperloglog:11");
    uint64_t rng = lk_test_seed() | 1;
    lk_buffer dense = sketch_of(op, 0, 100000), sparse = sketch_of(op, 0, 50);
    lk_bytes row = {dense.data, dense.len};
    CHECK_EQ(other->check(other, row, &err), LK_INVALID);
    CHECK(strstr(err.message, "precision 10") != NULL);
    for (int i = 0; i < 20000; i++) {
        lk_buffer *from = i % 2 == 0 ? &dense : &sparse;
        lk_buffer copy = {NULL, 0, 0}, out = {NULL, 0, 0};
        size_t cut = next_random(&rng) % 8 == 0 ? next_random(&rng) % (from->len - 16) : 0;
        CHECK_OK(lk_buffer_append(&copy, from->data, from->len - cut, &err), &err);
        size_t at = next_random(&rng) % (i % 3 == 0 ? 8 : copy.len);
        copy.data[at] = (uint8_t)next_random(&rng);
        reseal(copy.data, copy.len);
        lk_bytes b = {copy.data, copy.len};
        double ignored;
        (void)lk_hll_estimate(b, &ignored, &err);
        if (op->check(op, b, &err) == LK_OK) {
            CHECK_OK(op->partial(op, &b, 1, &out, &err), &err);
        } else {
            CHECK_EQ(op->partial(op, &b, 1, &out, &err), LK_CORRUPT);
        }
        lk_buffer_deinit(&copy);
        lk_buffer_deinit(&out);
    }
    lk_buffer_deinit(&dense);
    lk_buffer_deinit(&sparse);
    lk_operator_unref(op);
    lk_operator_unref(other);
}

/* ---- all of them ---- */

static void random_operand(const lk_operator *op, uint64_t *rng, operands *o)
{
    uint8_t row[BYTES_MAX];
    for (size_t i = 0; i < BYTES_MAX; i++) row[i] = (uint8_t)next_random(rng);
    if (op->kind == LK_OPERATOR_ADD_FLOAT64) {
        double whole = (double)(next_random(rng) % 1000); /* sums of which are exact */
        memcpy(row, &whole, 8);
    }
    if (strcmp(op->text, READING) == 0) {
        for (size_t i = 8; i < 24; i += 8) {
            double number = (double)(int64_t)(next_random(rng) % 1000) - 500.0;
            memcpy(row + i, &number, 8);
        }
    }
    size_t len = op->width;
    if (len == 0) len = strcmp(op->text, "bit_or") == 0 ? 13 : 8 + next_random(rng) % 9;
    add(o, row, len);
}

LK_TEST(test_any_grouping_of_operands_gives_the_same_value)
{
    static const char *const TEXTS[] = {
        "add_int64", "add_float64", "max_int64", "min_int64",     "bit_or",
        "append",    "latest",      READING,     "hyperloglog:4", "hyperloglog:12",
    };
    uint64_t rng = lk_test_seed() | 1;
    for (int round = 0; round < 4000; round++) {
        lk_operator *op = parse(TEXTS[round % 10]);
        lk_error err;
        operands o = {.count = 0};
        size_t n = 2 + next_random(&rng) % 6;
        for (size_t i = 0; i < n; i++) random_operand(op, &rng, &o);
        lk_buffer flat = full(op, NULL, &o), grouped = {NULL, 0, 0}, part = {NULL, 0, 0};
        /* As flush and compaction might: the first so many over nothing, the rest in two parts. */
        size_t a = next_random(&rng) % n, b = a + next_random(&rng) % (n - a);
        lk_buffer base = {NULL, 0, 0};
        lk_bytes rest[2], old;
        size_t parts = 0, end_of_first = 0;
        if (a > 0) CHECK_OK(op->full(op, NULL, o.rows, a, &base, &err), &err);
        if (b > a) {
            CHECK_OK(op->partial(op, o.rows + a, b - a, &part, &err), &err);
            end_of_first = part.len;
            parts++;
        }
        CHECK_OK(op->partial(op, o.rows + b, n - b, &part, &err), &err);
        rest[0] = (lk_bytes){part.data, end_of_first};
        rest[parts++] = (lk_bytes){part.data + end_of_first, part.len - end_of_first};
        old = (lk_bytes){base.data, base.len};
        CHECK_OK(op->full(op, a > 0 ? &old : NULL, rest, parts, &grouped, &err), &err);
        CHECK(lk_bytes_equal(flat.data, flat.len, grouped.data, grouped.len));
        lk_buffer_deinit(&flat);
        lk_buffer_deinit(&grouped);
        lk_buffer_deinit(&part);
        lk_buffer_deinit(&base);
        lk_operator_unref(op);
    }
}

static int released;

static void count_release(void *context) { released += *(int *)context; }

static lk_status own_full(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands_,
                          size_t count, lk_buffer *out, lk_error *err)
{
    (void)op, (void)old;
    return lk_buffer_append(out, operands_[count - 1].data, operands_[count - 1].len, err);
}

LK_TEST(test_own_operator_is_released_with_its_last_reference)
{
    int one = 1;
    lk_error err;
    lk_operator *op;
    released = 0;
    CHECK_OK(lk_operator_new("custom:own", own_full, NULL, count_release, &one, &op, &err), &err);
    CHECK(op->calls_out && op->partial == NULL);
    lk_operator *second = lk_operator_ref(op);
    lk_operator_unref(op);
    CHECK_EQ(released, 0);
    lk_operator_unref(second);
    CHECK_EQ(released, 1);
}
