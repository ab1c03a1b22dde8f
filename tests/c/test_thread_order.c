/* test_thread_order.c: scans that ask for a segment's order while it is being written get one that
 * covers what they may see, and none disturbs another. */
#include "harness.h"

#include "order.h"
#include "segment_fixture.h"

enum { RECORDS = 20000, READERS = 3, TREE = 5 };

typedef struct reader {
    pthread_t thread;
    lk_segment *segment;
    uint32_t orders;
} reader;

/* Every visible record is in it once, and each run ascends. */
static void check_visible(const lk_segment *s, const lk_order *o, uint32_t visible)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < o->run_count; i++) {
        const lk_order_run *run = o->runs[i];
        for (uint32_t j = 0; j < run->count; j++) {
            seen += run->items[j].ordinal < visible;
            if (j == 0) continue;
            lk_record a = lk_segment_record(s, run->items[j - 1].ordinal);
            lk_record b = lk_segment_record(s, run->items[j].ordinal);
            int c = lk_key_compare(a.key, a.key_len, b.key, b.key_len);
            CHECK(c < 0 || (c == 0 && run->items[j - 1].ordinal > run->items[j].ordinal));
        }
    }
    CHECK_EQ(seen, visible);
}

static void *read_orders(void *arg)
{
    reader *r = arg;
    uint32_t visible = 0;
    while (visible < RECORDS) {
        lk_order *o;
        lk_error err;
        visible = lk_segment_visible(r->segment, RECORDS);
        CHECK_OK(lk_segment_order(r->segment, visible, false, &o, &err), &err);
        CHECK(o->covered >= visible);
        check_visible(r->segment, o, visible);
        lk_order_unref(o);
        r->orders++;
    }
    return NULL;
}

LK_TEST(orders_are_whole_while_records_come)
{
    uint64_t rng = lk_test_seed();
    lk_segment *s = segment_new(1, RECORDS, RECORDS * 16);
    reader readers[READERS];
    for (int i = 0; i < READERS; i++) {
        readers[i] = (reader){.segment = s};
        CHECK_EQ(pthread_create(&readers[i].thread, NULL, read_orders, &readers[i]), 0);
    }
    for (uint32_t i = 0; i < RECORDS; i++) {
        uint8_t key[8];
        lk_store64(key, lk_test_rand(&rng) % 5000 * UINT64_C(0x9E3779B97F4A7C15));
        segment_add(s, TREE, LK_KIND_PUT, (lk_bytes){key, 8}, (lk_bytes){key, 4});
        if (i % 64 == 0) sched_yield();
    }
    for (int i = 0; i < READERS; i++) {
        CHECK_EQ(pthread_join(readers[i].thread, NULL), 0);
        CHECK(readers[i].orders > 0);
    }
    segment_free(s);
}
