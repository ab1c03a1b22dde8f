/* segment_fixture.h: log segments built by hand, without files, for tests of what reads them.
 *
 * Include after harness.h.
 */
#ifndef LK_SEGMENT_FIXTURE_H
#define LK_SEGMENT_FIXTURE_H

#include "hash.h"
#include "segment.h"

/* Room for `records_max` records with `bytes_max` bytes of keys and values. */
static lk_segment *segment_new(uint64_t base_seq, uint32_t records_max, size_t bytes_max)
{
    lk_segment *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->env = lk_env_posix();
    s->base_seq = base_seq;
    s->memory_bytes = LK_SEGMENT_HEADER_BYTES + bytes_max + (size_t)records_max * 12 + 8;
    s->base = malloc(s->memory_bytes);
    lk_error err;
    CHECK(s->base != NULL);
    CHECK_OK(lk_index_init(&s->index, s->env, records_max + 1, records_max + 1, &err), &err);
    s->position = LK_SEGMENT_HEADER_BYTES;
    atomic_init(&s->refs, 1);
    lk_lock_init(&s->order_lock);
    return s;
}

/* Appends a record and publishes it. */
static void segment_add(lk_segment *s, uint32_t tree, lk_kind kind, lk_bytes key, lk_bytes value)
{
    uint64_t head = lk_record_head(tree, kind, key.len, value.len);
    uint8_t *p = s->base + s->position;
    CHECK(s->count < s->index.entry_max);
    CHECK(s->position + lk_record_bytes(tree, key.len, value.len) <= s->memory_bytes);
    lk_store64(p, head);
    p += LK_RECORD_HEADER_BYTES;
    if (tree != 0) {
        lk_store32(p, tree);
        p += 4;
    }
    if (key.len > 0) memcpy(p, key.data, key.len);
    p += key.len;
    if (value.len > 0) memcpy(p, value.data, value.len);
    lk_error err;
    CHECK_OK(lk_index_reserve(&s->index, 1, &err), &err);
    if (kind == LK_KIND_DELETE_RANGE) {
        lk_index_place(&s->index, s->count, s->position);
        lk_tomb_log_add(s, s->count);
    } else {
        lk_index_add(&s->index, lk_index_tag(lk_hash_key(tree, key.data, key.len)), s->count,
                     s->position);
    }
    s->position = (uint32_t)(p + value.len - s->base);
    s->count++;
    atomic_store_explicit(&s->indexed, s->count, memory_order_release);
    atomic_store_explicit(&s->published, s->count, memory_order_release);
}

LK_TEST_UNUSED static void segment_free(lk_segment *s)
{
    CHECK_EQ(atomic_load(&s->refs), 1);
    lk_order_unref(s->order);
    lk_order_unref(s->live);
    lk_tomb_log_clear(&s->tombs);
    lk_lock_deinit(&s->order_lock);
    lk_index_deinit(&s->index);
    free(s->base);
    free(s);
}

#endif
