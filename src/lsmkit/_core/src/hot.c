/* hot.c: see hot.h. */
#include "hot.h"

#include <stdlib.h>

#include "store.h"

void lk_hot_init(lk_hot *h) { lk_lock_init(&h->lock); }

static void oldest_drop(lk_hot *h)
{
    lk_top_free_list(h->flushes[0].tops);
    memmove(h->flushes, h->flushes + 1, --h->count * sizeof *h->flushes);
}

void lk_hot_deinit(lk_hot *h)
{
    while (h->count > 0) oldest_drop(h);
    lk_lock_deinit(&h->lock);
}

void lk_hot_add(lk_hot *h, const lk_hot_flush *flush, uint64_t bytes_max)
{
    lk_lock_acquire(&h->lock);
    while (h->count > 0 && h->flushes[h->count - 1].generation >= flush->first) {
        lk_top_free_list(h->flushes[--h->count].tops); /* that one was not published */
    }
    uint64_t newer = flush->bytes;
    for (uint32_t i = 0; i < h->count; i++) newer += h->flushes[i].bytes;
    while (h->count > 0) {
        newer -= h->flushes[0].bytes;
        if (newer < bytes_max && h->count < LK_HOT_FLUSHES_MAX) break;
        oldest_drop(h);
    }
    h->flushes[h->count++] = *flush;
    lk_lock_release(&h->lock);
}

/* ---- summing up ---- */

/* What is known of the keys that some top has. */
typedef struct sum {
    lk_hot_key *keys; /* `error`: of its counts alone, what the others may add is in `rest` */
    size_t count, capacity;
    uint64_t total, rest;
} sum;

static lk_status top_sum(sum *x, const lk_top *top, lk_error *err)
{
    if (x->count + top->count > x->capacity) {
        size_t capacity = 2 * (x->count + top->count);
        lk_hot_key *keys = realloc(x->keys, capacity * sizeof *keys);
        if (keys == NULL) return lk_fail_nomem(err, capacity * sizeof *keys);
        x->keys = keys;
        x->capacity = capacity;
    }
    for (uint32_t i = 0; i < top->count; i++) {
        const lk_top_key *k = &top->keys[i];
        uint8_t *copy = malloc((size_t)k->key_len + 1);
        if (copy == NULL) return lk_fail_nomem(err, k->key_len);
        if (k->key_len > 0) memcpy(copy, k->key, k->key_len);
        /* As if every top lacked it: this one does not. */
        x->keys[x->count++] =
            (lk_hot_key){.key = copy, .key_len = k->key_len, .count = k->count, .error = top->rest};
    }
    x->total += top->total;
    x->rest += top->rest;
    return LK_OK;
}

static int by_key(const void *a, const void *b)
{
    const lk_hot_key *x = a, *y = b;
    return lk_key_compare(x->key, x->key_len, y->key, y->key_len);
}

static int by_count(const void *a, const void *b)
{
    const lk_hot_key *x = a, *y = b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return by_key(a, b);
}

/* Each key once, with what tops that lack it may have of it. */
static void keys_join(sum *x)
{
    size_t kept = 0;
    if (x->count == 0) return;
    qsort(x->keys, x->count, sizeof *x->keys, by_key);
    for (size_t i = 0; i < x->count; kept++) {
        lk_hot_key joined = x->keys[i];
        for (i++; i < x->count && by_key(&joined, &x->keys[i]) == 0; i++) {
            joined.count += x->keys[i].count;
            joined.error += x->keys[i].error;
            free(x->keys[i].key);
        }
        joined.error = x->rest - joined.error;
        joined.count += joined.error;
        x->keys[kept] = joined;
    }
    x->count = kept;
    qsort(x->keys, x->count, sizeof *x->keys, by_count);
}

/* Of flushes whose segments the view has not. */
static lk_status flushes_sum(lk_hot *h, uint32_t tree, const lk_view *v, sum *x, lk_error *err)
{
    lk_status st = LK_OK;
    uint32_t n = v->segment_count;
    uint64_t live = n > 0 ? v->segments[n - 1]->generation : UINT64_MAX;
    lk_lock_acquire(&h->lock);
    for (uint32_t i = 0; i < h->count && h->flushes[i].generation < live; i++) {
        for (const lk_top *t = h->flushes[i].tops; t != NULL && st == LK_OK; t = t->next) {
            if (t->tree == tree) st = top_sum(x, t, err);
        }
    }
    lk_lock_release(&h->lock);
    return st;
}

static lk_status live_sum(const lk_view *v, uint32_t tree, sum *x, lk_error *err)
{
    lk_status st = LK_OK;
    lk_top *top = lk_top_new(tree);
    uint32_t *visible = malloc((v->segment_count + (size_t)1) * sizeof *visible);
    if (top == NULL || visible == NULL) {
        st = lk_fail_nomem(err, sizeof *top);
        goto done;
    }
    for (uint32_t i = 0; i < v->segment_count; i++) {
        visible[i] = lk_segment_visible(v->segments[i], LK_SEQ_MAX);
    }
    LK_TRY(lk_top_count(top, v->segments, visible, v->segment_count, err));
    LK_TRY(top_sum(x, top, err));
done:
    free(visible);
    lk_top_free_list(top);
    return st;
}

lk_status lk_store_hot_keys(lk_store *s, uint32_t tree, size_t n, lk_hot_key **out,
                            size_t *out_count, uint64_t *out_total, lk_error *err)
{
    lk_status st = LK_OK;
    sum x = {.keys = NULL};
    lk_view *v = lk_store_view(s);
    *out = NULL;
    *out_count = 0;
    *out_total = 0;
    LK_TRY(lk_view_prove(v, err));
    LK_TRY(flushes_sum(&s->hot, tree, v, &x, err));
    LK_TRY(live_sum(v, tree, &x, err));
    keys_join(&x);
    while (x.count > n) free(x.keys[--x.count].key);
    *out = x.keys;
    *out_count = x.count;
    *out_total = x.total;
    x.keys = NULL;
    x.count = 0;
done:
    lk_hot_keys_free(x.keys, x.count);
    lk_view_unref(v);
    return st;
}

void lk_hot_keys_free(lk_hot_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) free(keys[i].key);
    free(keys);
}
