/* top.c: see top.h.
 *
 * Records of segments are counted in buckets by the hash of their key first. A key has at most the
 * count of its bucket, so only the keys of the fullest buckets are then counted one by one.
 */
#include "top.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

#define BUCKET_BITS 20u
#define FULL_MAX 512u   /* buckets whose keys are counted one by one */
#define HEIGHTS 65536u  /* buckets that are fuller count as so full */
#define SLOTS_MIN 1024u /* a power of two */
#define CAPACITY_FIRST 16u

lk_top *lk_top_new(uint32_t tree)
{
    lk_top *top = calloc(1, sizeof *top);
    if (top != NULL) top->tree = tree;
    return top;
}

void lk_top_free_list(lk_top *list)
{
    while (list != NULL) {
        lk_top *next = list->next;
        for (uint32_t i = 0; i < list->count; i++) free(list->keys[i].key);
        free(list->keys);
        free(list);
        list = next;
    }
}

/* ---- the heap ---- */

static void sink(lk_top *top, uint32_t at)
{
    lk_top_key moved = top->keys[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= top->count) break;
        if (child + 1 < top->count && top->keys[child + 1].count < top->keys[child].count) child++;
        if (top->keys[child].count >= moved.count) break;
        top->keys[at] = top->keys[child];
        at = child;
    }
    top->keys[at] = moved;
}

static void rise(lk_top *top, uint32_t at)
{
    lk_top_key moved = top->keys[at];
    while (at > 0 && top->keys[(at - 1) / 2].count > moved.count) {
        top->keys[at] = top->keys[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    top->keys[at] = moved;
}

static bool grow(lk_top *top)
{
    if (top->count < top->capacity) return true;
    uint32_t capacity = top->capacity == 0 ? CAPACITY_FIRST : 2 * top->capacity;
    lk_top_key *keys = realloc(top->keys, capacity * sizeof *keys);
    if (keys == NULL) return false;
    top->keys = keys;
    top->capacity = capacity;
    return true;
}

static void passed_over(lk_top *top, uint64_t count)
{
    if (count > top->rest) top->rest = count;
}

void lk_top_take(lk_top *top, const uint8_t *key, uint32_t key_len, uint64_t count)
{
    uint8_t *copy = malloc((size_t)key_len + 1);
    bool is_full = top->count == LK_TOP_KEYS_MAX;
    if (copy == NULL || (!is_full && !grow(top))) {
        free(copy);
        passed_over(top, count);
        return;
    }
    if (key_len > 0) memcpy(copy, key, key_len);
    lk_top_key fresh = {.key = copy, .key_len = key_len, .count = count};
    if (is_full) {
        passed_over(top, top->keys[0].count);
        free(top->keys[0].key);
        top->keys[0] = fresh;
        sink(top, 0);
    } else {
        top->keys[top->count++] = fresh;
        rise(top, top->count - 1);
    }
    if (top->count == LK_TOP_KEYS_MAX) top->bar = top->keys[0].count;
}

/* ---- counting segments ---- */

typedef struct slot {
    uint64_t hash, count; /* count 0: empty */
    const uint8_t *key;
    uint32_t key_len;
} slot;

typedef struct counting {
    uint32_t *buckets;
    slot *slots;
    uint32_t slot_count, used; /* slot_count: a power of two */
    uint32_t least;            /* of a bucket whose keys are counted */
} counting;

/* The lowest count that at most FULL_MAX buckets reach. */
static lk_status least_find(counting *c, lk_error *err)
{
    uint32_t *heights = calloc(HEIGHTS, sizeof *heights), above = 0, h;
    if (heights == NULL) return lk_fail_nomem(err, HEIGHTS * sizeof *heights);
    for (size_t i = 0; i < (size_t)1 << BUCKET_BITS; i++) {
        heights[c->buckets[i] < HEIGHTS ? c->buckets[i] : HEIGHTS - 1]++;
    }
    for (h = HEIGHTS - 1; h > 0 && above + heights[h] <= FULL_MAX; h--) above += heights[h];
    c->least = h + 1;
    free(heights);
    return LK_OK;
}

static slot *slot_of(const counting *c, uint64_t hash, const uint8_t *key, uint32_t key_len)
{
    for (uint32_t i = (uint32_t)hash;; i++) {
        slot *s = &c->slots[i & (c->slot_count - 1)];
        if (s->count == 0) return s;
        if (s->hash == hash && lk_bytes_equal(s->key, s->key_len, key, key_len)) return s;
    }
}

static lk_status slots_grow(counting *c, lk_error *err)
{
    counting larger = *c;
    larger.slot_count = c->slot_count == 0 ? SLOTS_MIN : 2 * c->slot_count;
    larger.slots = calloc(larger.slot_count, sizeof *larger.slots);
    if (larger.slots == NULL) return lk_fail_nomem(err, larger.slot_count * sizeof *larger.slots);
    for (uint32_t i = 0; i < c->slot_count; i++) {
        const slot *old = &c->slots[i];
        if (old->count > 0) *slot_of(&larger, old->hash, old->key, old->key_len) = *old;
    }
    free(c->slots);
    *c = larger;
    return LK_OK;
}

static lk_status key_count(counting *c, const lk_record *r, uint64_t hash, lk_error *err)
{
    if (2 * c->used >= c->slot_count) {
        lk_status st = slots_grow(c, err);
        if (st != LK_OK) return st;
    }
    slot *s = slot_of(c, hash, r->key, r->key_len);
    if (s->count == 0) {
        *s = (slot){.hash = hash, .key = r->key, .key_len = r->key_len};
        c->used++;
    }
    s->count++;
    return LK_OK;
}

static lk_status segment_walk(counting *c, uint32_t tree, const lk_segment *s, uint32_t visible,
                              bool by_key, lk_error *err)
{
    for (uint32_t i = 0; i < visible; i++) {
        lk_record r = lk_segment_record(s, i);
        if (r.tree != tree || r.kind == LK_KIND_DELETE_RANGE) continue;
        uint64_t hash = lk_hash_key(tree, r.key, r.key_len);
        uint32_t *bucket = &c->buckets[hash >> (64 - BUCKET_BITS)];
        if (!by_key) {
            ++*bucket;
        } else if (*bucket >= c->least) {
            lk_status st = key_count(c, &r, hash, err);
            if (st != LK_OK) return st;
        }
    }
    return LK_OK;
}

lk_status lk_top_count(lk_top *top, lk_segment *const *segments, const uint32_t *visible,
                       uint32_t count, lk_error *err)
{
    lk_status st = LK_OK;
    counting c = {.least = 0};
    uint64_t counted = 0;
    c.buckets = calloc((size_t)1 << BUCKET_BITS, sizeof *c.buckets);
    if (c.buckets == NULL) return lk_fail_nomem(err, (size_t)4 << BUCKET_BITS);
    for (uint32_t i = 0; i < count; i++) {
        LK_TRY(segment_walk(&c, top->tree, segments[i], visible[i], false, err));
    }
    LK_TRY(least_find(&c, err));
    for (uint32_t i = 0; i < count; i++) {
        LK_TRY(segment_walk(&c, top->tree, segments[i], visible[i], true, err));
    }
    for (uint32_t i = 0; i < c.slot_count; i++) {
        const slot *s = &c.slots[i];
        counted += s->count;
        if (s->count > 0) lk_top_add(top, s->key, s->key_len, s->count);
    }
    for (size_t i = 0; i < (size_t)1 << BUCKET_BITS; i++) {
        if (c.buckets[i] >= c.least) continue;
        counted += c.buckets[i];
        passed_over(top, c.buckets[i]);
        top->total += c.buckets[i];
    }
    LK_ASSERT(counted == top->total);
done:
    free(c.slots);
    free(c.buckets);
    return st;
}
