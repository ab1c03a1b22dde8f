/* What is logged for a column of operands: each key once, in the order of its first operand, with
 * the operand that stands for all of its own; against one full() a key. */
#include "harness.h"

#include "combine.h"

enum { ROWS_MAX = 20000 };

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
    return op;
}

static lk_column fixed(const void *data, uint32_t width, size_t count)
{
    return (lk_column){
        .form = LK_COLUMN_FIXED, .width = width, .stride = width, .count = count, .data = data};
}

static lk_column spans(const lk_bytes *rows, size_t count)
{
    return (lk_column){.form = LK_COLUMN_SPANS, .count = count, .spans = rows};
}

/* What the rows of `keys` equal to `key` make together. */
static void check_key(const lk_operator *op, const lk_column *keys, const lk_column *operands,
                      lk_bytes key, lk_bytes sum, size_t *out_first)
{
    static lk_bytes rows[ROWS_MAX];
    lk_error err;
    size_t n = 0;
    uint8_t key_scratch[8], operand_scratch[8];
    *out_first = keys->count;
    for (size_t i = 0; i < keys->count; i++) {
        lk_bytes k = lk_column_row(keys, i, key_scratch);
        if (!lk_bytes_equal(k.data, k.len, key.data, key.len)) continue;
        if (n == 0) *out_first = i;
        rows[n++] = lk_column_row(operands, i, operand_scratch);
    }
    CHECK(n > 0);
    lk_buffer out = {NULL, 0, 0};
    if (n == 1) {
        CHECK(lk_bytes_equal(rows[0].data, rows[0].len, sum.data, sum.len));
    } else {
        CHECK_OK(op->partial(op, rows, n, &out, &err), &err);
        CHECK(lk_bytes_equal(out.data, out.len, sum.data, sum.len));
    }
    lk_buffer_deinit(&out);
}

static void check_combined(const lk_operator *op, const lk_column *keys, const lk_column *operands,
                           size_t unique)
{
    lk_error err;
    lk_combined c;
    size_t before = 0;
    CHECK_OK(lk_combine_check(op, operands, &err), &err);
    CHECK_OK(lk_combine(op, keys, operands, &c, &err), &err);
    CHECK_EQ(c.keys.count, unique);
    CHECK_EQ(c.operands.count, unique);
    for (size_t i = 0; i < unique; i++) {
        size_t first;
        check_key(op, keys, operands, c.spans[i], c.spans[unique + i], &first);
        CHECK(i == 0 || first > before);
        before = first;
    }
    lk_combined_deinit(&c);
}

LK_TEST(test_words_of_equal_keys_become_one)
{
    static const char *const TEXTS[] = {"add_int64", "add_float64", "max_int64", "min_int64"};
    static const size_t KEYS[] = {1, 3, 40, 500, 5000}; /* the table grows for the last */
    static uint64_t keys[ROWS_MAX], words[ROWS_MAX];
    uint64_t rng = lk_test_seed() | 1;
    for (size_t t = 0; t < 4; t++) {
        for (size_t k = 0; k < 5; k++) {
            size_t n = KEYS[k] + 1000;
            lk_operator *op = parse(TEXTS[t]);
            for (size_t i = 0; i < n; i++) {
                /* Each key at least once. */
                keys[i] = i < KEYS[k] ? i : next_random(&rng) % KEYS[k];
                double number = (double)(next_random(&rng) % 1000);
                words[i] = next_random(&rng);
                if (op->kind == LK_OPERATOR_ADD_FLOAT64) memcpy(&words[i], &number, 8);
            }
            lk_column key_column = fixed(keys, 8, n), operands = fixed(words, 8, n);
            check_combined(op, &key_column, &operands, KEYS[k]);
            lk_operator_unref(op);
        }
    }
}

LK_TEST(test_pieces_make_what_the_whole_makes)
{
    enum { ROWS = 7000, KEYS = 3000 };
    static uint64_t keys[ROWS], words[ROWS];
    static lk_bytes key_rows[ROWS], word_rows[ROWS];
    uint64_t rng = lk_test_seed() | 1;
    lk_error err;
    lk_operator *op = parse("add_int64");
    for (size_t i = 0; i < ROWS; i++) {
        keys[i] = next_random(&rng) % KEYS;
        words[i] = next_random(&rng);
        key_rows[i] = (lk_bytes){(const uint8_t *)&keys[i], i % 5 == 0 ? 0 : 8};
        word_rows[i] = (lk_bytes){(const uint8_t *)&words[i], 8};
    }
    lk_column key_column = spans(key_rows, ROWS), operands = spans(word_rows, ROWS);
    lk_combined whole, pieces;
    lk_combiner *c;
    CHECK_OK(lk_combine(op, &key_column, &operands, &whole, &err), &err);
    CHECK_OK(lk_combiner_new(op, &c, &err), &err);
    for (size_t at = 0; at < ROWS;) {
        size_t n = 1 + next_random(&rng) % 900;
        if (n > ROWS - at) n = ROWS - at;
        lk_column some_keys = spans(key_rows + at, n), some = spans(word_rows + at, n);
        CHECK_OK(lk_combiner_add(c, &some_keys, &some, &err), &err);
        at += n;
    }
    CHECK_OK(lk_combiner_end(c, &pieces, &err), &err);
    lk_combiner_free(c);
    CHECK_EQ(pieces.keys.count, whole.keys.count);
    for (size_t i = 0; i < 2 * whole.keys.count; i++) {
        lk_bytes a = pieces.spans[i], b = whole.spans[i];
        CHECK(lk_bytes_equal(a.data, a.len, b.data, b.len));
    }
    /* What the keys were taken from may change now. */
    CHECK(pieces.spans[1].data != whole.spans[1].data);
    lk_combined_deinit(&pieces);
    lk_combined_deinit(&whole);
    lk_operator_unref(op);
}

LK_TEST(test_keys_in_every_form_are_told_apart)
{
    lk_error err;
    static const int64_t NUMBERS[] = {5, -1, 5, 7, -1, 5};
    static const uint64_t ONES[] = {1, 1, 1, 1, 1, 1};
    lk_operator *op = parse("add_int64");
    lk_column operands = fixed(ONES, 8, 6);
    lk_column turned = fixed(NUMBERS, 8, 6);
    turned.form = LK_COLUMN_INTEGER;
    turned.flip = (uint64_t)1 << 63;
    check_combined(op, &turned, &operands, 3);
    lk_combined c;
    CHECK_OK(lk_combine(op, &turned, &operands, &c, &err), &err);
    CHECK(memcmp(c.spans[0].data, "\x80\0\0\0\0\0\0\5", 8) == 0);
    lk_combined_deinit(&c);
    lk_column stripped = fixed("a\0\0ab\0a\0\0abcab\0\0\0\0", 3, 6);
    stripped.form = LK_COLUMN_STRIPPED;
    check_combined(op, &stripped, &operands, 4);
    static const int32_t OFFSETS[] = {0, 0, 2, 4, 4, 5, 8};
    lk_column offsets = {.form = LK_COLUMN_OFFSET32,
                         .count = 6,
                         .data = (const uint8_t *)"ababcabc",
                         .offsets = OFFSETS};
    check_combined(op, &offsets, &operands, 4);
    lk_operator_unref(op);
}

LK_TEST(test_lists_of_operands_are_folded_in_order)
{
    static const char *const TEXTS[] = {"append", "latest", "hyperloglog:8", "bit_or",
                                        "struct:8:a,add,i4,0,1;b,last,u4,4,1"};
    static uint64_t keys[ROWS_MAX];
    static uint8_t bytes[ROWS_MAX][16];
    static lk_bytes rows[ROWS_MAX];
    uint64_t rng = lk_test_seed() | 1;
    for (size_t t = 0; t < 5; t++) {
        lk_operator *op = parse(TEXTS[t]);
        bool varies = t < 3;
        for (size_t i = 0; i < 3000; i++) {
            keys[i] = i < 200 ? i : next_random(&rng) % 200;
            for (size_t j = 0; j < 16; j++) bytes[i][j] = (uint8_t)next_random(&rng);
            rows[i] = (lk_bytes){bytes[i], varies ? 8 + next_random(&rng) % 9 : 8};
        }
        lk_column key_column = fixed(keys, 8, 3000), operands = spans(rows, 3000);
        check_combined(op, &key_column, &operands, 200);
        lk_operator_unref(op);
    }
}

LK_TEST(test_operand_that_is_refused_is_named)
{
    lk_error err;
    lk_operator *op = parse("add_int64");
    const uint8_t word[9] = {0};
    const lk_bytes rows[3] = {{word, 8}, {word, 8}, {word, 9}};
    lk_column operands = spans(rows, 3);
    CHECK_EQ(lk_combine_check(op, &operands, &err), LK_INVALID);
    CHECK(strstr(err.message, "operands[2]") != NULL && strstr(err.message, "9 bytes") != NULL);
    lk_column narrow = fixed(word, 4, 2);
    CHECK_EQ(lk_combine_check(op, &narrow, &err), LK_INVALID);
    CHECK(strstr(err.message, "operands[0]") != NULL);
    lk_operator_unref(op);
}

LK_TEST(test_operands_that_do_not_fit_each_other_are_refused)
{
    lk_error err;
    lk_combined c;
    lk_operator *op = parse("bit_or");
    const lk_bytes rows[3] = {
        {(const uint8_t *)"ab", 2}, {(const uint8_t *)"abc", 3}, {(const uint8_t *)"cd", 2}};
    lk_column operands = spans(rows, 3);
    lk_column apart = fixed("kml", 1, 3), same = fixed("kmm", 1, 3);
    CHECK_OK(lk_combine(op, &apart, &operands, &c, &err), &err);
    lk_combined_deinit(&c);
    CHECK_EQ(lk_combine(op, &same, &operands, &c, &err), LK_INVALID);
    CHECK(c.spans == NULL && c.entries == NULL && c.made.data == NULL);
    lk_operator_unref(op);
}
