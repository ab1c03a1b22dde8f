/* test_column_order.c: rows come in the order of their keys, each key once, by its last row.
 *
 * Method: random columns of every kind that makes the sort take another way, against qsort.
 */
#include "harness.h"

#include "column_order.h"

static const lk_bytes *compared; /* by qsort */

static int by_key(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    int c = lk_key_compare(compared[x].data, compared[x].len, compared[y].data, compared[y].len);
    return c != 0 ? c : (x > y) - (x < y);
}

static void check_spans(const lk_bytes *spans, uint32_t n)
{
    lk_column column = {.form = LK_COLUMN_SPANS, .count = n, .spans = spans};
    lk_column_order order;
    lk_error err;
    uint32_t *expected = malloc((n + 1) * sizeof *expected), count = 0;
    CHECK(expected != NULL);
    for (uint32_t i = 0; i < n; i++) expected[i] = i;
    compared = spans;
    qsort(expected, n, sizeof *expected, by_key);
    for (uint32_t i = 0; i < n; i++) {
        lk_bytes here = spans[expected[i]];
        bool again = i + 1 < n && lk_bytes_equal(here.data, here.len, spans[expected[i + 1]].data,
                                                 spans[expected[i + 1]].len);
        if (!again) expected[count++] = expected[i];
    }
    CHECK_OK(lk_column_order_make(&column, &order, &err), &err);
    CHECK_EQ(order.count, count);
    for (uint32_t i = 0; i < count; i++) CHECK_EQ(lk_column_order_row(&order, i), expected[i]);
    lk_column_order_free(&order);
    free(expected);
}

/* Keys of up to `tail` bytes of few values behind one of few stems, so that many are equal, many are
 * prefixes of others, and many differ late. */
static void check_random(uint64_t *rng, uint32_t n, uint32_t stem, uint32_t tail, uint32_t letters)
{
    uint8_t *bytes = malloc((size_t)n * (stem + tail) + 1);
    lk_bytes *spans = malloc((n + 1) * sizeof *spans);
    CHECK(bytes != NULL && spans != NULL);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *key = bytes + (size_t)i * (stem + tail);
        memset(key, (int)lk_test_below(rng, 2), stem);
        size_t len = stem + (tail == 0 ? 0 : lk_test_below(rng, tail + 1));
        for (size_t j = stem; j < len; j++) key[j] = (uint8_t)lk_test_below(rng, letters);
        spans[i] = (lk_bytes){key, len};
    }
    check_spans(spans, n);
    free(bytes);
    free(spans);
}

LK_TEST(order_is_that_of_a_stable_sort)
{
    uint64_t rng = lk_test_seed();
    const uint32_t counts[] = {0, 1, 2, 100, 1024, 1025, 5000, 20000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        check_random(&rng, counts[i], 0, 12, 256);
        check_random(&rng, counts[i], 0, 3, 3);
        check_random(&rng, counts[i], 20, 20, 2);
        check_random(&rng, counts[i], 7, 0, 1);
        check_random(&rng, counts[i], 9, 9, 256);
    }
}

LK_TEST(keys_that_ascend_need_no_list)
{
    uint64_t numbers[1000];
    lk_column column = {.form = LK_COLUMN_INTEGER,
                        .width = 8,
                        .stride = 8,
                        .count = 1000,
                        .flip = UINT64_C(1) << 63,
                        .data = (const uint8_t *)numbers};
    lk_column_order order;
    lk_error err;
    for (int i = 0; i < 1000; i++) numbers[i] = (uint64_t)(i - 500);
    CHECK_OK(lk_column_order_make(&column, &order, &err), &err);
    CHECK(order.rows == NULL && order.count == 1000);
    numbers[999] = numbers[998];
    CHECK_OK(lk_column_order_make(&column, &order, &err), &err);
    CHECK(order.rows != NULL && order.count == 999);
    CHECK_EQ(lk_column_order_row(&order, 998), 999);
    lk_column_order_free(&order);
}

LK_TEST(long_keys_that_differ_at_their_end_are_sorted)
{
    enum { N = 3000, LEN = 5000 };
    static uint8_t bytes[N][LEN];
    static lk_bytes spans[N];
    uint64_t rng = lk_test_seed();
    memset(bytes, 'x', sizeof bytes);
    for (int i = 0; i < N; i++) {
        /* Each shares another long part with the others. */
        size_t at = (size_t)lk_test_below(&rng, LEN);
        bytes[i][at] = (uint8_t)lk_test_below(&rng, 256);
        spans[i] = (lk_bytes){bytes[i], LEN - lk_test_below(&rng, 3)};
    }
    check_spans(spans, N);
}
